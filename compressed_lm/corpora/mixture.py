"""Several corpora as one: `mix:8*json:web/*.gz,json:books/*.gz`."""

import hashlib
import re
from collections.abc import Iterator, Sequence

from compressed_lm.corpora.corpus import Corpus


class Mixture(Corpus):
    """The training documents of several corpora one after the other, each as many times as its weight says.

    Training shuffles the rows of the whole store, so the order of the parts does not matter there.

    Attributes:
      parts: (weight, corpus) pairs.
    """

    splits = ("train",)

    def __init__(self, parts: Sequence[tuple[int, Corpus]]):
        self.parts = parts
        self.spec = "mix:" + ",".join(f"{weight}*{corpus.spec}" for weight, corpus in parts)

    def estimated_bytes(self, split: str) -> int | None:
        sizes = [(weight, corpus.estimated_bytes(split)) for weight, corpus in self.parts]
        return None if any(size is None for _, size in sizes) else sum(weight * size for weight, size in sizes)

    def _documents(self, split: str, shard: int, n_shards: int) -> Iterator[bytes]:
        for weight, corpus in self.parts:
            for _ in range(weight):
                yield from corpus.documents(split, shard=shard, n_shards=n_shards)

    def _fingerprint(self, split: str) -> str:
        parts = [f"{weight} {corpus.describe(split)['fingerprint']}" for weight, corpus in self.parts]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def parse(rest: str) -> list[tuple[int, str]]:
    """(weight, spec) of each part of `8*json:web/*.gz,json:books/*.gz`; a part without a count has weight 1."""
    parts = []
    for item in rest.split(","):
        match = re.fullmatch(r"(?:(\d+)\*)?(.+)", item.strip())
        parts.append((int(match[1] or 1), match[2]) if match else (0, item))
    return parts
