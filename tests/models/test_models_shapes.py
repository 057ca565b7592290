"""Annotated shapes and dtypes are those of the arrays, checked at run time in a process of its own."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("beartype")


@pytest.fixture(scope="module")
def results():
    """Returns the output of `shape_cases.py`, which imports `models` and `weights` with run-time checks."""
    script = str(pathlib.Path(__file__).with_name("shape_cases.py"))
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.slow("checks types at run time, in a new process")
def test_annotations_match_the_arrays_of_forward_passes(results):
    """All variants of the model, exact inference and pruning use only arrays of the annotated shapes and dtypes."""
    assert len(results["right"]) == 12
    assert {case: error for case, error in results["right"].items() if error} == {}


@pytest.mark.slow("checks types at run time, in a new process")
def test_wrong_shapes_are_detected(results):
    """The check takes effect: arrays of a wrong rank, length or dtype violate an annotation."""
    assert len(results["wrong"]) == 10
    assert {case: error for case, error in results["wrong"].items() if not error.startswith("TypeCheckError")} == {}
