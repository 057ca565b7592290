"""Several corpora as one: `mix:8*json:web/*.gz,json:books/*.gz`. A comma of a path may be written as `\\,`."""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence

from compressed_lm.data.corpus import Corpus, Opener, Source
from compressed_lm.errors import InputError

_COMMA = "\\,"
_BEGINS = re.compile(r"\s*(\d+\*)?(\w+:|installed_docs\s*$)")  # a part of a mixture


class Mixture(Corpus):
    """The training documents of several corpora one after the other, each as many times as its weight says.

    Training shuffles the rows of the whole store, so the order of the parts does not matter there.

    Attributes:
        parts: (weight, corpus) pairs.
    """

    splits = ("train",)

    def __init__(self, parts: Sequence[tuple[int, Corpus]]):
        self.parts = parts
        self.spec = "mix:" + ",".join(f"{weight}*{corpus.spec.replace(',', _COMMA)}" for weight, corpus in parts)

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
    """(weight, spec) of each part of `8*json:web/*.gz,json:books/*.gz`; a part without a count has weight 1.

    A comma belongs to a path where it is written as `\\,`, where what follows begins with no scheme, and where the
    path with it is that of an existing file or folder.
    """
    items, parts = re.split(r"(?<!\\),", rest), []
    while items:
        n = next((n for n in range(len(items), 1, -1) if _exists(",".join(items[:n]))), 1)
        while n < len(items) and items[n].strip() and not _BEGINS.match(items[n]):
            n += 1
        item, items = ",".join(items[:n]).replace(_COMMA, ","), items[n:]
        match = re.fullmatch(r"(?:(\d+)\*)?(.+)", item.strip())
        parts.append((int(match[1] or 1), match[2]) if match else (0, item))
    return parts


def _exists(item: str) -> bool:
    path = item.replace(_COMMA, ",").partition(":")[2]
    return bool(path) and os.path.exists(os.path.expanduser(path))


def _open(rest: str, opener: Opener) -> Mixture:
    parts = parse(rest)
    if any(weight < 1 for weight, _ in parts):
        raise InputError(
            f"The mixture 'mix:{rest}' was given; expected specs joined by commas, each with an optional weight of "
            "at least 1, such as mix:8*json:web/*.gz,json:books/*.gz."
        )
    return Mixture([(weight, opener.corpus(part)) for weight, part in parts])


SOURCE = Source("mix", "mix:8*SPEC,SPEC", "several corpora, one of them eight times", _open)
