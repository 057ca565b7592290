"""Corpora of files: JSON lines and text files, plain or compressed by gzip, bzip2 or xz."""

import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Iterator
from typing import BinaryIO

from compressed_lm import io
from compressed_lm.data import compression
from compressed_lm.data.corpus import Corpus, Document, Source, Span, Unit
from compressed_lm.errors import InputError
from compressed_lm.io import limits

_FINGERPRINT_BYTES = 1 << 16
_BLOCK_BYTES = 1 << 22
_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


class _Files(Corpus):
    """One file, or the files that match a glob in alphabetical order, as the split `train`."""

    splits = ("train",)
    scheme: str

    def __init__(self, pattern: str) -> None:
        self.spec = f"{self.scheme}:{pattern}"
        self.paths = _matching(pattern, self.spec, ".json.gz" if self.scheme == "json" else ".txt")
        for path in self.paths:
            compression.check(path, self.spec)

    def _units(self, split: str) -> tuple[Unit, ...]:
        return tuple(Unit((Span(str(path)),), compression.uncompressed_size(path)) for path in self.paths)

    def _fingerprint(self, split: str) -> str:
        # Name, size and both ends, so that terabytes are not read twice. A .gz file ends with the checksum of its
        # content.
        digest = hashlib.sha256(self.scheme.encode())
        for path in self.paths:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                head = file.read(_FINGERPRINT_BYTES)
                file.seek(max(size - _FINGERPRINT_BYTES, 0))
                digest.update(json.dumps([path.name, size]).encode() + hashlib.sha256(head + file.read()).digest())
                digest.update(self._reading(head))
        return digest.hexdigest()

    def _reading(self, head: bytes) -> bytes:
        """Returns bytes that identify the reading of a file, if its documents depend on more than its bytes."""
        return b""


class TextFiles(_Files):
    """One document per file: its bytes, decompressed if the file is compressed."""

    scheme = "text"

    def _read(self, split: str, unit: Unit, skip: int) -> Iterator[Document]:
        for span in unit.spans[skip:]:
            path = pathlib.Path(span.name)
            most, size = limits.expanded(path.stat().st_size), 0
            blocks: list[bytes] = []
            with compression.open_file(path) as file:
                try:
                    while block := file.read(_BLOCK_BYTES):
                        blocks.append(block)
                        size += len(block)
                        if size > most:
                            raise InputError(
                                f"The file {path} unpacks to more than {most:,} bytes. Split it into documents, or "
                                f"allow more: {limits.HELP}."
                            )
                except compression.DAMAGE as error:
                    raise compression.damaged(path, 0, error) from error
            yield Document(b"".join(blocks))

    def _reading(self, head: bytes) -> bytes:
        # Version 0.1 used the compressed bytes as the document; its stores need another fingerprint.
        return (compression.method(head) or "").encode()


class JsonLines(_Files):
    """One JSON object per line, C4's format: the document is its field `text` in UTF-8; other fields are ignored."""

    scheme = "json"

    def _read(self, split: str, unit: Unit, skip: int) -> Iterator[Document]:
        paths = [pathlib.Path(span.name) for span in unit.spans]
        lines = ((path, *line) for path in paths for line in _lines(path))
        for path, number, line in itertools.islice(lines, skip, None):
            yield Document(_text(path, number, line))


def _matching(pattern: str, spec: str, ending: str) -> list[pathlib.Path]:
    """Returns the file of exactly this name if it exists, otherwise the files that match it as a glob."""
    path = io.local_path(pattern, f"In the corpus {spec},")
    if path.is_file():
        return [path]
    if path.exists():
        what, action = "is not a regular file, and a corpus is read several times", "Store its content in a file first"
        if path.is_dir():
            what, action = "is a folder", f"Name its files, such as {spec.rstrip('/')}/*{ending}"
        raise InputError(f"The path {pattern!r} of the corpus {spec} {what}. {action}.")
    paths = [found for found in io.matching(path) if found.is_file()]
    if not paths:
        scheme = spec.partition(":")[0]
        parts = f" Each part of a mixture begins with a scheme: mix:{scheme}:A,{scheme}:B." if "," in pattern else ""
        raise InputError(
            f"No file matches {pattern!r} of the corpus {spec}, as a name or as a glob (working directory: "
            f"{os.getcwd()}). Give a path or a glob that matches at least one file, such as "
            f"{scheme}:data/train-*{ending}.{parts}"
        )
    return paths


def _lines(path: pathlib.Path) -> Iterator[tuple[int, bytes]]:
    """Yields (line number, line) of every line that is not blank.

    Unlike `io.jsonl`, it decompresses files, bounds the length of a line, and also reads an unfinished last line: a
    document must not be lost without an error.
    """
    n_documents = 0
    with compression.open_file(path) as file:
        try:
            for number, line in enumerate(_read_lines(file, path), 1):
                if number == 1:
                    line = line.removeprefix(_BOM)
                if line and not line.isspace():
                    if not n_documents:
                        _check_first(path, line)
                    yield number, line
                    n_documents += 1
        except compression.DAMAGE as error:
            raise compression.damaged(path, n_documents, error) from error


def _read_lines(file: BinaryIO, path: pathlib.Path) -> Iterator[bytes]:
    """Yields the lines of a file. Raises InputError if a line is too large for memory."""
    most, number = limits.document(), 1
    while line := file.readline(most + 1):
        if len(line) > most:
            raise InputError(
                f"Line {number} of {path} has more than {most:,} bytes; one document per line was expected. Split it "
                f"into documents, or allow more: {limits.HELP}."
            )
        yield line
        number += 1


def _check_first(path: pathlib.Path, line: bytes) -> None:
    """Raises InputError if the first line shows that a file has a similar format instead of JSON lines."""
    start, problem = line.strip(), None
    if line.startswith(_UTF16) or b"\x00" in line[:4]:
        problem = "is UTF-16 or UTF-32; UTF-8 was expected", f"iconv -f UTF-16 -t UTF-8 {path}"
    elif start.startswith(b"["):
        problem = "is one JSON array; one object per line was expected", f"jq -c '.[]' {path}"
    elif start == b"{":
        problem = "has objects of several lines; one object per line was expected", f"jq -c . {path}"
    if problem:
        raise InputError(f"The file {path} {problem[0]}, with a field `text`, as in C4. Convert it: {problem[1]}.")


def _text(path: pathlib.Path, number: int, line: bytes) -> bytes:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"Line {number} of {path} ({path}:{number}) is not valid JSON: {error}. Each line must be one JSON object "
            "with a field `text`, as in C4; correct or remove the line."
        ) from None
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        found = (
            f"an object with the fields {', '.join(sorted(value)) or '(none)'}"
            if isinstance(value, dict)
            else f"a {type(value).__name__}"
        )
        raise InputError(
            f"Line {number} of {path} ({path}:{number}) is {found}; an object with a field `text` that is a string was "
            "expected, as in C4. Correct or remove the line, or rename the field."
        )
    # JSON may have a lone surrogate, which is not valid UTF-8; "surrogatepass" keeps the document.
    return value["text"].encode("utf-8", "surrogatepass")


JSON = Source(
    "json", "json:PATH", "JSON lines with a field `text`, as C4 is distributed", lambda rest, opener: JsonLines(rest)
)
TEXT = Source("text", "text:PATH", "one file per document", lambda rest, opener: TextFiles(rest))
