r"""Mixtures of corpora: `mix:8*json:web/*.gz,json:books/*.gz`; with rates, `mix:0.7*json:web/*.gz,0.3*json:books/*.gz`.

A whole number repeats a corpus. Numbers with a decimal point are shares of the bytes of text: the corpus that is the
scarcest for its rate is used whole, and of the others each document is used or not by a hash of its text. So nothing is
repeated, and any unit of work can be read alone. A comma in a path may be written as `\,`.
"""

import dataclasses
import hashlib
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from compressed_lm.data.corpus import Corpus, Document, Opener, Source, Unit
from compressed_lm.data.sources import source_spec
from compressed_lm.errors import InputError

_COMMA = "\\,"
_WEIGHT = r"(?:(?P<weight>\d+|\d*\.\d+|\d+\.)\*)?"
_PART = re.compile(_WEIGHT + r"(?P<spec>.+)", re.DOTALL)
_BEGINS = re.compile(r"\s*" + _WEIGHT + r"(\w+[:(]|(installed_docs|-)\s*(,|$))")  # a part of a mixture
_HASHES = 1 << 64


class Mixture(Corpus):
    """Training documents of several corpora, one after another.

    Training shuffles the rows of the whole store, so the order of the parts does not matter.

    Args:
        parts: (weight, corpus) pairs; the weights are whole numbers, which repeat a corpus, or all of them are floats,
            which are the shares of the corpora in bytes of text.

    Attributes:
        parts: the pairs.
        rates: share of each corpus in the bytes of text, if the weights are rates; None otherwise.
    """

    splits = ("train",)

    def __init__(self, parts: Sequence[tuple[int | float, Corpus]]) -> None:
        self.parts = parts
        self.spec = "mix:" + ",".join(f"{weight}*{corpus.spec.replace(',', _COMMA)}" for weight, corpus in parts)
        self.has_ids = any(corpus.has_ids for _, corpus in parts)
        self.single_pass = any(corpus.single_pass for _, corpus in parts)
        self.rates: tuple[float, ...] | None = None
        if any(isinstance(weight, float) for weight, _ in parts):
            total = sum(weight for weight, _ in parts)
            self.rates = tuple(weight / total for weight, _ in parts)
        self._kept: tuple[float, ...] | None = None

    def describe(self, split: str) -> dict[str, Any]:
        return super().describe(split) | {"parts": {str(i): corpus.spec for i, (_, corpus) in enumerate(self.parts)}}

    def kept(self) -> tuple[float, ...]:
        """Returns the share of the documents of each corpus that is used; all of them if the weights are repetitions.

        Raises:
            InputError: the weights are rates, and the size of a corpus is not known.
        """
        if self._kept is None:
            self._kept = tuple(1.0 for _ in self.parts) if self.rates is None else self._shares(self.rates)
        return self._kept

    def _shares(self, rates: Sequence[float]) -> tuple[float, ...]:
        sizes = [corpus.estimated_bytes("train") for _, corpus in self.parts]
        for size, (_, corpus) in zip(sizes, self.parts, strict=True):
            if not size:
                raise InputError(
                    f"The mixture {self.spec} has rates, and the size of {corpus.spec} is not known before it is read. "
                    "Give whole numbers as weights (mix:2*A,B), which repeat a corpus, or store its documents in files."
                )
        total = min(size / rate for size, rate in zip(sizes, rates, strict=True) if size)
        return tuple(min(rate * total / size, 1.0) for size, rate in zip(sizes, rates, strict=True) if size)

    def _units(self, split: str) -> tuple[Unit, ...]:
        units: list[Unit] = []
        for number, (kept, (weight, corpus)) in enumerate(zip(self.kept(), self.parts, strict=True)):
            times = weight if self.rates is None else 1
            for unit in int(times) * corpus.units(split):
                n_bytes = None if unit.n_bytes is None else round(kept * unit.n_bytes)
                units.append(dataclasses.replace(unit, part=(number, *unit.part), n_bytes=n_bytes))
        return tuple(units)

    def _read(self, split: str, unit: Unit, skip: int) -> Iterator[Document]:
        number, *inner = unit.part
        corpus, kept = self.parts[number][1], self.kept()[number]
        unit = dataclasses.replace(unit, part=tuple(inner))
        if kept == 1.0:
            return corpus.read(split, unit, skip=skip)
        return itertools.islice(self._chosen(corpus.read(split, unit), kept), skip, None)

    def _chosen(self, documents: Iterator[Document], kept: float) -> Iterator[Document]:
        """Yields a share of the documents, each by a hash of its text that depends on the content of the mixture."""
        start, limit = hashlib.blake2b(self._fingerprint("train").encode(), digest_size=8), kept * _HASHES
        for document in documents:
            hashed = start.copy()
            hashed.update(document.text)
            if int.from_bytes(hashed.digest(), "big") < limit:
                yield document

    def _fingerprint(self, split: str) -> str:
        times = [str(weight) for weight, _ in self.parts] if self.rates is None else map(repr, self.kept())
        fingerprints = (corpus.describe(split)["fingerprint"] for _, corpus in self.parts)
        parts = [f"{weight} {fingerprint}" for weight, fingerprint in zip(times, fingerprints, strict=True)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def parse(rest: str) -> list[tuple[int | float, str]]:
    r"""Returns (weight, spec) of each part of `8*json:web/*.gz,json:books/*.gz`; the default weight is 1.

    A comma belongs to a path if it is written as `\,`, if the text after it does not begin with a scheme, or if the
    path with it exists. A comma between the parentheses of options belongs to them.
    """
    parts: list[tuple[int | float, str]] = []
    start = 0
    while start <= len(rest):
        begin = _BEGINS.match(rest, start)
        options = source_spec.end_of_options(rest, begin.end()) if begin and rest[begin.end() - 1] == "(" else None
        commas = [match.start() for match in re.compile(r"(?<!\\),").finditer(rest, options or start)]
        ends = [*commas, len(rest)]
        stop = next((end for end in reversed(ends) if end != ends[0] and _exists(rest[start:end])), ends[0])
        while stop < len(rest) and rest[stop + 1 :].strip() and not _BEGINS.match(rest, stop + 1):
            stop = ends[ends.index(stop) + 1]
        item = rest[start:stop].replace(_COMMA, ",").strip()
        match = _PART.fullmatch(item)
        parts.append((_number(match["weight"]), match["spec"]) if match else (0, item))
        start = stop + 1
    return parts


def _number(text: str | None) -> int | float:
    return float(text) if text and "." in text else int(text or 1)


def _exists(item: str) -> bool:
    path = source_spec.split(item.replace(_COMMA, ",").strip()).rest
    return bool(path) and os.path.exists(os.path.expanduser(path))


def _open(rest: str, opener: Opener) -> Mixture:
    parts = parse(rest)
    rates = [isinstance(weight, float) for weight, _ in parts]
    if any(weight <= 0 for weight, _ in parts) or (any(rates) and not all(rates)):
        raise InputError(
            f"The mixture 'mix:{rest}' was given; expected specs joined by commas, each with an optional weight of "
            "at least 1, such as mix:8*json:web/*.gz,json:books/*.gz, or all with a rate above 0, such as "
            "mix:0.7*json:web/*.gz,0.3*json:books/*.gz."
        )
    if any(rates) and len({spec for _, spec in parts}) < len(parts):
        raise InputError(
            f"The mixture 'mix:{rest}' has rates and names a corpus twice; its documents would be repeated. Name each "
            "corpus once, with the sum of its rates."
        )
    return Mixture([(weight, opener.corpus(part)) for weight, part in parts])


SOURCE = Source(
    "mix",
    "mix:8*SPEC,SPEC",
    "several corpora, one of them eight times; mix:0.7*SPEC,0.3*SPEC for shares of the bytes of text",
    _open,
)
