"""Corpora of seqio: TensorFlow Datasets and registered tasks."""

import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import seqio

from compressed_lm.data import seqio_base
from compressed_lm.data.corpus import Corpus, Document, Span, Unit
from compressed_lm.data.seqio_generators import GeneratorSource
from compressed_lm.errors import InputError


class SeqioCorpus(Corpus):
    """Documents of a seqio task, unshuffled. A unit of work is a shard of the task's source.

    A document is the feature `text`, or `targets` if there is no `text`: a string, or ids that the feature's vocabulary
    decodes.
    """

    def __init__(self, spec: str, task: seqio.Task, *, reopen: Callable[[], "SeqioCorpus"]) -> None:
        """Wraps a task.

        Args:
            spec: spec of the corpus.
            task: the task.
            reopen: function that opens the corpus again where it is unpickled; it pickles.
        """
        self.spec = spec
        self.splits = tuple(task.splits)
        self._task = task
        self._reopen = reopen
        self._shards: dict[str, tuple[str, ...]] = {}
        self._feature = next((key for key in ("text", "targets") if key in task.output_features), None)
        if self._feature is None:
            raise InputError(
                f"The seqio task {task.name} has the features {', '.join(task.output_features)}; `text` or `targets` "
                "was expected. Add a preprocessor that makes one of them, and register the task again."
            )

    def __reduce__(self) -> tuple[Callable[[], "SeqioCorpus"], tuple[()]]:
        return self._reopen, ()

    def _units(self, split: str) -> tuple[Unit, ...]:
        source, names = self._task.source, self._names(split)
        known = isinstance(source, GeneratorSource | seqio_base.PreparedTfds)
        sizes = source.shard_bytes(split) if known else [None] * len(names)
        return tuple(
            Unit((Span(name, shard, shard + 1),), size)
            for shard, (name, size) in enumerate(zip(names, sizes, strict=True))
        )

    def _read(self, split: str, unit: Unit, skip: int) -> Iterator[Document]:
        (span,) = unit.spans
        dataset = self._task.get_dataset(
            sequence_length=None,
            split=split,
            shuffle=False,
            shard_info=seqio.ShardInfo(index=span.start, num_shards=len(self._names(split))),
            try_in_mem_cache=False,
        )
        vocabulary = self._task.output_features[self._feature].vocabulary
        for example in dataset.skip(skip).as_numpy_iterator():
            value = example[self._feature]
            if isinstance(value, np.ndarray):
                value = vocabulary.decode(value.tolist())
            yield Document(value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value)

    def _fingerprint(self, split: str) -> str:
        source = self._task.source
        content: list[Any]
        if isinstance(source, GeneratorSource):
            content = [self.spec, split, source.fingerprint(split)]
        else:
            content = [self.spec, split, source.num_input_examples(split), sorted(self._names(split))]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def _names(self, split: str) -> tuple[str, ...]:
        """Returns the names of the shards of a split, without folders; listing them may read many folders."""
        if split not in self._shards:
            shards = self._task.source.list_shards(split)
            self._shards[split] = tuple(pathlib.PurePath(shard).name for shard in shards)
        return self._shards[split]


def open_tfds(name: str, *, data_dir: str | None = None) -> SeqioCorpus:
    """Returns the documents of a prepared TFDS data set with a feature `text`, such as `c4/en:3.1.0`."""
    spec = f"tfds:{name}"
    source = seqio_base.PreparedTfds(name, data_dir=data_dir)
    task = seqio_base.text_task(seqio_base.task_name(spec), source)
    return SeqioCorpus(spec, task, reopen=functools.partial(open_tfds, name, data_dir=data_dir))


def open_task(name: str) -> SeqioCorpus:
    """Returns the documents of a registered task; `MODULE:TASK` imports the module first."""
    return SeqioCorpus(f"seqio:{name}", seqio_base.find_task(name), reopen=functools.partial(open_task, name))
