"""Eight virtual CPU devices for every test and one cache of compiled programs, set before JAX starts."""

import atexit
import os
import shutil
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # workers and the processes of tests inherit it
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)


LONGEST = (
    *("codecs/test_codecs_lossless", "cli/test_cli_verbs", "codecs/test_codecs_corruption"),
    *("training/test_training_penalties", "training/test_training_topologies", "cli/test_cli_demo"),
    *("codecs/test_codecs_windows", "training/test_training_pods", "experiments/test_experiments_notebooks"),
    *("models/test_models_transformer", "models/test_models_exact_settings", "codecs/test_codecs_devices"),
    *("models/test_models_representations", "cli/test_cli_sweep"),
)
"""Files that take longest. They come first, or else one of two workers would wait for the other at the end."""


def pytest_collection_modifyitems(items):
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(f"{item.path.parent.name}/{item.path.stem}", len(ranks)))


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
