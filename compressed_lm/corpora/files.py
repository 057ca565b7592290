"""Corpora that are files: JSON lines (plain or .gz) and whole text files."""

import glob
import gzip
import hashlib
import json
import os
import pathlib
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from compressed_lm.corpora.corpus import Corpus
from compressed_lm.errors import InputError

_GZIP_MAGIC = b"\x1f\x8b"
_FINGERPRINT_BYTES = 1 << 16


class _Files(Corpus):
    """Files that match a glob, in alphabetical order, as the one split `train`."""

    splits = ("train",)
    scheme: str

    def __init__(self, pattern: str):
        self.spec = f"{self.scheme}:{pattern}"
        self.paths = [
            pathlib.Path(path)
            for path in sorted(glob.glob(os.path.expanduser(pattern), recursive=True))
            if os.path.isfile(path)
        ]
        if not self.paths:
            raise InputError(
                f"No file matches {pattern!r} of the corpus {self.spec} (working directory: {os.getcwd()}). Give a "
                "path or a glob that matches at least one file, such as "
                f"{self.scheme}:data/train-*{'.json.gz' if self.scheme == 'json' else '.txt'}."
            )

    def estimated_bytes(self, split: str) -> int:
        return sum(map(_uncompressed_size, self.paths))

    def _fingerprint(self, split: str) -> str:
        # Name, size and both ends: a .gz file ends in the checksum of its whole content, and terabytes need not be read
        # twice.
        digest = hashlib.sha256(self.scheme.encode())
        for path in self.paths:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                head = file.read(_FINGERPRINT_BYTES)
                file.seek(max(size - _FINGERPRINT_BYTES, 0))
                digest.update(json.dumps([path.name, size]).encode() + hashlib.sha256(head + file.read()).digest())
        return digest.hexdigest()


class TextFiles(_Files):
    """One file a document, its bytes as they are."""

    scheme = "text"

    def _documents(self, split: str, shard: int, n_shards: int) -> Iterator[bytes]:
        for path in self.paths[shard::n_shards]:
            yield path.read_bytes()


class JsonLines(_Files):
    """One JSON object a line, C4's format: the document is the UTF-8 of its field `text`; other fields are ignored."""

    scheme = "json"

    def _documents(self, split: str, shard: int, n_shards: int) -> Iterator[bytes]:
        by_file = len(self.paths) >= n_shards
        index = -1
        for path in self.paths[shard::n_shards] if by_file else self.paths:
            for number, line in _lines(path):
                index += 1
                if by_file or index % n_shards == shard:
                    yield _text(path, number, line)


def _lines(path: pathlib.Path) -> Iterator[tuple[int, bytes]]:
    """(line number, line) of every line that is not blank."""
    n_documents = 0
    with _open(path) as file:
        try:
            for number, line in enumerate(file, 1):
                if not line.isspace():
                    yield number, line
                    n_documents += 1
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InputError(
                f"The file {path} is cut short or damaged: {n_documents:,} documents were read, then decompression "
                f"stopped ({error}). Fetch the file again (`gzip --test {path}` checks it) and run the same command; "
                "finished work is kept."
            ) from error


def _text(path: pathlib.Path, number: int, line: bytes) -> bytes:
    try:
        value = json.loads(line)
    except ValueError as error:
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
            f"Line {number} of {path} ({path}:{number}) is {found}, and an object with a field `text` that is a string "
            "was expected, as in C4. Correct or remove the line, or rename the field."
        )
    # JSON may spell half of a surrogate pair; it has no UTF-8, and this keeps the document instead of losing the run.
    return value["text"].encode("utf-8", "surrogatepass")


def _open(path: pathlib.Path) -> BinaryIO:
    file = open(path, "rb")
    return gzip.GzipFile(fileobj=file) if _is_gzip(file) else file


def _is_gzip(file: BinaryIO) -> bool:
    magic = file.read(2)
    file.seek(0)
    return magic == _GZIP_MAGIC


def _uncompressed_size(path: pathlib.Path) -> int:
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size >= 18 and _is_gzip(file):
            file.seek(-4, os.SEEK_END)
            return int.from_bytes(
                file.read(4), "little"
            )  # exact below 4 GiB and for one member, enough for a progress bar
        return size
