"""Corpus base class: named splits of documents, each a byte string, in a fixed order."""

import abc
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from compressed_lm.errors import InputError

UNIT_BYTES = 64 << 20
"""Size of a unit of work, in bytes of its files, where a file can be divided."""


@dataclasses.dataclass(frozen=True)
class Span:
    """Part of a source that is read in one pass.

    Attributes:
        name: name of the source, such as the path of a file.
        start, stop: first and last + 1 part of it, in the source's own unit: bytes of a file, row groups of a Parquet
            file, rows; `stop` is None for the end.
    """

    name: str
    start: int = 0
    stop: int | None = None


@dataclasses.dataclass(frozen=True)
class Unit:
    """Unit of work: consecutive documents, which one worker reads in one pass. It pickles.

    Attributes:
        spans: parts of sources, in order.
        n_bytes: about how many bytes of text they have; None if unknown.
        part: for a mixture, the number of the corpus, then that of its own corpora; () otherwise.
    """

    spans: tuple[Span, ...]
    n_bytes: int | None = None
    part: tuple[int, ...] = ()

    def describe(self) -> list:
        """Returns the unit as JSON, for a manifest."""
        return [*self.part, *([span.name, span.start, span.stop] for span in self.spans)]


class Document(NamedTuple):
    """A document of a corpus.

    Attributes:
        text: its bytes.
        id: its name in the source, if the corpus has one (option `id` of a spec); None otherwise.
    """

    text: bytes
    id: str | None = None


class Corpus(abc.ABC):
    """Documents by split, in a fixed order, divided into units of work. It pickles.

    The division depends on the sources alone; the order of the documents does not depend on it.

    Attributes:
        spec: spec that opens the corpus again.
        splits: names of the splits.
        has_ids: whether documents have ids.
        single_pass: whether the documents can be read only once, and only by the process that opened the corpus.
    """

    spec: str
    splits: tuple[str, ...]
    has_ids: bool = False
    single_pass: bool = False

    def units(self, split: str = "train") -> tuple[Unit, ...]:
        """Returns the units of work of a split, in the order of their documents.

        Raises:
            InputError: the split does not exist.
        """
        self._check(split)
        return self._units(split)

    def read(self, split: str, unit: Unit, *, skip: int = 0) -> Iterator[Document]:
        """Yields the documents of a unit, without the first `skip`.

        Raises:
            InputError: a file is damaged, or a document has another form than expected.
        """
        return self._read(split, unit, skip)

    def documents(self, split: str = "train", *, shard: int = 0, n_shards: int = 1) -> Iterator[bytes]:
        """Yields the documents of one shard of a split.

        Shards are whole units if there are at least as many units as shards; otherwise every `n_shards`-th document.
        They are disjoint and complete.

        Raises:
            InputError: the split does not exist or has no document, or a file is damaged.
        """
        units = self.units(split)
        by_unit = len(units) >= n_shards
        n_documents = 0
        for unit in units[shard::n_shards] if by_unit else units:
            for document in self.read(split, unit):
                n_documents += 1
                if by_unit or (n_documents - 1) % n_shards == shard:
                    yield document.text
        if n_documents == 0 and n_shards == 1:
            raise empty(self.spec, split)

    def probe(self, *splits: str) -> None:
        """Raises InputError if a split does not exist, or its first document cannot be read; for checks before work."""
        for split in splits:
            next(self.documents(split))

    def describe(self, split: str) -> dict[str, Any]:
        """Returns the entries for a manifest: spec, split and a fingerprint of the documents."""
        self._check(split)
        return {"spec": self.spec, "split": split, "fingerprint": self._fingerprint(split)}

    def estimated_bytes(self, split: str) -> int | None:
        """Returns about how many bytes of text a split has, for progress bars, or None."""
        sizes = [unit.n_bytes for unit in self.units(split)]
        return None if None in sizes else sum(filter(None, sizes))

    @abc.abstractmethod
    def _units(self, split: str) -> tuple[Unit, ...]:
        """The units of a split that exists."""

    @abc.abstractmethod
    def _read(self, split: str, unit: Unit, skip: int) -> Iterator[Document]:
        """The documents of a unit after the first `skip`."""

    @abc.abstractmethod
    def _fingerprint(self, split: str) -> str:
        """Hex digest that changes whenever the documents do."""

    def _check(self, split: str) -> None:
        if split not in self.splits:
            raise InputError(
                f"Split {split!r} was requested, and the corpus {self.spec} has only {', '.join(self.splits)}. Name "
                "another split, or give the validation documents as a second corpus (`--validation SPEC`)."
            )


class WithValidation(Corpus):
    """Training split of one corpus, with the validation split (or the only split) of another."""

    splits = ("train", "validation")

    def __init__(self, train: Corpus, validation: Corpus) -> None:
        self.spec = train.spec
        self.has_ids = train.has_ids or validation.has_ids
        self.single_pass = train.single_pass or validation.single_pass
        held_out = "validation" if "validation" in validation.splits else validation.splits[0]
        self._parts = {"train": (train, "train"), "validation": (validation, held_out)}

    def describe(self, split: str) -> dict[str, Any]:
        self._check(split)
        corpus, its_split = self._parts[split]
        return corpus.describe(its_split)

    def estimated_bytes(self, split: str) -> int | None:
        corpus, its_split = self._parts[split]
        return corpus.estimated_bytes(its_split)

    def _units(self, split: str) -> tuple[Unit, ...]:
        corpus, its_split = self._parts[split]
        return corpus.units(its_split)

    def _read(self, split: str, unit: Unit, skip: int) -> Iterator[Document]:
        corpus, its_split = self._parts[split]
        return corpus.read(its_split, unit, skip=skip)

    def _fingerprint(self, split: str) -> str:
        return self.describe(split)["fingerprint"]


@dataclasses.dataclass(frozen=True)
class Opener:
    """Context in which a `Source` opens a corpus.

    Attributes:
        corpus: function that opens the corpus of another spec, for the parts of a mixture.
        data_dir: data folder of TensorFlow Datasets; None for its default.
        options: options of the spec by name, such as {"field": "a.b"} of `json(field=a.b):PATH`.
    """

    corpus: Callable[[str], Corpus]
    data_dir: str | None = None
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Source:
    """Kind of corpus, for `open_corpus` and for help texts.

    Attributes:
        scheme: part of the spec before the colon.
        form: form of the spec, such as `json:PATH`.
        summary: description in a few words.
        open: (part of the spec after the colon, opener) -> corpus.
        options: names of the options that a spec may have.
    """

    scheme: str
    form: str
    summary: str
    open: Callable[[str, Opener], Corpus]
    options: tuple[str, ...] = ()


def empty(spec: str, split: str) -> InputError:
    """Returns the error of a split without documents."""
    return InputError(
        f"The corpus {spec} has no document in its split {split!r}; at least one is needed. Check its files, or name "
        "another corpus."
    )
