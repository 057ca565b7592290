"""Files of arrays: magic, a JSON header that describes payloads, the payloads, a checksum.

A file is 8 bytes of magic; header length (u32, little endian); header (JSON, of some kinds deflated: format version,
whatever else its kind needs and, for each tensor, its description, with name, shape and bytes); the payloads one after
the other; SHA-256 of all that stands before it.
"""

import dataclasses
import hashlib
import json
import math
import os
import struct
import zlib
from collections.abc import Callable, Iterable

from compressed_lm import io
from compressed_lm.errors import InputError
from compressed_lm.io import limits, strict_json

_DIGEST = hashlib.sha256().digest_size
_MAX_HEADER = 1 << 26
_WEIGHTS_A_BYTE = 4096  # 0.002 bits each: no model has as few


def checksum(path) -> str:
    """Returns the hex digest at the end of a file that a `Kind` wrote and read."""
    with open(path, "rb") as file:
        file.seek(-_DIGEST, os.SEEK_END)
        return file.read().hex()


class Payload:
    """An array as it is stored, with the attributes `shape` and `payload`: what its size is."""

    shape: tuple[int, ...]
    payload: bytes

    @property
    def nbytes(self) -> int:
        """Stored bytes."""
        return len(self.payload)

    @property
    def bits_per_weight(self) -> float:
        """Stored bits over weights."""
        return 8 * self.nbytes / max(1, math.prod(self.shape))


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        magic: its first 8 bytes.
        version: of its format.
        what: what is in it, for messages.
        writer: what writes it, for messages.
        again: what to do to get a good one, for messages.
        deflated: whether the header is, for small files.
    """

    magic: bytes
    version: int
    what: str
    writer: str
    again: str
    deflated: bool = False

    def write(self, path, header: dict, payloads: Iterable[bytes]) -> int:
        """Writes a file, at once or not at all, and returns its bytes.

        Args:
            path: of the file, or - for the standard output.
            header: what JSON can hold; `tensors`, a list with name, shape and nbytes of each payload, among it.
            payloads: in the order of `tensors`.
        """
        text = json.dumps({"format_version": self.version} | header).encode()
        text = zlib.compress(text, 9) if self.deflated else text
        digest = hashlib.sha256()
        size = 0
        with io.open_output(path) as file:
            for chunk in (self.magic, struct.pack("<I", len(text)), text, *payloads):
                digest.update(chunk)
                size += file.write(chunk)
            return size + file.write(digest.digest())

    def read(self, path, make: Callable) -> tuple[dict, dict]:
        """Returns the header of a file that `write` wrote, and its tensors by name, in its order.

        Args:
            path: of the file, or - for the standard input.
            make: (description, shape, payload) -> tensor; it may raise ValueError, KeyError and TypeError for a
                description that is none.

        Raises:
            InputError: no such file, not one of this kind, truncated, changed, of another version, or with a header
                that does not describe its payloads.
        """
        content, path = io.read_bytes(path), io.shown(path)
        if not content.startswith(self.magic):
            raise InputError(
                f"{path} is not a file of {self.what}: it does not begin with the bytes that {self.writer} writes. "
                "Give a file that it wrote."
            )
        body = memoryview(content)[:-_DIGEST]
        if len(body) < len(self.magic) + 4 or hashlib.sha256(body).digest() != content[-_DIGEST:]:
            raise InputError(
                f"{path} was truncated or changed: its {len(content)} bytes do not match the checksum at their end. "
                f"Restore it from its source, or {self.again}."
            )
        (length,) = struct.unpack_from("<I", body, len(self.magic))
        start = len(self.magic) + 4 + length
        try:
            text = bytes(body[len(self.magic) + 4 : start])
            header = strict_json.parse(_inflated(text) if self.deflated else text)
            version = header["format_version"]
            tensors = _tensors(header, body, start, make) if version == self.version else {}
        except (ValueError, KeyError, TypeError, zlib.error) as error:
            raise InputError(
                f"{path} has a header that cannot be read ({error!r}), though its checksum is right: another program "
                f"wrote it. {self.again[0].upper()}{self.again[1:]}."
            ) from error
        if version != self.version:
            raise InputError(
                f"{path} has format version {version}; this package reads version {self.version}. Read it with the "
                "version of compressed_lm that wrote it."
            )
        return header, tensors


def _inflated(text: bytes) -> bytes:
    """Returns the bytes that were deflated. Raises ValueError or zlib.error for others, and for very many."""
    inflater = zlib.decompressobj()
    inflated = inflater.decompress(text, _MAX_HEADER)
    if not inflater.eof or inflater.unused_data:
        raise ValueError("a header cut short, or of more than 64 MiB")
    return inflated


def _tensors(header, body, start, make):
    """Returns the tensors that a header describes. Raises ValueError unless they take the rest of the file."""
    tensors, left = {}, max(limits.document() // 4, _WEIGHTS_A_BYTE * len(body))
    for entry in header["tensors"]:
        shape, nbytes = tuple(int(n) for n in entry["shape"]), int(entry["nbytes"])
        if min((nbytes, *shape)) < 0 or start + nbytes > len(body) or entry["name"] in tensors:
            raise ValueError(f"the entry {entry}")
        left -= math.prod(shape)
        if left < 0:
            raise ValueError(
                f"more numbers than {len(body):,} bytes may stand for, at the entry {entry} ({limits.HELP})"
            )
        tensors[entry["name"]] = make(entry, shape, bytes(body[start : start + nbytes]))
        start += nbytes
    if start != len(body):
        raise ValueError(f"{len(body) - start} bytes that no entry describes")
    return tensors
