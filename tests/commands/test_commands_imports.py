"""Modules that an import must not load."""

import subprocess
import sys


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def loaded(code: str, *names: str) -> list[str]:
    """Returns which of the modules are loaded after running the code."""
    return run(f"import sys\n{code}\nprint(*(m for m in {names!r} if m in sys.modules))").split()


HEAVY = ("jax", "numpy", "tensorflow", "matplotlib", "pandas", "numba", "rich")


def test_import_loads_nothing_heavy():
    """`import compressed_lm` loads no slow library."""
    assert loaded("import compressed_lm", *HEAVY) == []


def test_the_list_of_commands_loads_no_numerics():
    """`compressed-lm --help` imports all command modules without their numerical libraries."""
    code = "from compressed_lm.commands import commands; import compressed_lm.cli; commands()"
    assert loaded(code, "jax", "tensorflow", "matplotlib", "pandas", "numba") == []


def test_codecs_without_a_float_model_load_no_jax():
    """Subword and compiled codecs encode without loading JAX or TensorFlow."""
    code = "from compressed_lm import codecs\nfor name in ('pieces16-en', 'eiw16-en'): codecs.load(name).encode(b'a b')"
    assert loaded(code, "jax", "tensorflow", "flax") == []


def test_training_does_not_import_tensorflow():
    """The package and the modules of `train`, `compress` and `evaluate` import neither TensorFlow nor seqio."""
    code = """
import compressed_lm, compressed_lm.cli, compressed_lm.pipelines.stages, compressed_lm.training, compressed_lm.data.job
import compressed_lm.data.sources, compressed_lm.evaluation, compressed_lm.pipelines.demo, compressed_lm.codecs
"""
    assert loaded(code, "tensorflow", "seqio", "tensorflow_datasets", "matplotlib") == []


def test_scaling_needs_no_jax():
    """`compressed_lm.scaling` loads no JAX."""
    assert loaded("import compressed_lm.scaling", "jax", "tensorflow") == []
