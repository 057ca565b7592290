"""Corpora of text files: one document per file."""

import hashlib
from collections.abc import Iterator
from typing import BinaryIO

from compressed_lm.data import compression, files, standard_input
from compressed_lm.data.corpus import Corpus, Document, Opener, Source, Span, Unit
from compressed_lm.errors import InputError
from compressed_lm.io import limits

_BLOCK_BYTES = 1 << 22


class TextFiles(Corpus):
    """One document per file: its bytes, decompressed if the file is compressed."""

    splits = ("train",)

    def __init__(self, pattern: str) -> None:
        self.spec = f"text:{pattern}"
        found = files.find(pattern, self.spec, ".txt")
        self._files = {file.name: file for file in files.for_each(found, lambda name: files.probe(name, self.spec))}

    def _units(self, split: str) -> tuple[Unit, ...]:
        return files.joined((Span(file.name), file.n_bytes, file.n_bytes) for file in self._files.values())

    def _read(self, split: str, unit: Unit, skip: int) -> Iterator[Document]:
        for span in unit.spans[skip:]:
            file = self._files[span.name]
            with files.open_unchanged(file) as raw:
                most = None if file.method is None else limits.expanded(file.size)
                stream = compression.decompressed(raw, file.method, file.name)
                yield Document(_content(stream, file.method, file.name, most))

    def _fingerprint(self, split: str) -> str:
        digest = hashlib.sha256(b"text")
        for file in self._files.values():
            # Version 0.1 used the compressed bytes as the document; its stores need another fingerprint.
            digest.update(file.digest + (file.method or "").encode())
        return digest.hexdigest()


def _content(stream: BinaryIO, method: str | None, name: str, most: int | None = None) -> bytes:
    """Returns the content of a file. Raises InputError if it is damaged, or unpacks to more than `most` bytes."""
    blocks: list[bytes] = []
    size = 0
    try:
        while block := stream.read(_BLOCK_BYTES):
            blocks.append(block)
            size += len(block)
            if most is not None and size > most:
                raise InputError(
                    f"The file {name} unpacks to more than {most:,} bytes. Split it into documents, or allow more: "
                    f"{limits.HELP}."
                )
    except compression.DAMAGE as error:
        raise compression.damaged(name, method, 0, error) from error
    return b"".join(blocks)


def _read_stream(stream: BinaryIO, method: str | None, name: str) -> Iterator[Document]:
    yield Document(_content(stream, method, name))


def _open(rest: str, opener: Opener) -> Corpus:
    return standard_input.StandardInput("text:-", _read_stream) if rest == standard_input.NAME else TextFiles(rest)


SOURCE = Source("text", "text:PATH", "one file per document", _open)
