r"""Mixtures of corpora: `mix:8*json:web/*.gz,json:books/*.gz`. A comma in a path may be written as `\,`."""

import dataclasses
import hashlib
import os
import re
from collections.abc import Iterator, Sequence

from compressed_lm.data.corpus import Corpus, Document, Opener, Source, Unit
from compressed_lm.errors import InputError

_COMMA = "\\,"
_BEGINS = re.compile(r"\s*(\d+\*)?(\w+:|installed_docs\s*$)")  # a part of a mixture


class Mixture(Corpus):
    """Training documents of several corpora, concatenated; each corpus is repeated according to its weight.

    Training shuffles the rows of the whole store, so the order of the parts does not matter.

    Attributes:
        parts: (weight, corpus) pairs.
    """

    splits = ("train",)

    def __init__(self, parts: Sequence[tuple[int, Corpus]]) -> None:
        self.parts = parts
        self.spec = "mix:" + ",".join(f"{weight}*{corpus.spec.replace(',', _COMMA)}" for weight, corpus in parts)

    def _units(self, split: str) -> tuple[Unit, ...]:
        units: list[Unit] = []
        for number, (weight, corpus) in enumerate(self.parts):
            units.extend(
                weight * [dataclasses.replace(unit, part=(number, *unit.part)) for unit in corpus.units(split)]
            )
        return tuple(units)

    def _read(self, split: str, unit: Unit, skip: int) -> Iterator[Document]:
        _, corpus = self.parts[unit.part[0]]
        return corpus.read(split, dataclasses.replace(unit, part=unit.part[1:]), skip=skip)

    def _fingerprint(self, split: str) -> str:
        parts = [f"{weight} {corpus.describe(split)['fingerprint']}" for weight, corpus in self.parts]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def parse(rest: str) -> list[tuple[int, str]]:
    r"""Returns (weight, spec) of each part of `8*json:web/*.gz,json:books/*.gz`; the default weight is 1.

    A comma belongs to a path if it is written as `\,`, if the text after it does not begin with a scheme, or if the
    path with it exists.
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
