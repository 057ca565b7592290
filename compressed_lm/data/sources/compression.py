"""Compressed files of documents, recognised by their first bytes, not by their names."""

import contextlib
import gzip
import io
import zlib
from typing import Any, BinaryIO

from compressed_lm.data.sources import streams
from compressed_lm.data.sources.streams import Streams
from compressed_lm.errors import InputError

DAMAGE = (EOFError, zlib.error, OSError)
"""Exceptions from reading a truncated or damaged file; an `OSError` of the format has no number."""

HEAD_BYTES = 1 << 16
"""First bytes of a file that `sample` and the tests of its format need."""

BZ2_HEAD_BYTES = 1 << 20
"""The same for bzip2, whose blocks hold up to 900 kB of text."""

_SAMPLE_BYTES = 1 << 22
_BUFFER_BYTES = 1 << 17
_ZSTD = b"\x28\xb5\x2f\xfd"
_UNPACK = "unpack it and name its files"
_COLUMN = "write its column of text as JSON lines with a field `text`"
_REFUSED = (
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
    """Returns the compression of a file with these first bytes: gzip, bz2, xz or zstd; None for any other."""
    if head[:3] == b"\x1f\x8b\x08" and len(head) > 3 and not head[3] & 0xE0:  # reserved flags are 0
        return "gzip"
    if head[:3] == b"BZh" and head[3:4].isdigit() and head[4:10] in (b"1AY&SY", b"\x17rE8P\x90"):
        return "bz2"
    if head.startswith(_ZSTD):
        return "zstd"
    if head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F:  # a skippable frame, which LZ4 has, too
        after = head[8 + int.from_bytes(head[4:8], "little") :]
        return None if after and not after.startswith(_ZSTD) else "zstd"
    return "xz" if head.startswith(b"\xfd7zXZ\x00") else None


class Steps(io.RawIOBase):
    """Raw file that reads from a buffered one in small steps, so that an error loses nothing that was read before it.

    Args:
        file: the buffered file.
        head: bytes that come before it.
    """

    def __init__(self, file: Any, head: bytes = b"") -> None:
        self._file, self._head = file, memoryview(head)

    def readable(self) -> bool:
        """Returns True."""
        return True

    def readinto(self, buffer) -> int:
        """Reads into a buffer and returns the number of bytes; 0 at the end."""
        if not self._head:
            return self._file.readinto1(buffer)
        n = min(len(buffer), len(self._head))
        buffer[:n], self._head = self._head[:n], self._head[n:]
        return n


def decompressed(file: BinaryIO, found: str | None, name: str) -> BinaryIO:
    """Returns a buffered file of the text of a file.

    Args:
        file: the file, open at its beginning; it need not be seekable.
        found: its `method`; None returns the file itself.
        name: its name, for messages.

    Raises:
        InputError: the package that reads Zstandard is not installed.
    """
    if found is None:
        return file
    raw = Steps(gzip.GzipFile(fileobj=file)) if found == "gzip" else Streams(file, found, name)
    return io.BufferedReader(raw, _BUFFER_BYTES)


def refusal(head: bytes, tail: bytes = b"") -> tuple[str, str] | None:
    """Returns the kind of an unsupported file and what to do, by its first and last bytes; None for others."""
    for magic, what, action in _REFUSED:
        if head.startswith(magic):
            return what, action
    if head[257:262] == b"ustar":
        return "a tar archive", f"{_UNPACK}: tar xf {{path}}"
    if head.startswith(b"PAR1") and (head[4:5] == b"\x15" or b"PAR1" in tail[-5:]):  # a text may begin so
        return "a Parquet table", "name it as parquet:{path}"
    if head.startswith(b"ORC") and b"ORC" in tail[-5:]:
        return "an ORC table", _COLUMN
    return None


def check(head: bytes, tail: bytes, path: str, spec: str) -> None:
    """Checks that a file has a supported compression; other binary files are not refused.

    Raises:
        InputError: the compression or archive format is not supported (the message says what to do), or a compressed
            file is damaged at its beginning.
    """
    refused, outer = refusal(head, tail), method(head)
    if not refused and outer:
        inner, _ = sample(head, path)
        again = method(inner)
        refused = (f"{again}-compressed", "decompress it once") if again else refusal(inner)
        refused = refused and (f"{refused[0]} within {outer}", refused[1])
    if refused:
        raise InputError(
            f"The file {path} of the corpus {spec} is {refused[0]}, which is not supported there; plain files, gzip, "
            f"bzip2, xz and Zstandard are. Please {refused[1].format(path=path)}."
        )


def sample(head: bytes, path: str) -> tuple[bytes, int]:
    """Returns the first bytes of text of a file, and how many bytes of the file they are from.

    Raises:
        InputError: a compressed file is damaged at its beginning, or the package that reads Zstandard is missing.
    """
    if (found := method(head)) is None:
        return head, len(head)
    file, blocks, size = _Slow(head), [], 0
    stream = decompressed(file, found, path)
    try:
        while size < _SAMPLE_BYTES and (block := stream.read1(_BUFFER_BYTES)):  # type: ignore[attr-defined]
            blocks.append(block)
            size += len(block)
    except EOFError:  # the end of the head
        pass
    except DAMAGE as error:
        raise damaged(path, found, 0, error) from error
    return b"".join(blocks), file.tell()


class _Slow(io.BytesIO):
    """File that gives few bytes at a time, so that its position tells what was used."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(4096 if size is None or size < 0 else min(size, 4096))


def damaged(path: str, found: str | None, n_documents: int, error: Exception) -> InputError:
    """Returns the error of a compressed file that cannot be read to its end; reraises errors of the system."""
    if found is None or (isinstance(error, OSError) and error.errno):
        raise error
    tool = {"bz2": "bzip2"}.get(found, found)
    return InputError(
        f"The file {path} is truncated or damaged: {n_documents:,} documents were read, then decompression failed "
        f"({error}). Fetch the file again (`{tool} --test {path}` checks it) and run the same command; finished work "
        "is kept."
    )


def text_bytes(head: bytes, tail: bytes, size: int, path: str) -> int:
    """Returns about how many bytes of text a file has.

    It is the size that the file states, if it agrees within a factor of 1.5 with the ratio of the file's head: files of
    several streams state only the size of one.

    Args:
        head: the first bytes of the file; for `bz2` at least `BZ2_HEAD_BYTES` of them.
        tail: its last bytes.
        size: its size in bytes.
        path: its name, for messages.
    """
    found = method(head)
    if found is None:
        return size
    text, used = sample(head, path)
    estimate = len(text) if used >= size else round(len(text) * size / max(used, 1))
    stated = None
    if found == "gzip" and len(tail) >= 4:
        stated = int.from_bytes(tail[-4:], "little")  # modulo 4 GiB
        stated += round(max(estimate - stated, 0) / (1 << 32)) << 32
    elif found == "xz":
        stated = _xz_size(tail)
    elif found == "zstd" and head.startswith(_ZSTD):
        with contextlib.suppress(streams.zstandard(path).ZstdError):  # a header that is cut off
            stated = streams.zstandard(path).frame_content_size(head)
    return stated if stated and estimate / 1.5 <= stated <= 1.5 * estimate else estimate


def _xz_size(tail: bytes) -> int | None:
    """Returns the size of the text in the index at the end of an xz file (section 4 of its specification)."""
    tail = tail.rstrip(b"\0") if tail.endswith(b"\0") else tail
    if tail[-2:] != b"YZ" or len(tail) < 24:
        return None
    length = 4 * (int.from_bytes(tail[-8:-4], "little") + 1)
    index = tail[-12 - length : -12]
    if len(index) < length or index[0] != 0:
        return None
    numbers, value, shift = [], 0, 0
    for byte in index[1:-4]:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(value)
            value, shift = 0, 0
    n_records = numbers[0] if numbers else 0
    return sum(numbers[2 : 2 * n_records + 1 : 2])
