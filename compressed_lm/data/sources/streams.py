"""Reader of compressed files of several streams, one after another: bzip2, xz, Zstandard.

The readers of Python and of the package `zstandard` end without an error at damage between two streams, or at the end
of a truncated Zstandard file; this one raises an error.
"""

import bz2
import io
import lzma
from collections.abc import Callable
from types import ModuleType
from typing import Any, BinaryIO

from compressed_lm.data.sources import extras

_INPUT_BYTES = 1 << 12  # a hostile block of Zstandard of 4 bytes unpacks to 128 kB: at most 128 MB a call
_OUTPUT_BYTES = 1 << 16
_MOST_MEMORY = 1 << 31
"""Bytes that a stream may ask for: `zstd --long=31`, as some archives of web text are distributed, needs them."""


class Streams(io.RawIOBase):
    """Text of all streams of a file.

    Args:
        file: the compressed file; it need not be seekable.
        method: bz2, xz or zstd.
        name: its name, for messages.
    """

    def __init__(self, file: BinaryIO, method: str, name: str) -> None:
        self._file = file
        self._new, self._error = _decompressors(method, name)
        self._limit = () if method == "zstd" else (_OUTPUT_BYTES,)
        self._stream = self._new()
        self._begun = False  # whether the stream has any input
        self._output = memoryview(b"")

    def readable(self) -> bool:
        """Returns True."""
        return True

    def readinto(self, buffer) -> int:
        """Reads text into a buffer and returns the number of bytes; 0 at the end.

        Raises:
            EOFError: the file is truncated.
            OSError: the file is damaged.
        """
        while not self._output:
            block = b""
            if self._stream.eof:
                block = self._stream.unused_data
                self._stream, self._begun = self._new(), False
            if not block and not (self._limit and self._begun and not self._stream.needs_input):
                block = self._file.read(_INPUT_BYTES)
                if not block and self._begun:
                    raise EOFError("the file ends within a stream")
                if not block:
                    return 0
            if not self._begun and not (block := block.lstrip(b"\0")):  # padding between streams
                continue
            self._begun = True
            try:
                found = self._stream.decompress(block, *self._limit)
            except self._error as error:
                raise OSError(str(error)) from error
            self._output = memoryview(found)
        n = min(len(buffer), len(self._output))
        buffer[:n] = self._output[:n]
        self._output = self._output[n:]
        return n


def zstandard(name: str) -> ModuleType:
    """Returns the package `zstandard`. Raises InputError if it is not installed; `name` is the file."""
    return extras.require(
        "zstandard", f"The file {name} is compressed by Zstandard", instead=f"decompress the file: zstd -d {name}"
    )


def _decompressors(method: str, name: str) -> tuple[Callable[[], Any], type[Exception]]:
    """Returns a function that makes the decompressor of a stream, and the type of its errors."""
    if method == "bz2":
        return bz2.BZ2Decompressor, OSError
    if method == "xz":
        return lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MOST_MEMORY), lzma.LZMAError
    package = zstandard(name)
    decompressor = package.ZstdDecompressor(max_window_size=_MOST_MEMORY)
    return lambda: decompressor.decompressobj(write_size=_OUTPUT_BYTES), package.ZstdError
