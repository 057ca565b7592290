"""Fixtures, eight virtual CPU devices and one cache of compiled programs, set before JAX starts."""

import argparse
import atexit
import collections
import dataclasses
import importlib.util
import os
import pathlib
import shutil
import signal
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # inherited by workers and subprocesses
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

import jax
import numpy as np
import pytest

from compressed_lm import models, training
from compressed_lm.codecs.bytes_codec import Bytes
from compressed_lm.data.job import compress
from compressed_lm.data.sources import open_corpus

jax.config.update("jax_num_cpu_devices", 8)

LONGEST = (
    *("codecs/test_codecs_lossless", "commands/test_commands_text_to_model", "codecs/test_codecs_corruption"),
    *("training/test_training_penalties", "dry_run/test_dry_run_topologies", "pipelines/test_pipelines_demo"),
    *("codecs/test_codecs_windows", "distributed/test_distributed_pods", "experiments/test_experiments_notebooks"),
    *("models/test_models_transformer", "exact/test_exact_settings", "codecs/test_codecs_devices"),
    *("models/test_models_representations", "pipelines/test_pipelines_sweep"),
)
"""Slowest files. They run first, so that no worker waits for another one at the end."""

MOST_MEMORY = 3 << 30  # bytes per worker; compiled programs are dropped above it


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items):
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(f"{item.path.parent.name}/{item.path.stem}", len(ranks)))
    thinned = collections.defaultdict(list)
    for item in items:
        for marker in item.iter_markers("slow"):
            if not marker.args:
                raise pytest.UsageError(f"{item.nodeid} is marked slow without a reason: @pytest.mark.slow('why').")
        if item.get_closest_marker("thinned"):
            thinned[item.path, item.originalname].append(item)
    for cases in thinned.values():
        keep, reason = cases[0].get_closest_marker("thinned").args
        kept = {round(i * len(cases) / keep) for i in range(keep)}
        for i, item in enumerate(cases):
            if i not in kept:
                item.add_marker(pytest.mark.slow(reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Ends the test run on SIGTERM, which a training loop turns into SystemExit after it has saved."""
    if call.excinfo and call.excinfo.type is SystemExit and call.excinfo.value.code == 128 + signal.SIGTERM:
        pytest.exit("SIGTERM")
    return (yield)


LEFT_OUT = collections.Counter()
"""Number of tests per folder that `-m "not slow"` leaves out."""


def pytest_deselected(items):
    for item in items:
        if item.get_closest_marker("slow"):
            LEFT_OUT[item.path.parent.name] += 1


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = dict(LEFT_OUT)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    LEFT_OUT.update(getattr(node, "workeroutput", {}).get("left_out", {}) if not LEFT_OUT else {})


def pytest_terminal_summary(terminalreporter):
    if LEFT_OUT and terminalreporter.config.option.markexpr == "not slow":
        folders = ", ".join(f"{name} {n}" for name, n in sorted(LEFT_OUT.items()))
        terminalreporter.line(f"{LEFT_OUT.total():,} slow tests were left out ({folders}); `make test-all` runs them.")


@pytest.fixture(scope="module", autouse=True)
def _bounded_memory():
    """Drops compiled programs above MOST_MEMORY: kept for all tests they take gigabytes."""
    yield
    statm = pathlib.Path("/proc/self/statm")
    resident = int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else MOST_MEMORY + 1
    if resident > MOST_MEMORY:
        jax.clear_caches()


@pytest.fixture(scope="session")
def data_dir():
    """Folder of real corpora, from COMPRESSED_LM_DATA, for tests that need more text than the package contains."""
    path = os.environ.get("COMPRESSED_LM_DATA", "")
    if not path or not pathlib.Path(path).is_dir():
        pytest.skip("needs the real corpora: set COMPRESSED_LM_DATA to their folder")
    return pathlib.Path(path)


def load(file):
    """Returns a module of the folder of tests."""
    path = pathlib.Path(__file__).parent / file
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


object_stores = load("object_stores.py")
store_servers, stores, bucket_url, proxy = (
    getattr(object_stores, name) for name in ("store_servers", "stores", "bucket_url", "proxy")
)


CONFIG = training.TrainConfig(
    steps=24, batch_size=8, seq_len=16, learning_rate=1e-2, warmup_steps=4, log_every=4, checkpoint_every=5, seed=3
)
MODEL = models.TransformerConfig(vocab_size=264, d_model=16, n_layers=1, n_heads=2, d_head=8, d_ff=32)


@dataclasses.dataclass(frozen=True)
class SmallRun:
    """Small run: trains into a folder; keywords replace fields of its TrainConfig, `options` are passed to `train`."""

    store: object
    compilation_cache: str | None = (
        None  # equal programs compile once: do not replace fields that change the program, including `steps`
    )
    config: training.TrainConfig = CONFIG
    model: models.TransformerConfig = MODEL

    def __call__(self, out, *, store=None, mesh_shape=(1, 1, 1), trackers=(), eval_fn=None, options=None, **changes):
        config = dataclasses.replace(self.config, **changes)
        store = store or self.store
        return training.train(
            config,
            self.model,
            store,
            out=out,
            mesh_shape=mesh_shape,
            trackers=trackers,
            eval_fn=eval_fn,
            compilation_cache=self.compilation_cache,
            **(options or {}),
        )


def write_store(folder, *, words):
    """Writes and returns a token store of bytes: 20 documents of a few words."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(20):
        (folder / f"{i:02}.txt").write_text(" ".join(rng.choice(words, 60)))
    return compress(open_corpus(f"text:{folder}/*.txt"), "train", Bytes(), folder / "store", n_shards=1)


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("stores") / "a", words=["a", "token", "is", "not", "word"])


@pytest.fixture(scope="session")
def other_store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("stores") / "b", words=["other", "documents"])


@pytest.fixture(scope="session")
def real_store(tmp_path_factory):
    """Token store of 500 kB of Python's own sources: real text that exists on every machine."""
    folder = pathlib.Path(argparse.__file__).parent
    out = tmp_path_factory.mktemp("stores") / "real"
    corpus = open_corpus(f"text:{folder}/[a-d]*.py")
    return compress(corpus, "train", Bytes(), out, n_shards=1, max_bytes=500_000, log=print)


@pytest.fixture(scope="session")
def small_run(store, tmp_path_factory):
    return SmallRun(store, str(tmp_path_factory.mktemp("compiled")))


@pytest.fixture(scope="session")
def uninterrupted(small_run, tmp_path_factory):
    """The small run trained without interruption, to which interrupted runs must be equal bit for bit."""
    return small_run(tmp_path_factory.mktemp("runs") / "uninterrupted")


@pytest.fixture(scope="session")
def same_bits():
    """Returns a function that asserts that two results have equal loss and parameters, bit for bit."""

    def compare(a, b):
        pairs = zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True)
        return a.loss_nats_per_token == b.loss_nats_per_token and all(np.array_equal(x, y) for x, y in pairs)

    return compare


@pytest.fixture(scope="session")
def exact_numpy():
    """Returns the module `tests/exact/exact_numpy.py`, exact inference in NumPy."""
    return load("exact/exact_numpy.py")


@pytest.fixture(scope="session")
def terminate_at():
    """Returns a tracker class that sends SIGTERM to this process when the metrics of a step arrive."""

    @dataclasses.dataclass
    class TerminateAt:
        step: int

        def scalars(self, step, values):
            if step == self.step:
                os.kill(os.getpid(), signal.SIGTERM)

    return TerminateAt
