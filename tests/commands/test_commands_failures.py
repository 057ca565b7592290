"""Errors of commands: advice for mistakes, a traceback for bugs."""

import dataclasses
import errno
import os
import subprocess
import sys

import pytest

from compressed_lm import cli
from compressed_lm.commands import failures, verify

VERIFY = ["verify", __file__, "--codec=bytes"]


def fails_with(error, monkeypatch):
    """Runs a command that raises an error; returns the status."""

    def fail(arguments):
        raise error

    monkeypatch.setattr(verify, "COMMAND", dataclasses.replace(verify.COMMAND, run=fail))
    return cli.main(VERIFY)


@pytest.mark.parametrize(
    "number, advice",
    [
        (errno.ENOENT, "Check the path"),
        (errno.ENOTDIR, "a file where a folder is needed"),
        (errno.EISDIR, "A file is needed"),
        (errno.EACCES, "change its permissions"),
        (errno.EROFS, "can be written"),
        (errno.ENAMETOOLONG, "shorter path"),
        (errno.ENOSPC, "Free space on that disk.*run the same command again"),
        (errno.EIO, "run the same command again"),
    ],
)
def test_system_errors_end_in_advice_that_helps(number, advice, monkeypatch, capsys):
    """`run the same command again` is advised only if that helps: not for a wrong path or missing permissions."""
    assert fails_with(OSError(number, os.strerror(number), "some/file"), monkeypatch) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {os.strerror(number)} (some/file). ") and said.count("\n") == 1
    assert ("run the same command again" in said) == ("run the same command again" in advice)
    assert all(part in said for part in advice.split(".*"))


def test_a_bug_keeps_its_traceback_and_says_how_to_report_it(monkeypatch):
    """An error that is not caused by input keeps its traceback, with a note on how to report it."""
    with pytest.raises(ZeroDivisionError) as caught:
        fails_with(ZeroDivisionError("division by zero"), monkeypatch)
    assert caught.value.__notes__ == [failures.REPORT] and "doctor" in failures.REPORT
    with pytest.raises(ValueError, match="plain"):
        fails_with(ValueError("a plain error of some library"), monkeypatch)


def test_ctrl_c_and_a_full_memory_are_one_line(monkeypatch, capsys):
    """Ctrl-C ends in status 130; an out-of-memory error names the settings that need less memory."""
    assert fails_with(KeyboardInterrupt(), monkeypatch) == 130
    assert capsys.readouterr().err.count("\n") == 1
    assert fails_with(MemoryError("Unable to allocate 9 TiB"), monkeypatch) == 2
    assert "Unable to allocate 9 TiB" in (said := capsys.readouterr().err) and "batch_size" in said
    assert fails_with(RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"), monkeypatch) == 2
    assert "micro_batches" in capsys.readouterr().err


@pytest.mark.slow("starts JAX in new processes")
@pytest.mark.parametrize("platform", ["tpu", "cuda", "bogus"])
def test_a_platform_that_is_not_there_is_named(platform):
    """A JAX_PLATFORMS that this machine lacks ends in one paragraph with the available platforms and advice."""
    code = "from compressed_lm.cli import main; raise SystemExit(main(['doctor']))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"JAX_PLATFORMS": platform}, capture_output=True, text=True
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and f"JAX_PLATFORMS={platform} was given" in errors[0] and "on cpu" in errors[0]


def test_a_misspelt_command_is_refused_with_the_likely_one(capsys):
    """An unknown command ends with status 2 and names the command that was probably meant."""
    for given, meant in (("trian", "train"), ("quantise", "quantize"), ("cram_study", "cram-study")):
        with pytest.raises(SystemExit) as stopped:
            cli.main([given])
        assert stopped.value.code == 2 and f"Did you mean {meant}?" in capsys.readouterr().err
