"""The test suite itself: how it is divided, and that SIGTERM ends it."""

import pathlib
import subprocess
import sys

import pytest

TESTS = pathlib.Path(__file__).parent
SAMPLE = """
import pytest

@pytest.mark.thinned(2, "shows it")
@pytest.mark.parametrize("case", range(6))
def test_cases(case): pass

@pytest.mark.slow("shows it")
def test_slow(): pass
"""
STOPPED = """
import pathlib

def test_trains(): raise SystemExit(143)

def test_after(): pathlib.Path("reached").touch()
"""


def suite(folder, source, *options):
    """Runs the tests of a source text under the configuration of this suite, without its folder."""
    (folder / "conftest.py").write_text((TESTS / "conftest.py").read_text())
    (folder / "object_stores.py").write_text((TESTS / "object_stores.py").read_text())
    (folder / "test_sample.py").write_text(source)
    markers = "-omarkers=slow(reason)\nthinned(n, reason)"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--rootdir={folder}", markers, *options, "."]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.slow("starts pytest in new processes")
def test_thinned_cases_and_slow_tests_are_left_out_and_counted(tmp_path):
    """`-m "not slow"` runs the chosen number of cases, and reports how many tests it left out."""
    run = suite(tmp_path, SAMPLE, "-m", "not slow")
    assert "2 passed, 5 deselected" in run.stdout, run.stdout
    assert "5 slow tests were left out" in run.stdout
    assert "7 passed" in suite(tmp_path, SAMPLE).stdout


@pytest.mark.slow("starts pytest in new processes")
def test_slow_tests_need_a_reason(tmp_path):
    """A test marked slow without a reason is an error, so that no claim leaves `make test` silently."""
    run = suite(tmp_path, SAMPLE.replace('@pytest.mark.slow("shows it")', "@pytest.mark.slow"))
    assert run.returncode == 4 and "test_slow is marked slow without a reason" in run.stderr + run.stdout


@pytest.mark.slow("starts pytest in new processes")
@pytest.mark.parametrize("options", [[], ["-n", "1"]], ids=["one process", "workers"])
def test_sigterm_ends_the_suite(options, tmp_path):
    """After SIGTERM, which a training loop turns into SystemExit(143), no further test runs."""
    run = suite(tmp_path, STOPPED, *options)
    assert run.returncode and not (tmp_path / "reached").exists(), run.stdout
