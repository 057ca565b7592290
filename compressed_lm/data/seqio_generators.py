"""seqio sources over Python generators: the documents of a corpus, and of a token store."""

import abc
import functools
from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np
import seqio
import tensorflow as tf

from compressed_lm.data.corpus import UNIT_BYTES, Corpus, Unit
from compressed_lm.data.store import TokenStore


class GeneratorSource(seqio.DataSource, abc.ABC):
    """Seqio source over a Python generator, for any number of shards. It pickles if its attributes do.

    Attributes:
        signature: shape and type of each feature of an example.
    """

    signature: ClassVar[Mapping[str, tf.TensorSpec]]

    @abc.abstractmethod
    def examples(self, split: str, shard: int, n_shards: int) -> Iterator[dict]:
        """Yields the examples of one shard, in a fixed order; shards are disjoint and complete."""

    @abc.abstractmethod
    def shard_bytes(self, split: str) -> list[int | None]:
        """Returns about how many bytes of text each shard of `list_shards` has; None where unknown."""

    @abc.abstractmethod
    def fingerprint(self, split: str) -> str:
        """Returns a hex digest that changes whenever the examples do."""

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return True

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        *,
        sequence_length: Mapping[str, int] | None = None,
        use_cached: bool = False,
        num_epochs: int | None = 1,
    ) -> tf.data.Dataset:
        """Returns the examples of a shard in their fixed order; seqio shuffles them in its own buffer."""
        shard_info = shard_info or seqio.ShardInfo(index=0, num_shards=1)
        generate = functools.partial(self.examples, split, shard_info.index, shard_info.num_shards)
        return tf.data.Dataset.from_generator(generate, output_signature=dict(self.signature))


class CorpusSource(GeneratorSource):
    """Documents of a corpus as `{"text": bytes}`; its shards are the units of work."""

    signature = {"text": tf.TensorSpec([], tf.string)}

    def __init__(self, corpus: Corpus) -> None:
        super().__init__(splits=corpus.splits)
        self._corpus = corpus

    def list_shards(self, split: str) -> list[str]:
        return [_name(unit) for unit in self._corpus.units(split)]

    def shard_bytes(self, split: str) -> list[int | None]:
        return [unit.n_bytes for unit in self._corpus.units(split)]

    def fingerprint(self, split: str) -> str:
        return self._corpus.describe(split)["fingerprint"]

    def examples(self, split: str, shard: int, n_shards: int) -> Iterator[dict]:
        for document in self._corpus.documents(split, shard=shard, n_shards=n_shards):
            yield {"text": document}


class StoreSource(GeneratorSource):
    """Documents of a token store as `{"targets": int32[T]}`; a shard is a range of documents.

    Args:
        store: the store.
        first_id: id of the codec's id 0.
    """

    signature = {"targets": tf.TensorSpec([None], tf.int32)}

    def __init__(self, store: TokenStore, *, first_id: int) -> None:
        super().__init__(splits=("train",), num_input_examples={"train": len(store)})
        self._store = store
        self._first_id = first_id

    def list_shards(self, split: str) -> list[str]:
        n_shards = max(min(self._store.n_bytes // UNIT_BYTES, len(self._store)), 1)
        return [f"{self._store.path}:{i}" for i in range(n_shards)]

    def shard_bytes(self, split: str) -> list[int | None]:
        n_shards = len(self.list_shards(split))
        return [self._store.n_bytes // n_shards] * n_shards

    def fingerprint(self, split: str) -> str:
        return self._store.fingerprint

    def examples(self, split: str, shard: int, n_shards: int) -> Iterator[dict]:
        start, stop = (len(self._store) * i // n_shards for i in (shard, shard + 1))
        for record in self._store.documents(start, stop):
            yield {"targets": record.ids + np.int32(self._first_id)}


def _name(unit: Unit) -> str:
    """Returns a name of a unit for logs, such as `a.json:0-67108864` or `a.json:0- and 3 more`."""
    first, *others = unit.spans
    stop = "" if first.stop is None else first.stop
    return f"{first.name}:{first.start}-{stop}" + (f" and {len(others)} more" if others else "")
