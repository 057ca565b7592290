"""Modules that an import must not load."""

import subprocess
import sys


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def loaded(code: str, *names: str) -> list[str]:
    """Returns which of the modules are loaded once the code has run."""
    return run(f"import sys\n{code}\nprint(*(m for m in {names!r} if m in sys.modules))").split()


HEAVY = ("jax", "numpy", "tensorflow", "matplotlib", "pandas", "numba", "rich")


def test_import_loads_nothing_heavy():
    """`import compressed_lm` loads no library that takes time, so that it is instant."""
    assert loaded("import compressed_lm", *HEAVY) == []


def test_the_list_of_commands_loads_no_numerics():
    """`compressed-lm --help` imports every command's module, and none of the libraries that they run on."""
    code = "from compressed_lm.commands import commands; import compressed_lm.cli; commands()"
    assert loaded(code, "jax", "tensorflow", "matplotlib", "pandas", "numba") == []


def test_codecs_without_a_float_model_load_no_jax():
    """A tokenizer library user pays for no framework: subword and compiled codecs encode without JAX or TensorFlow."""
    code = "from compressed_lm import codecs\nfor name in ('pieces16-en', 'eiw16-en'): codecs.load(name).encode(b'a b')"
    assert loaded(code, "jax", "tensorflow", "flax") == []


def test_training_does_not_import_tensorflow():
    """Neither the package nor what `train`, `compress` and `evaluate` need imports TensorFlow or seqio."""
    code = """
import compressed_lm, compressed_lm.cli, compressed_lm.pipelines.stages, compressed_lm.training, compressed_lm.data.job
import compressed_lm.data.sources, compressed_lm.evaluation, compressed_lm.pipelines.demo, compressed_lm.codecs
"""
    assert loaded(code, "tensorflow", "seqio", "tensorflow_datasets", "matplotlib") == []


def test_scaling_needs_no_jax():
    """A notebook that only analyses runs loads no JAX."""
    assert loaded("import compressed_lm.scaling", "jax", "tensorflow") == []
