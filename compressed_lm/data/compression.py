"""Compressed files of documents, recognised by their first bytes, not by their names."""

import bz2
import gzip
import io
import lzma
import os
import pathlib
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

from compressed_lm.errors import InputError

HEAD_BYTES = 512
DAMAGE = (EOFError, zlib.error, lzma.LZMAError, OSError)
"""Exceptions from reading a truncated or damaged file; gzip and bz2 raise an `OSError` without a number."""

_UNPACK = "unpack it and name its files"
_COLUMN = "write its column of text as JSON lines with a field `text`"
_REFUSED = (
    (b"\x28\xb5\x2f\xfd", "Zstandard-compressed", "decompress it: zstd -d {path}"),
    (b"\x04\x22\x4d\x18", "LZ4-compressed", "decompress it: lz4 -d {path}"),
    (b"\xff\x06\x00\x00sNaPpY", "Snappy-compressed", "decompress it"),
    (b"LZIP\x01", "lzip-compressed", "decompress it: lzip -d {path}"),
    (b"\x89LZO\x00\r\n\x1a\n", "lzop-compressed", "decompress it: lzop -d {path}"),
    (b"\x1f\x9d\x90", "compressed by `compress`", "decompress it: uncompress {path}"),
    (b"PK\x03\x04", "a ZIP archive", f"{_UNPACK}: unzip {{path}}"),
    (b"PK\x05\x06", "a ZIP archive", f"{_UNPACK}: unzip {{path}}"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", f"{_UNPACK}: 7z x {{path}}"),
    (b"Rar!\x1a\x07", "a RAR archive", f"{_UNPACK}: unrar x {{path}}"),
    (b"ARROW1\x00\x00", "an Arrow (Feather) table", _COLUMN),
    (b"Obj\x01", "an Avro file", _COLUMN),
    (b"\x89CLM\r\n\x1a\n", "a file that `compressed-lm encode` wrote", "decode it: compressed-lm decode {path} ..."),
)
"""First bytes, kind of the file, and what to do with it."""


def method(head: bytes) -> str | None:
    """Returns the compression of a file with these first bytes: gzip, bz2 or xz; None for any other."""
    if head[:3] == b"\x1f\x8b\x08" and len(head) > 3 and not head[3] & 0xE0:  # reserved flags are 0
        return "gzip"
    if head[:3] == b"BZh" and head[3:4].isdigit() and head[4:10] in (b"1AY&SY", b"\x17rE8P\x90"):
        return "bz2"
    return "xz" if head.startswith(b"\xfd7zXZ\x00") else None


def open_file(path: pathlib.Path) -> BinaryIO:
    """Opens a file for reading, and decompresses gzip, bzip2 and xz."""
    with open(path, "rb") as file:
        found = method(_head(file))
    openers: dict[str | None, Callable[..., Any]] = {None: open, "gzip": gzip.open, "bz2": bz2.open, "xz": lzma.open}
    return openers[found](path, "rb")


def check(path: pathlib.Path, spec: str) -> None:
    """Checks that a file has a supported compression; other binary files are not refused.

    Raises:
        InputError: the compression or archive format is not supported (the message says what to do), or a compressed
            file is damaged at its beginning.
    """
    with open(path, "rb") as file:
        head = _head(file)
        refusal = _refusal(head, file)
    if not refusal and (outer := method(head)):
        with open_file(path) as file:
            try:
                head = file.read(HEAD_BYTES)
            except DAMAGE as error:
                raise damaged(path, 0, error) from error
        again = method(head)
        refusal = (f"{again}-compressed", "decompress it once") if again else _refusal(head)
        refusal = refusal and (f"{refusal[0]} within {outer}", refusal[1])
    if refusal:
        raise InputError(
            f"The file {path} of the corpus {spec} is {refusal[0]}, which is not supported; gzip, bzip2 and xz are. "
            f"Please {refusal[1].format(path=path)}."
        )


def damaged(path: pathlib.Path, n_documents: int, error: Exception) -> InputError:
    """Returns the error of a compressed file that cannot be read to its end; reraises errors of the system."""
    if isinstance(error, OSError) and error.errno:
        raise error
    with open(path, "rb") as file:
        found = str(method(_head(file)))
    return InputError(
        f"The file {path} is truncated or damaged: {n_documents:,} documents were read, then decompression failed "
        f"({error}). Fetch the file again (`{'bzip2' if found == 'bz2' else found} --test {path}` checks it) and run "
        "the same command; finished work is kept."
    )


def uncompressed_size(path: pathlib.Path) -> int | None:
    """Returns about how many bytes a file holds; None if only reading it would tell."""
    with open(path, "rb") as file:
        size, found = os.fstat(file.fileno()).st_size, method(_head(file))
        if found == "gzip" and size >= 18:
            file.seek(-4, os.SEEK_END)
            # exact for one member below 4 GiB, which is enough for a progress bar
            return int.from_bytes(file.read(4), "little")
    return size if found is None else None


def _head(file: BinaryIO) -> bytes:
    file.seek(0)
    head = file.read(HEAD_BYTES)
    file.seek(0)
    return head


def _refusal(head: bytes, file: BinaryIO | None = None) -> tuple[str, str] | None:
    """Returns the kind of an unsupported file and what to do; None for others. `file` is for checks of its end."""
    for magic, what, action in _REFUSED:
        if head.startswith(magic):
            return what, action
    if head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F:  # a skippable frame comes first
        return _REFUSED[0][1:]
    if head[257:262] == b"ustar":
        return "a tar archive", f"{_UNPACK}: tar xf {{path}}"
    if head.startswith(b"PAR1") and (head[4:5] == b"\x15" or (file and b"PAR1" in _tail(file))):  # a text may begin so
        return "a Parquet table", _COLUMN
    if head.startswith(b"ORC") and file and b"ORC" in _tail(file):
        return "an ORC table", _COLUMN
    return None


def _tail(file: BinaryIO) -> bytes:
    file.seek(0, io.SEEK_END)
    file.seek(max(file.tell() - 5, 0))
    return file.read()
