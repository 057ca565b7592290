"""Untrusted files give a correct result or an explained error; see fuzz.py."""

import pathlib
import subprocess
import sys

import pytest

FUZZ = pathlib.Path(__file__).with_name("fuzz.py")


def run(*options):
    done = subprocess.run([sys.executable, FUZZ, "--seconds", "60", *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow("changes hundreds of files of every format")
def test_cases_that_failed_once():
    """Changed files that once caused a crash, a hang or a wrong result are refused or read correctly."""
    assert "failed" not in run("--kept")


@pytest.mark.slow("changes hundreds of files of every format")
def test_changed_files_of_every_format():
    """Two minutes of changed files of every format cause no traceback, crash or wrong result, within 4 GB."""
    counts = run("--minutes", "2", "--seed", "1000000")
    assert int(counts.split(" refused")[0].split()[-1].replace(",", "")) > 1000
