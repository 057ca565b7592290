"""Files of a corpus, and their division into units of work.

The division is a function of the files alone. A plain file of JSON lines is divided into ranges of `UNIT_BYTES` bytes;
a last range shorter than half of it belongs to the range before, and a line belongs to the range in which it begins. A
Parquet file is divided into runs of row groups with about `UNIT_BYTES` bytes of text. A compressed file is not divided.
Consecutive files with at most an eighth of `UNIT_BYTES` together are one unit.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from typing import BinaryIO, TypeVar

from compressed_lm import io
from compressed_lm.data import corpus as corpus_lib
from compressed_lm.data.corpus import Span, Unit
from compressed_lm.data.sources import compression
from compressed_lm.errors import InputError
from compressed_lm.io import remote

_FINGERPRINT_BYTES = 1 << 16
_BUFFER_BYTES = 1 << 17
_THREADS = 16  # for requests to object stores
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class File:
    """File of a corpus, as it was when the corpus was opened.

    Attributes:
        name: its path.
        size: its size in bytes.
        method: its compression (`compression.method`); None for plain files.
        n_bytes: about how many bytes it has uncompressed.
        n_text_bytes: about how many bytes of text its documents have.
        digest: digest of its name, its size and both ends, so that terabytes are not read twice. A .gz file ends with
            the checksum of its content.
    """

    name: str
    size: int
    method: str | None
    n_bytes: int
    n_text_bytes: int
    digest: bytes


def find(pattern: str, spec: str, ending: str) -> list[str]:
    """Returns the file of exactly this name if it exists, otherwise the files that match it as a glob, sorted.

    Args:
        pattern: path or glob, local or in an object store.
        spec: spec of the corpus, for messages.
        ending: usual ending of such files, for messages.

    Raises:
        InputError: no file matches, or the path is a folder or a pipe.
    """
    path = io.any_path(pattern, f"In the corpus {spec},")
    kind = _kind(os.fspath(path))
    if kind == "file":
        return [os.fspath(path)]
    if kind is not None:
        what, action = "is not a regular file, and a corpus is read several times", "Store its content in a file first"
        if kind == "directory":
            what, action = "is a folder", f"Name its files, such as {spec.rstrip('/')}/*{ending}"
        raise InputError(f"The path {pattern!r} of the corpus {spec} {what}. {action}.")
    names = [os.fspath(found) for found in io.matching(path, files=True)]
    if not names:
        scheme = spec.partition(":")[0].partition("(")[0]
        parts = f" Each part of a mixture begins with a scheme: mix:{scheme}:A,{scheme}:B." if "," in pattern else ""
        where = "" if io.is_remote(path) else f" (working directory: {os.getcwd()})"
        raise InputError(
            f"No file matches {pattern!r} of the corpus {spec}, as a name or as a glob{where}. Give a path or a glob "
            f"that matches at least one file, such as {scheme}:data/train-*{ending}.{parts}"
        )
    return names


def _kind(path: str) -> str | None:
    """Returns "file", "directory" or "other" for an existing path; None otherwise."""
    if io.is_remote(path):
        try:
            return remote.stat(path)["type"]
        except FileNotFoundError:
            return None
    if not os.path.exists(path):
        return None
    return "file" if os.path.isfile(path) else "directory" if os.path.isdir(path) else "other"


def for_each(names: Iterable[str], function: Callable[[str], _T]) -> list[_T]:
    """Returns the results of a function of each file; files in object stores are asked at the same time."""
    names = list(names)
    if not any(map(io.is_remote, names)):
        return list(map(function, names))
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(function, names))


def probe(name: str, spec: str, *, share: Callable[[bytes], float] | None = None) -> File:
    """Returns the description of a file of documents, from its first and last bytes.

    Args:
        name: its path.
        spec: spec of the corpus, for messages.
        share: function from the first bytes of its content to the share of text in it; None if all of it is text.

    Raises:
        InputError: its format is not supported, or it is damaged at its beginning.
    """
    head, tail, size = ends(name)
    compression.check(head, tail, name, spec)
    longer = head
    if (method := compression.method(head)) == "bz2":
        with open_raw(name) as file:
            longer = file.read(compression.BZ2_HEAD_BYTES)
    n_bytes = compression.text_bytes(longer, tail, size, name)
    n_text_bytes = round(n_bytes * share(compression.sample(longer, name)[0])) if share else n_bytes
    return File(name, size, method, n_bytes, n_text_bytes, digest(name, head, tail, size))


def ends(name: str) -> tuple[bytes, bytes, int]:
    """Returns the first and the last bytes of a file, and its size in bytes."""
    with open_raw(name) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        head = file.read(_FINGERPRINT_BYTES)
        file.seek(max(size - _FINGERPRINT_BYTES, 0))
        return head, file.read(), size


def digest(name: str, head: bytes, tail: bytes, size: int) -> bytes:
    """Returns bytes for a fingerprint that change if a file does."""
    return json.dumps([os.path.basename(name), size]).encode() + hashlib.sha256(head + tail).digest()


def open_raw(name: str) -> BinaryIO:
    """Opens a file, local or in an object store, for buffered reading."""
    return remote.open_input(name) if io.is_remote(name) else open(name, "rb", buffering=_BUFFER_BYTES)


def open_unchanged(file: File) -> BinaryIO:
    """Opens a file of a corpus.

    Raises:
        InputError: it has another size than before, or no longer exists.
    """
    try:
        opened = open_raw(file.name)
    except FileNotFoundError as error:
        raise InputError(
            f"The file {file.name} no longer exists; it did when the corpus was opened. Restore it and run the same "
            "command; finished work is kept."
        ) from error
    size = opened.seek(0, os.SEEK_END)
    opened.seek(0)
    if size != file.size:
        opened.close()
        raise InputError(
            f"The file {file.name} has {size:,} bytes; it had {file.size:,} when the corpus was opened. Wait until no "
            "program writes to it, and run the command again."
        )
    return opened


def ranges(name: str, size: int) -> list[tuple[Span, int]]:
    """Returns the byte ranges of a plain file, each with its size; one for all of a small file."""
    unit = corpus_lib.UNIT_BYTES
    edges = [*range(0, (2 * size - unit) // 2 + 1, unit), size] if 2 * size >= 3 * unit else []
    if not edges:
        return [(Span(name), size)]
    return [(Span(name, start, stop), stop - start) for start, stop in zip(edges[:-1], edges[1:], strict=True)]


def joined(pieces: Iterable[tuple[Span, int, int]]) -> tuple[Unit, ...]:
    """Returns units of consecutive pieces, given as (span, size in bytes, bytes of text); small ones are joined."""
    units: list[Unit] = []
    spans: list[Span] = []
    size = n_bytes = 0
    for span, its_size, its_bytes in pieces:
        if spans and size + its_size > corpus_lib.UNIT_BYTES // 8:
            units.append(Unit(tuple(spans), n_bytes))
            spans, size, n_bytes = [], 0, 0
        spans.append(span)
        size += its_size
        n_bytes += its_bytes
    if spans:
        units.append(Unit(tuple(spans), n_bytes))
    return tuple(units)
