"""Documents of the standard input, which are read once."""

import io
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from typing import BinaryIO

from compressed_lm.data.corpus import Corpus, Document, Span, Unit
from compressed_lm.data.sources import compression
from compressed_lm.errors import InputError

NAME = "-"
"""Path of the standard input in a spec."""

FINGERPRINT = "standard input"
"""Fingerprint of its documents, which are not known before they are read."""

Reader = Callable[[BinaryIO, str | None, str], Iterator[Document]]

_SHOWN = "the standard input"


class StandardInput(Corpus):
    """Documents of the standard input, plain or compressed, as one unit.

    The first document can be read again, so that `probe` loses nothing; after the second there is no other pass. A run
    can resume if the same stream is given again.

    Args:
        spec: spec of the corpus.
        read: (decompressed stream, its compression or None, its name) -> documents; it pickles.
        has_ids: whether documents have ids.
    """

    splits = ("train",)
    single_pass = True

    def __init__(self, spec: str, read: Reader, *, has_ids: bool = False) -> None:
        self.spec = spec
        self.has_ids = has_ids
        self.read_stream = read
        self._process = os.getpid()

    def _units(self, split: str) -> tuple[Unit, ...]:
        return (Unit((Span(NAME),)),)

    def _read(self, split: str, unit: Unit, skip: int) -> Iterator[Document]:
        if os.getpid() != self._process:
            raise InputError(
                f"The corpus {self.spec} is the standard input, which only the process can read that was started with "
                "it. Use one worker, or store the documents in a file and name it."
            )
        return itertools.islice(_Stream.of(self), skip, None)

    def _fingerprint(self, split: str) -> str:
        return FINGERPRINT


class _Stream:
    """The standard input of this process, as documents of one spec."""

    _current: "_Stream | None" = None

    def __init__(self, corpus: StandardInput) -> None:
        self.spec, self.stdin = corpus.spec, sys.stdin
        if self.stdin is None:
            raise InputError(f"The corpus {corpus.spec} was given, and the standard input is closed. Give a file.")
        self._documents = corpus.read_stream(*_open(self.stdin.buffer), _SHOWN)
        self._first: list[Document] = []
        self._begun = False

    @classmethod
    def of(cls, corpus: StandardInput) -> "_Stream":
        """Returns the stream, which is one for all corpora of the same spec."""
        stream = cls._current
        if stream is None or stream.stdin is not sys.stdin:
            stream = cls._current = cls(corpus)
        if stream.spec != corpus.spec:
            raise InputError(
                f"The corpora {stream.spec} and {corpus.spec} are both the standard input; it can be read once. Store "
                "one of them in a file and name it."
            )
        return stream

    def __iter__(self) -> Iterator[Document]:
        self._check()
        if not self._first:
            self._first.extend(itertools.islice(self._documents, 1))
        yield from list(self._first)
        self._check()
        self._begun = bool(self._first)
        yield from self._documents

    def _check(self) -> None:
        if self._begun:
            raise InputError(
                f"The documents of {self.spec} were already read, and the standard input can be read only once. Store "
                "them in a file and name it."
            )


def _open(file: BinaryIO) -> tuple[BinaryIO, str | None]:
    """Returns the decompressed standard input and its compression. Raises InputError if it is not supported."""
    head = b""
    while len(head) < compression.HEAD_BYTES and (block := file.read(compression.HEAD_BYTES - len(head))):
        head += block
    compression.check(head, b"", _SHOWN, NAME)
    method = compression.method(head)
    return compression.decompressed(io.BufferedReader(compression.Steps(file, head), 1 << 17), method, _SHOWN), method
