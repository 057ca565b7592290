"""Files of strangers end in a right result or in an error that explains itself; see fuzz.py."""

import pathlib
import subprocess
import sys

import pytest

FUZZ = pathlib.Path(__file__).with_name("fuzz.py")


def run(*options):
    done = subprocess.run([sys.executable, FUZZ, "--seconds", "60", *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_cases_that_failed_once():
    """Every change of a file that once ended in a crash, a hang or a wrong result is refused or read right."""
    assert "failed" not in run("--kept")


@pytest.mark.slow
def test_changed_files_of_every_format():
    """Two minutes of changed files of every format: no traceback, no crash, no wrong result, at most 4 GB."""
    counts = run("--minutes", "2", "--seed", "1000000")
    assert int(counts.split(" refused")[0].split()[-1].replace(",", "")) > 1000
