"""Corpus protocol: named splits of documents, each a byte string, in a fixed order."""

import abc
import dataclasses
from collections.abc import Callable, Iterator

from compressed_lm.errors import InputError


class Corpus(abc.ABC):
    """Documents by split, in an order that never changes, divisible into shards.

    Attributes:
        spec: the spelling that opens the corpus again.
        splits: names of the splits.
    """

    spec: str
    splits: tuple[str, ...]

    def documents(self, split: str = "train", *, shard: int = 0, n_shards: int = 1) -> Iterator[bytes]:
        """The documents of one shard of a split.

        Shards are whole files where there are at least as many files as shards, else every `n_shards`-th document;
        either way they are disjoint and complete.

        Raises:
            InputError: there is no such split, it has no document, or a file is damaged.
        """
        self._check(split)
        n_documents = 0
        for document in self._documents(split, shard, n_shards):
            n_documents += 1
            yield document
        if n_documents == 0 and n_shards == 1:
            raise empty(self.spec, split)

    def probe(self, *splits: str) -> None:
        """Raises InputError where a split does not exist, has no document, or a first one that cannot be read: what can
        be known before anything is made of it."""
        for split in splits:
            next(self.documents(split))

    def describe(self, split: str) -> dict[str, str]:
        """What a manifest records: the spec and split, and a fingerprint of the documents."""
        self._check(split)
        return {"spec": self.spec, "split": split, "fingerprint": self._fingerprint(split)}

    def estimated_bytes(self, split: str) -> int | None:
        """About how many bytes a split has, for progress bars, or None."""
        return None

    @abc.abstractmethod
    def _documents(self, split: str, shard: int, n_shards: int) -> Iterator[bytes]:
        """The documents of one shard; the split exists."""

    @abc.abstractmethod
    def _fingerprint(self, split: str) -> str:
        """Hex digest that changes whenever the documents do."""

    def _check(self, split: str) -> None:
        if split not in self.splits:
            raise InputError(
                f"Split {split!r} was asked for, and the corpus {self.spec} has only {', '.join(self.splits)}. Name "
                "another split, or give the documents for validation as a second corpus (`--validation SPEC`)."
            )


class WithValidation(Corpus):
    """The training split of one corpus beside the validation split (or the only split) of another."""

    splits = ("train", "validation")

    def __init__(self, train: Corpus, validation: Corpus):
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
    """How the parts of a corpus are opened.

    Attributes:
        corpus: opens the corpus of another spec.
        data_dir: where TensorFlow Datasets finds its data; None for its default.
    """

    corpus: Callable[[str], Corpus]
    data_dir: str | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """A kind of corpus, for `open_corpus` and for help texts.

    Attributes:
        scheme: what stands before the colon.
        form: how it is written, such as `json:PATH`.
        summary: what it reads, in a few words.
        open: (what stands behind the colon, opener) -> corpus.
    """

    scheme: str
    form: str
    summary: str
    open: Callable[[str, Opener], Corpus]


def empty(spec: str, split: str) -> InputError:
    return InputError(
        f"The corpus {spec} has no document in its split {split!r}, and at least one is needed. Check the files it "
        "names, or name another corpus."
    )
