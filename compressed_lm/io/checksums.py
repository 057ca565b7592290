"""Files that begin with magic bytes and end with a checksum, and the errors of those that cannot be read."""

import dataclasses
import hashlib
import mmap
import zlib

from compressed_lm.errors import InputError


@dataclasses.dataclass(frozen=True)
class Frame:
    """Magic bytes at the beginning of a file and a checksum of everything before it at the end.

    Attributes:
        magic: first 8 bytes.
        version: version of the format.
        what: description of the file, for messages.
        writer: program or function that writes it, for messages.
        again: how to get a valid file, for messages; "" if only its source has one.
        crc: whether the checksum is a CRC-32 (u32, little endian) instead of SHA-256.
    """

    magic: bytes
    version: int
    what: str
    writer: str
    again: str = ""
    crc: bool = False

    def checksum(self, body: bytes | memoryview) -> bytes:
        """Returns the checksum of the bytes before it."""
        return zlib.crc32(body).to_bytes(4, "little") if self.crc else hashlib.sha256(body).digest()

    def body(self, content: bytes | mmap.mmap, name: str, *, least: int) -> memoryview:
        """Returns a file's content without its checksum.

        Args:
            content: the file, read or mapped.
            name: name of the file, for messages.
            least: smallest size of the body in bytes, magic bytes included.

        Raises:
            InputError: the file does not begin with the magic bytes, is too short, or has a wrong checksum.
        """
        if content[: len(self.magic)] != self.magic:
            raise InputError(
                f"{name} is not {self.what}: it does not begin with the bytes that {self.writer} writes. Give a file "
                "that it wrote."
            )
        size = 4 if self.crc else hashlib.sha256().digest_size
        body = memoryview(content)[: max(len(content) - size, 0)]
        if len(body) < least or self.checksum(body) != content[-size:]:
            raise InputError(
                f"{name} was truncated or changed: its {len(content)} bytes do not match the checksum at their end. "
                f"Restore it from its source{f', or {self.again}' if self.again else ''}."
            )
        return body

    def check_version(self, version: object, name: str) -> None:
        """Raises InputError if a file has another format version."""
        if version != self.version:
            raise InputError(
                f"{name} has format version {version}; this package reads version {self.version}. Read it with the "
                "version of compressed_lm that wrote it."
            )
