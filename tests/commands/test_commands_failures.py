"""What the command line says when something fails: advice for mistakes, a traceback for bugs."""

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
    """Makes a command end in an error."""

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
    """`run the same command again` is said only where that helps: not of a wrong path, of rights or of a folder."""
    assert fails_with(OSError(number, os.strerror(number), "some/file"), monkeypatch) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {os.strerror(number)} (some/file). ") and said.count("\n") == 1
    assert ("run the same command again" in said) == ("run the same command again" in advice)
    assert all(part in said for part in advice.split(".*"))


def test_a_bug_keeps_its_traceback_and_says_how_to_report_it(monkeypatch):
    """An error that no input explains is raised, with a note on what to send."""
    with pytest.raises(ZeroDivisionError) as caught:
        fails_with(ZeroDivisionError("division by zero"), monkeypatch)
    assert caught.value.__notes__ == [failures.REPORT] and "doctor" in failures.REPORT
    with pytest.raises(ValueError, match="plain"):
        fails_with(ValueError("a plain error of some library"), monkeypatch)


def test_ctrl_c_and_a_full_memory_are_one_line(monkeypatch, capsys):
    """Ctrl-C ends in status 130; out of memory says which settings take less."""
    assert fails_with(KeyboardInterrupt(), monkeypatch) == 130
    assert capsys.readouterr().err.count("\n") == 1
    assert fails_with(MemoryError("Unable to allocate 9 TiB"), monkeypatch) == 2
    assert "Unable to allocate 9 TiB" in (said := capsys.readouterr().err) and "batch_size" in said
    assert fails_with(RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"), monkeypatch) == 2
    assert "micro_batches" in capsys.readouterr().err


@pytest.mark.parametrize("platform", ["tpu", "cuda", "bogus"])
def test_a_platform_that_is_not_there_is_named(platform):
    """JAX_PLATFORMS of a platform that is not on this machine ends in one paragraph: what was asked for, what there is
    and what to do."""
    code = "from compressed_lm.cli import main; raise SystemExit(main(['doctor']))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"JAX_PLATFORMS": platform}, capture_output=True, text=True
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and f"JAX_PLATFORMS={platform} was given" in errors[0] and "on cpu" in errors[0]
