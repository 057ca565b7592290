"""Corpus base class: named splits of documents, each a byte string, in a fixed order."""

import abc
import dataclasses
from collections.abc import Callable, Iterator

from compressed_lm.errors import InputError


class Corpus(abc.ABC):
    """Documents by split, in a fixed order, divisible into shards.

    Attributes:
        spec: spec that opens the corpus again.
        splits: names of the splits.
    """

    spec: str
    splits: tuple[str, ...]

    def documents(self, split: str = "train", *, shard: int = 0, n_shards: int = 1) -> Iterator[bytes]:
        """Yields the documents of one shard of a split.

        Shards are whole files if there are at least as many files as shards; otherwise every `n_shards`-th document.
        They are disjoint and complete.

        Raises:
            InputError: the split does not exist or has no document, or a file is damaged.
        """
        self._check(split)
        n_documents = 0
        for document in self._documents(split, shard, n_shards):
            n_documents += 1
            yield document
        if n_documents == 0 and n_shards == 1:
            raise empty(self.spec, split)

    def probe(self, *splits: str) -> None:
        """Raises InputError if a split does not exist, or its first document cannot be read; for checks before work."""
        for split in splits:
            next(self.documents(split))

    def describe(self, split: str) -> dict[str, str]:
        """Returns the entries for a manifest: spec, split and a fingerprint of the documents."""
        self._check(split)
        return {"spec": self.spec, "split": split, "fingerprint": self._fingerprint(split)}

    def estimated_bytes(self, split: str) -> int | None:
        """Returns about how many bytes a split has, for progress bars, or None."""
        return None

    @abc.abstractmethod
    def _documents(self, split: str, shard: int, n_shards: int) -> Iterator[bytes]:
        """Returns the documents of one shard; the split exists."""

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
        held_out = "validation" if "validation" in validation.splits else validation.splits[0]
        self._parts = {"train": (train, "train"), "validation": (validation, held_out)}

    def describe(self, split: str) -> dict[str, str]:
        self._check(split)
        corpus, its_split = self._parts[split]
        return corpus.describe(its_split)

    def estimated_bytes(self, split: str) -> int | None:
        corpus, its_split = self._parts[split]
        return corpus.estimated_bytes(its_split)

    def _documents(self, split: str, shard: int, n_shards: int) -> Iterator[bytes]:
        corpus, its_split = self._parts[split]
        return corpus.documents(its_split, shard=shard, n_shards=n_shards)

    def _fingerprint(self, split: str) -> str:
        return self.describe(split)["fingerprint"]


@dataclasses.dataclass(frozen=True)
class Opener:
    """Context in which a `Source` opens a corpus.

    Attributes:
        corpus: function that opens the corpus of another spec, for the parts of a mixture.
        data_dir: data folder of TensorFlow Datasets; None for its default.
    """

    corpus: Callable[[str], Corpus]
    data_dir: str | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """Kind of corpus, for `open_corpus` and for help texts.

    Attributes:
        scheme: part of the spec before the colon.
        form: form of the spec, such as `json:PATH`.
        summary: description in a few words.
        open: (part of the spec after the colon, opener) -> corpus.
    """

    scheme: str
    form: str
    summary: str
    open: Callable[[str, Opener], Corpus]


def empty(spec: str, split: str) -> InputError:
    """Returns the error of a split without documents."""
    return InputError(
        f"The corpus {spec} has no document in its split {split!r}; at least one is needed. Check its files, or name "
        "another corpus."
    )
