"""Corpora of text files: one document per file, or several if the file is large.

A file of more than `DOCUMENT_BYTES` bytes is divided at multiples of it, each time at the start of the next line (of
the next character, if there is no line within 64 KiB), so that a document of any size needs little memory and a plain
file is encoded by several workers. A last part shorter than half of it belongs to the part before.
"""

import hashlib
from collections.abc import Iterator
from typing import BinaryIO

from compressed_lm.data.corpus import Corpus, Document, Opener, Source, Span, Unit
from compressed_lm.data.sources import compression, files, standard_input
from compressed_lm.errors import InputError
from compressed_lm.io import limits

DOCUMENT_BYTES = 64 << 20
"""Size of a document of a large file (bytes)."""

_BLOCK_BYTES = 1 << 22
_SEARCHED = 1 << 16  # bytes in which the next line may begin


class TextFiles(Corpus):
    """One document per file, or several: its bytes, decompressed if the file is compressed."""

    splits = ("train",)

    def __init__(self, pattern: str) -> None:
        self.spec = f"text:{pattern}"
        found = files.find(pattern, self.spec, ".txt")
        self._files = {file.name: file for file in files.for_each(found, lambda name: files.probe(name, self.spec))}

    def _units(self, split: str) -> tuple[Unit, ...]:
        spans: list[tuple[Span, int, int]] = []
        for file in self._files.values():
            starts = _starts(file.size) if file.method is None else [0]
            stops = [*starts[1:], None]
            for start, stop in zip(starts, stops, strict=True):
                n_bytes = (file.n_bytes if stop is None else stop) - start
                spans.append((Span(file.name, start, stop), n_bytes, n_bytes))
        return files.joined(spans)

    def _read(self, split: str, unit: Unit, skip: int) -> Iterator[Document]:
        for span in unit.spans:
            file = self._files[span.name]
            if file.method is None and skip:
                skip -= 1
                continue
            with files.open_unchanged(file) as raw:
                if file.method is None:
                    yield Document(_part(raw, span.start, span.stop))
                    continue
                stream = compression.decompressed(raw, file.method, file.name)
                for document in _parts(stream, file.method, file.name, limits.expanded(file.size)):
                    if skip:
                        skip -= 1
                    else:
                        yield document

    def _fingerprint(self, split: str) -> str:
        digest = hashlib.sha256(b"text")
        for file in self._files.values():
            # Version 0.1 used the compressed bytes as the document; its stores need another fingerprint.
            digest.update(file.digest + (file.method or "").encode())
        return digest.hexdigest()


def _starts(size: int) -> list[int]:
    """Returns where the parts of a file of `size` bytes begin, before they are moved to lines."""
    return [0, *(n for n in range(DOCUMENT_BYTES, size, DOCUMENT_BYTES) if 2 * (size - n) >= DOCUMENT_BYTES)]


def _line_start(data: bytes | bytearray, place: int) -> int:
    """Returns the first place from `place` on at which a line begins, or else a character; `place` is at least 1."""
    if (end := data.find(b"\n", place - 1, place - 1 + _SEARCHED)) >= 0:
        return end + 1
    return next((i for i in range(place, min(place + 4, len(data))) if data[i] & 0xC0 != 0x80), min(place, len(data)))


def _part(file: BinaryIO, start: int, stop: int | None) -> bytes:
    """Returns the part of a plain file that begins at the line at `start` and ends at the line at `stop`."""
    before = min(start, 1)
    file.seek(start - before)
    data = file.read() if stop is None else file.read(stop - start + before + _SEARCHED)
    first = _line_start(data, 1) if start else 0
    return data[first : len(data) if stop is None else _line_start(data, stop - start + before)]


def _parts(stream: BinaryIO, method: str | None, name: str, most: int | None = None) -> Iterator[Document]:
    """Yields the documents of a stream.

    Raises:
        InputError: it is damaged, or has more than `most` bytes.
    """
    data = bytearray()
    size, begin = 0, 0  # of the stream; place in `data` at which the part begins, before it is moved to a line
    least = DOCUMENT_BYTES + max(DOCUMENT_BYTES // 2, _SEARCHED)
    try:
        while block := stream.read(_BLOCK_BYTES):
            size += len(block)
            if most is not None and size > most:
                raise InputError(
                    f"The file {name} unpacks to more than {most:,} bytes. Split it into documents, or allow more: "
                    f"{limits.HELP}."
                )
            data += block
            while len(data) - begin >= least:
                stop = _line_start(data, begin + DOCUMENT_BYTES)
                yield Document(bytes(data[:stop]))
                del data[:stop]
                begin += DOCUMENT_BYTES - stop
    except compression.DAMAGE as error:
        raise compression.damaged(name, method, 0, error) from error
    if 2 * (len(data) - begin) >= 3 * DOCUMENT_BYTES:  # a last part that is long enough, and shorter than the search
        stop = _line_start(data, begin + DOCUMENT_BYTES)
        yield Document(bytes(data[:stop]))
        del data[:stop]
    yield Document(bytes(data))


def _read_stream(stream: BinaryIO, method: str | None, name: str) -> Iterator[Document]:
    return _parts(stream, method, name)


def _open(rest: str, opener: Opener) -> Corpus:
    return standard_input.StandardInput("text:-", _read_stream) if rest == standard_input.NAME else TextFiles(rest)


SOURCE = Source("text", "text:PATH", "one file per document", _open)
