"""Eight virtual CPU devices for every test, set before JAX starts."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(scope="module", autouse=True)
def _compiled_programs_go():
    """Compiled programs stay until their module's tests are over: kept for the whole suite they take gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def data_dir():
    """The folder of real corpora named by COMPRESSED_LM_DATA; tests that want more text than the package brings use
    it."""
    import pathlib

    path = os.environ.get("COMPRESSED_LM_DATA", "")
    if not path or not pathlib.Path(path).is_dir():
        pytest.skip("needs the real corpora: set COMPRESSED_LM_DATA to their folder")
    return pathlib.Path(path)
