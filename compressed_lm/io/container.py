"""Files of arrays: magic bytes, a JSON header that describes payloads, the payloads, a checksum.

Layout: 8 magic bytes; header length (u32, little endian); header (JSON, deflated for some kinds: format version,
further fields of the kind, and for each tensor its name, shape and bytes); the payloads, concatenated; SHA-256 of
everything before it.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import mmap
import os
import struct
import zlib
from collections.abc import Callable, Iterable
from typing import Any

from compressed_lm import io
from compressed_lm.errors import InputError
from compressed_lm.io import limits, remote, strict_json
from compressed_lm.io.checksums import Frame

_DIGEST = hashlib.sha256().digest_size
_MAX_HEADER = 1 << 26
_WEIGHTS_PER_BYTE = 4096  # 0.002 bits each: fewer than any model has


def checksum(path: str | os.PathLike) -> str:
    """Returns the hex digest at the end of a file that a `Kind` wrote."""
    with remote.open_input(path) as file:
        file.seek(-_DIGEST, os.SEEK_END)
        return file.read().hex()


class Payload:
    """Base class of stored arrays.

    Attributes:
        shape: shape of the array.
        payload: its stored bytes; a view of a mapped file, if they were read from one.
    """

    shape: tuple[int, ...]
    payload: bytes | memoryview

    @property
    def nbytes(self) -> int:
        """Size of the payload in bytes."""
        return len(self.payload)

    @property
    def bits_per_weight(self) -> float:
        """Bits of the payload per element."""
        return 8 * self.nbytes / max(1, math.prod(self.shape))


@dataclasses.dataclass(frozen=True)
class Kind:
    """Kind of file.

    Attributes:
        magic: first 8 bytes.
        version: version of the format.
        what: contents, for messages.
        writer: program or function that writes it, for messages.
        again: how to get a valid file, for messages.
        deflated: whether the header is deflated, for small files.
    """

    magic: bytes
    version: int
    what: str
    writer: str
    again: str
    deflated: bool = False

    @property
    def _frame(self) -> Frame:
        return Frame(self.magic, self.version, f"a file of {self.what}", self.writer, self.again)

    def write(self, path: str | os.PathLike, header: dict[str, Any], payloads: Iterable[bytes | memoryview]) -> int:
        """Writes a file atomically and returns its size in bytes.

        Args:
            path: path of the file, or - for the standard output.
            header: JSON object; its `tensors` is a list with name, shape and nbytes of each payload.
            payloads: payloads in the order of `tensors`; each is written before the next one is asked for.
        """
        text = json.dumps({"format_version": self.version} | header).encode()
        text = zlib.compress(text, 9) if self.deflated else text
        digest = hashlib.sha256()
        size = 0
        with io.open_output(path) as file:
            for chunk in itertools.chain((self.magic, struct.pack("<I", len(text)), text), payloads):
                digest.update(chunk)
                size += file.write(chunk)
            return size + file.write(digest.digest())

    def read(
        self, path: str | os.PathLike, make: Callable[[dict[str, Any], tuple[int, ...], Any], Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns the header of a file that `write` wrote, and its tensors by name, in file order.

        Args:
            path: path of the file, or - for the standard input.
            make: (description, shape, payload) -> tensor; may raise ValueError, KeyError or TypeError for an invalid
                description. The payload is a part of the file, which is mapped if it is a local one, so that it takes
                memory only while it is read.

        Raises:
            InputError: the file does not exist, is of another kind or version, was truncated or changed, or its header
                does not describe its payloads.
        """
        content, name = _content(path), io.shown(path)
        body = self._frame.body(content, name, least=len(self.magic) + 4)
        (length,) = struct.unpack_from("<I", body, len(self.magic))
        start = len(self.magic) + 4 + length
        try:
            text = bytes(body[len(self.magic) + 4 : start])
            header = strict_json.parse(_inflated(text) if self.deflated else text)
            version = header["format_version"]
            tensors = _tensors(header, body, start, make) if version == self.version else {}
        except (ValueError, KeyError, TypeError, zlib.error) as error:
            raise InputError(
                f"{name} has a header that cannot be read ({error!r}), though its checksum is right: another program "
                f"wrote it. {self.again[0].upper()}{self.again[1:]}."
            ) from error
        self._frame.check_version(version, name)
        return header, tensors


def _content(path: str | os.PathLike) -> bytes | mmap.mmap:
    """Returns the content of a file; a local one is mapped, not read."""
    if os.path.isfile(path) and not io.is_stream(path):
        with open(path, "rb") as file:
            with contextlib.suppress(ValueError, OSError):  # an empty file, or a file system that cannot map
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return io.read_bytes(path)


def _inflated(text: bytes) -> bytes:
    """Returns the inflated header. Raises ValueError or zlib.error if it is damaged or larger than 64 MiB."""
    inflater = zlib.decompressobj()
    inflated = inflater.decompress(text, _MAX_HEADER)
    if not inflater.eof or inflater.unused_data:
        raise ValueError("a header that is truncated, or larger than 64 MiB")
    return inflated


def _tensors(header: dict[str, Any], body: memoryview, start: int, make: Callable) -> dict[str, Any]:
    """Returns the tensors that a header describes. Raises ValueError unless they take the rest of the file."""
    tensors: dict[str, Any] = {}
    left = max(limits.document() // 4, _WEIGHTS_PER_BYTE * len(body))
    for entry in header["tensors"]:
        shape, nbytes = tuple(int(n) for n in entry["shape"]), int(entry["nbytes"])
        if min((nbytes, *shape)) < 0 or start + nbytes > len(body) or entry["name"] in tensors:
            raise ValueError(f"the entry {entry}")
        left -= math.prod(shape)
        if left < 0:
            raise ValueError(
                f"more elements than {len(body):,} bytes may represent, at the entry {entry} ({limits.HELP})"
            )
        tensors[entry["name"]] = make(entry, shape, body[start : start + nbytes])
        start += nbytes
    if start != len(body):
        raise ValueError(f"{len(body) - start} bytes that no entry describes")
    return tensors
