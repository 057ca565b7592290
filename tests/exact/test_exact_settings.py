"""M1's tables and files coded with them are the same under all settings that change float results."""

import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import pytest

TABLES = "5126fc331c2255d07456904f694690bbcebc9e30e2ecba6b8a7394a32fbd7c31"  # as in test_exact_numpy
SETTINGS = {
    "default": (8, {}),
    "loose": (
        1,
        {
            "XLA_FLAGS": "--xla_cpu_enable_fast_math=true --xla_cpu_max_isa=SSE4_2 --xla_cpu_multi_thread_eigen=false",
            "JAX_DEFAULT_MATMUL_PRECISION": "bfloat16",
        },
    ),
    "float64": (2, {"XLA_FLAGS": "--xla_cpu_max_isa=AVX2", "JAX_ENABLE_X64": "1"}),
}
EVERY_WAY = ["batch 64", "cached", "devices", "batch 1", "batch 7", "lengths", "no jit", "cached, no jit"]


def test_the_set_of_instructions_reaches_the_compiler():
    """Programs of this process are compiled for `--xla_cpu_max_isa` in XLA_FLAGS, which `make test-isa` sets."""
    asked = re.findall(r"--xla_cpu_max_isa=(\w+)", os.environ.get("XLA_FLAGS", ""))
    program = jax.jit(lambda x: x * x + 1).lower(jax.ShapeDtypeStruct((64,), "float32")).compile()
    built_for = program.runtime_executable().serialize()
    assert [isa for isa in ("SSE4_2", "AVX2", "AVX512") if isa.encode() in built_for] == asked


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Returns the output of `exact_cases.py` for each setting; each process also decodes the files of earlier ones."""
    folder, results = tmp_path_factory.mktemp("files"), {}
    for name, (devices, variables) in SETTINGS.items():
        script = str(pathlib.Path(__file__).with_name("exact_cases.py"))
        environment = {key: value for key, value in os.environ.items() if not key.startswith("JAX_")}
        flags = [environment.get("XLA_FLAGS"), variables.get("XLA_FLAGS")]  # `make test-isa` sets some, too
        run = subprocess.run(
            [sys.executable, script, name, str(devices), str(folder)],
            capture_output=True,
            text=True,
            env=environment | {"JAX_PLATFORMS": "cpu"} | variables | {"XLA_FLAGS": " ".join(filter(None, flags))},
        )
        assert run.returncode == 0, run.stderr[-3000:]
        results[name] = json.loads(run.stdout.splitlines()[-1])
    return results


@pytest.mark.slow("compiles exact inference for several settings")
def test_settings_took_effect(results):
    """The processes ran with 1, 2 and 8 devices, with float64, and with reduced default precision."""
    assert {name: result["settings"] for name, result in results.items()} == {
        "default": {"devices": 8, "float64": False, "precision": None},
        "loose": {"devices": 1, "float64": False, "precision": "bfloat16"},
        "float64": {"devices": 2, "float64": True, "precision": None},
    }


@pytest.mark.slow("compiles exact inference for several settings")
def test_tables_are_the_same_under_every_setting(results):
    """All ways and settings give the recorded tables.

    Batches of 1, 7 and 64, other lengths, the cached loop, no jit, 1, 2 and 8 devices, fast math, older processors,
    float64 and reduced matmul precision.
    """
    assert {name: result["tables"] for name, result in results.items()} == {
        name: dict.fromkeys(EVERY_WAY if name == "default" else ["devices"], TABLES) for name in SETTINGS
    }


@pytest.mark.slow("compiles exact inference for several settings")
def test_files_are_the_same_under_every_setting(results):
    """A document encodes to the same bytes under all settings, and each setting decodes the files of the others."""
    assert [list(result["files"]) for result in results.values()] == [["ac", "eiw"], ["ac"], ["ac", "eiw"]]
    assert all(result["files"].items() <= results["default"]["files"].items() for result in results.values()), results
