"""Reader of Zstandard files."""

import io
from types import ModuleType
from typing import Any, BinaryIO

from compressed_lm.data import extras

_INPUT_BYTES = 1 << 12  # a hostile block of 4 bytes unpacks to 128 kB: at most 128 MB a call
_OUTPUT_BYTES = 1 << 16
_LARGEST_WINDOW = 1 << 31  # `zstd --long=31`, as Reddit's and other archives are distributed


def zstandard(name: str) -> ModuleType:
    """Returns the package `zstandard`. Raises InputError if it is not installed; `name` is the file."""
    return extras.require(
        "zstandard", f"The file {name} is compressed by Zstandard", instead=f"decompress the file: zstd -d {name}"
    )


def decompressor(name: str) -> Any:
    """Returns a decompressor; `name` is the file. Raises InputError if the package is not installed."""
    return zstandard(name).ZstdDecompressor(max_window_size=_LARGEST_WINDOW)


class ZstdReader(io.RawIOBase):
    """Text of a Zstandard file, of all its frames.

    The package's own stream reader ends without an error at the end of a truncated file; this one raises EOFError.

    Args:
        file: the compressed file.
        name: its name, for messages.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._error = zstandard(name).ZstdError
        self._decompressor = decompressor(name)
        self._frame = self._decompressor.decompressobj(write_size=_OUTPUT_BYTES)
        self._begun = False  # whether the frame has any input
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
            block = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame = self._decompressor.decompressobj(write_size=_OUTPUT_BYTES)
                self._begun = False
            block = block or self._file.read(_INPUT_BYTES)
            if not block:
                if self._begun:
                    raise EOFError("the file ends within a frame")
                return 0
            self._begun = True
            try:
                self._output = memoryview(self._frame.decompress(block))
            except self._error as error:
                raise OSError(str(error)) from error
        n = min(len(buffer), len(self._output))
        buffer[:n] = self._output[:n]
        self._output = self._output[n:]
        return n

    def close(self) -> None:
        """Closes the compressed file, too."""
        self._file.close()
        super().close()
