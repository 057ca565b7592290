"""seqio tasks of documents, and prepared TensorFlow data sets."""

import hashlib
import importlib
import os
import re
from typing import Any

import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from compressed_lm.errors import InputError
from compressed_lm.specs import did_you_mean


class PreparedTfds(seqio.TfdsDataSource):
    """Prepared TFDS data set on disk; nothing is downloaded.

    The folder is looked up at each use: `data_dir`, the environment variable TFDS_DATA_DIR, or TFDS's default.
    """

    def __init__(self, name: str, *, data_dir: str | None = None) -> None:
        if ":" not in name:
            raise InputError(
                f"The TFDS data set {name!r} was given; NAME/CONFIG:VERSION was expected, such as c4/en:3.1.0. Add the "
                "version, so that the corpus stays the same when TFDS publishes another one."
            )
        super().__init__(tfds_name=name, tfds_data_dir=data_dir, read_only=True)
        self._name = name
        self._data_dir = data_dir

    @property
    def tfds_dataset(self) -> seqio.LazyTfdsLoader:
        data_dir = self._data_dir or os.environ.get("TFDS_DATA_DIR")
        loader = seqio.LazyTfdsLoader(self._name, data_dir=data_dir, read_only=True)
        where = f"under {data_dir}" if data_dir else "in TFDS's default folder"
        try:
            prepared, features = loader.builder.is_prepared(), loader.builder.info.features or {}
        except (tfds.core.DatasetNotFoundError, ValueError, AssertionError) as error:
            raise InputError(
                f"The TFDS data set {self._name} was not found {where} ({str(error).strip().splitlines()[0]}). Write "
                "it as NAME/CONFIG:VERSION and set TFDS_DATA_DIR (or --data_dir) to the folder that contains it."
            ) from error
        if not prepared:
            raise InputError(
                f"The TFDS data set {self._name} is not prepared {where}. Set TFDS_DATA_DIR (or --data_dir) to the "
                f"folder that contains it, or prepare it once with `tfds build {self._name}`; compressed_lm itself "
                "downloads nothing."
            )
        if "text" not in features:
            raise InputError(
                f"The TFDS data set {self._name} has the features {', '.join(features)}; a feature `text` was "
                "expected. Register a seqio task that names its text feature `text` and use seqio:TASK."
            )
        return loader

    def shard_bytes(self, split: str) -> list[int | None]:
        """Returns about how many bytes each shard of `list_shards` has, other features included."""
        dataset = self.tfds_dataset
        per_example = int(dataset.info.splits[split].num_bytes) / max(dataset.size(split), 1)
        return [round(per_example * file.examples_in_shard) or None for file in dataset.files(split)]


def task_name(spec: str) -> str:
    """Returns a task name made from the spec of a corpus."""
    readable = re.sub(r"[^0-9A-Za-z]+", "_", spec).strip("_")
    return f"raw_{readable}_{hashlib.sha256(spec.encode()).hexdigest()[:8]}"


def text_task(name: str, source: seqio.DataSource) -> seqio.Task:
    """Registers and returns the task of a source's unchanged documents, as `{"text": bytes}`.

    A cache (`seqio_cache_tasks`) holds the text and no other feature.
    """
    text = seqio.Feature(seqio.PassThroughVocabulary(size=0), add_eos=False, dtype=tf.string, rank=0)
    preprocessors = [_only_text, seqio.CacheDatasetPlaceholder()]
    return register(name, source=source, preprocessors=preprocessors, output_features={"text": text})


def find_task(name: str) -> seqio.Task:
    """Returns a registered task; `MODULE:TASK` imports the module first."""
    if name not in seqio.TaskRegistry.names() and ":" in name:
        module, _, name = name.rpartition(":")
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise InputError(
                f"The corpus seqio:{module}:{name} needs the module {module}, which could not be imported ({error}). "
                "Name the module that registers the task, and check that Python can import it."
            ) from error
    if name not in seqio.TaskRegistry.names():
        hint = did_you_mean(name, seqio.TaskRegistry.names())
        hint = hint or " seqio:MODULE:TASK imports the module that registers it."
        raise InputError(f"No seqio task named {name!r} is registered.{hint}")
    return seqio.TaskRegistry.get(name)


def register(name: str, **definition: Any) -> seqio.Task:
    """Registers and returns a task; it replaces a task of the same name, so that a notebook cell can run twice."""
    seqio.TaskRegistry.remove(name)
    return seqio.TaskRegistry.add(name, **definition)


def _only_text(dataset: tf.data.Dataset) -> tf.data.Dataset:
    return dataset.map(lambda example: {"text": example["text"]})
