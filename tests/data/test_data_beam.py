"""Caches of seqio tasks by Apache Beam's direct runner; they run in the environment of `make test-beam`."""

import contextlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest

pytest.importorskip("apache_beam", reason="needs Apache Beam, which has an environment of its own: make test-beam")

import seqio
import tensorflow as tf

from compressed_lm import codecs
from compressed_lm.codecs.bytes_codec import Bytes
from compressed_lm.data.job import compress
from compressed_lm.data.sources import open_corpus

DOCUMENTS = pathlib.Path(__file__).parent / "v0.1.0" / "documents.jsonl"
MODULE = """
import functools
from compressed_lm import codecs
from compressed_lm.data import tasks

LOADED = {{"eiw": codecs.load("eiw16-en"), "pieces": functools.partial(codecs.load, "pieces16-en")}}
NAMES = [*tasks.register_tasks("beam", {spec!r}, LOADED), *tasks.register_tasks("beam", {spec!r}, ["bytes"])[1:]]
NAMES.append(tasks.register_store_task("beam_store", {store!r}).name)
"""
CODECS = {"beam_eiw": "eiw16-en", "beam_pieces": "pieces16-en", "beam_bytes": "bytes", "beam_store": "bytes"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Three files of documents; in a mixture, each is a unit of work."""
    folder = tmp_path_factory.mktemp("documents")
    lines = DOCUMENTS.read_text().splitlines() + [json.dumps({"text": ""}), json.dumps({"text": "größer 日本語"})]
    for part in range(3):
        (folder / f"part-{part}.jsonl").write_text("\n".join(lines[part::3]) + "\n")
    return open_corpus("mix:" + ",".join(f"json:{folder}/part-{part}.jsonl" for part in range(3)))


@pytest.fixture(scope="module")
def module(corpus, tmp_path_factory):
    """Module that registers the tasks, written to a file as users do, and imported."""
    folder = tmp_path_factory.mktemp("tasks")
    compress(corpus, "train", Bytes(), folder / "store")
    path = folder / "beam_tasks.py"
    path.write_text(MODULE.format(spec=corpus.spec, store=str(folder / "store")))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def cache(module, folder, *options, tasks="beam_.*"):
    """Runs `seqio_cache_tasks` as users do, and returns its log."""
    path = [str(pathlib.Path(module.__file__).parent), os.environ.get("PYTHONPATH", "")]
    command = [sys.executable, "-m", "seqio.scripts.cache_tasks_main", f"--tasks={tasks}", "--min_shards=0"]
    run = subprocess.run(
        [*command, f"--output_cache_dir={folder}", "--module_import=beam_tasks", *options],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stderr


@pytest.fixture(scope="module")
def cached(module, tmp_path_factory):
    """Folder of the cached tasks, and the log of the command."""
    folder = tmp_path_factory.mktemp("cache")
    log = cache(module, folder)
    with seqio_caches(folder):
        yield folder, log


@contextlib.contextmanager
def seqio_caches(folder):
    """Lets seqio read the caches of one folder."""
    before = seqio.utils.get_global_cache_dirs()
    seqio.set_global_cache_dirs([str(folder)])
    for name in seqio.TaskRegistry.names():  # a task remembers where its cache was
        seqio.TaskRegistry.get(name)._cache_dir = None
    yield
    seqio.set_global_cache_dirs(before)


def read(name, feature="targets"):
    task = seqio.TaskRegistry.get(name)
    dataset = task.get_dataset(sequence_length=None, split="train", shuffle=False, use_cached=True)
    return [example[feature] for example in dataset.as_numpy_iterator()]


def expected(corpus, codec):
    return sorted([*(codec.encode(document) + 2).tolist(), 1] for document in corpus.documents())


def test_no_task_is_skipped(module, cached):
    """`seqio_cache_tasks` caches the raw, the encoded and the store's task."""
    folder, log = cached
    assert "does not support caching" not in log
    assert sorted(path.parent.name for path in folder.glob("*/COMPLETED")) == sorted(module.NAMES)


def test_a_cache_has_one_shard_per_unit(corpus, cached):
    """Beam reads each unit of work as one shard, and writes as many files as the corpus has units."""
    folder, log = cached
    for name in ("beam_raw", "beam_eiw", "beam_pieces", "beam_bytes"):
        assert len(list((folder / name).glob("train.tfrecord-*"))) == len(corpus.units("train")) == 3
    for part in range(3):
        assert f"part-{part}.jsonl:0-" in log
    assert len(list((folder / "beam_store").glob("train.tfrecord-*"))) == 1


@pytest.mark.parametrize("name", CODECS)
def test_a_cache_holds_the_ids_of_the_documents(corpus, cached, name):
    """What seqio reads from a cache is `codec.encode` plus 2, ending with 1, for each document, and decodes to it."""
    codec = Bytes() if CODECS[name] == "bytes" else codecs.load(CODECS[name])
    found = [ids.tolist() for ids in read(name)]
    assert sorted(found) == expected(corpus, codec)
    assert sorted(codec.decode([i - 2 for i in ids[:-1]]) for ids in found) == sorted(corpus.documents())


def test_a_cache_of_the_raw_task_holds_the_documents(corpus, cached):
    """Cached text is the documents' bytes."""
    assert sorted(read("beam_raw", "text")) == sorted(corpus.documents())


def test_cached_files_hold_ids_before_end_of_sequence(corpus, cached):
    """The files of a cache have the codec's ids plus 2 alone, and seqio's statistics count them."""
    folder, _ = cached
    files = sorted(str(path) for path in (folder / "beam_eiw").glob("train.tfrecord-*"))
    examples = [tf.train.Example.FromString(record.numpy()) for record in tf.data.TFRecordDataset(files)]
    found = sorted(list(example.features.feature["targets"].int64_list.value) for example in examples)
    assert found == [ids[:-1] for ids in expected(corpus, codecs.load("eiw16-en"))]
    stats = seqio.TaskRegistry.get("beam_eiw").get_cached_stats("train")
    assert stats["examples"] == len(found) and stats["targets_tokens"] == sum(map(len, found))


@pytest.mark.slow("starts two processes of Beam, each of which imports TensorFlow")
def test_processes_of_beam_give_the_same_ids(corpus, module, tmp_path):
    """Two worker processes of the direct runner, which unpickle vocabularies and codecs, cache the same documents."""
    runner = "--runner=DirectRunner,--direct_num_workers=2,--direct_running_mode=multi_processing"
    cache(module, tmp_path, f"--pipeline_options={runner}", tasks="beam_eiw,beam_pieces")
    with seqio_caches(tmp_path):
        for name in ("beam_eiw", "beam_pieces"):
            found = sorted(ids.tolist() for ids in read(name))
            assert found == expected(corpus, codecs.load(CODECS[name]))
