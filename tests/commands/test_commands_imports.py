"""What importing costs, and what it must not bring in."""

import subprocess
import sys
import time


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_import_is_fast():
    """`import compressed_lm` takes under one second (the best of three, start of Python included)."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        run("import compressed_lm")
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1


def test_training_does_not_import_tensorflow():
    """Neither the package nor what `train`, `compress` and `evaluate` need imports TensorFlow or seqio."""
    code = """
import sys
import compressed_lm, compressed_lm.cli, compressed_lm.pipelines.stages, compressed_lm.training, compressed_lm.data.job
import compressed_lm.data.sources, compressed_lm.evaluation, compressed_lm.pipelines.demo, compressed_lm.codecs
print([m for m in ("tensorflow", "seqio", "tensorflow_datasets", "matplotlib") if m in sys.modules])
"""
    assert run(code).strip() == "[]"


def test_scaling_needs_no_jax():
    """A notebook that only analyses runs loads no JAX."""
    assert run("import sys, compressed_lm.scaling; print('jax' in sys.modules)").strip() == "False"
