"""Corpora of seqio: TensorFlow Datasets and registered tasks."""

import hashlib
import json
import pathlib
from collections.abc import Iterator

import numpy as np
import seqio

from compressed_lm.data import seqio_base
from compressed_lm.data.corpus import Corpus
from compressed_lm.errors import InputError


class SeqioCorpus(Corpus):
    """Documents of a seqio task, unshuffled, divided by `seqio.ShardInfo`.

    A document is the feature `text`, or `targets` if there is no `text`: a string, or ids that the feature's vocabulary
    decodes.
    """

    def __init__(self, spec: str, task: seqio.Task) -> None:
        self.spec = spec
        self.splits = tuple(task.splits)
        self._task = task
        self._feature = next((key for key in ("text", "targets") if key in task.output_features), None)
        if self._feature is None:
            raise InputError(
                f"The seqio task {task.name} has the features {', '.join(task.output_features)}; `text` or `targets` "
                "was expected. Add a preprocessor that makes one of them, and register the task again."
            )

    def _documents(self, split: str, shard: int, n_shards: int) -> Iterator[bytes]:
        dataset = self._task.get_dataset(
            sequence_length=None,
            split=split,
            shuffle=False,
            shard_info=seqio.ShardInfo(index=shard, num_shards=n_shards),
            try_in_mem_cache=False,
        )
        vocabulary = self._task.output_features[self._feature].vocabulary
        for example in dataset.as_numpy_iterator():
            value = example[self._feature]
            if isinstance(value, np.ndarray):
                value = vocabulary.decode(value.tolist())
            yield value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value

    def _fingerprint(self, split: str) -> str:
        source = self._task.source
        n_examples = source.num_input_examples(split)
        shards = sorted(pathlib.PurePath(shard).name for shard in source.list_shards(split))
        return hashlib.sha256(json.dumps([self.spec, split, n_examples, shards]).encode()).hexdigest()


def open_tfds(name: str, *, data_dir: str | None = None) -> SeqioCorpus:
    """Returns the documents of a prepared TFDS data set with a feature `text`, such as `c4/en:3.1.0`."""
    spec = f"tfds:{name}"
    source = seqio_base.PreparedTfds(name, data_dir=data_dir)
    return SeqioCorpus(spec, seqio_base.text_task(seqio_base.task_name(spec), source))


def open_task(name: str) -> SeqioCorpus:
    """Returns the documents of a registered task; `MODULE:TASK` imports the module first."""
    return SeqioCorpus(f"seqio:{name}", seqio_base.find_task(name))
