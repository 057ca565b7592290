"""Reader of a remote object: seekable, with blocks requested ahead of the reader."""

import collections
import concurrent.futures
import io
import os
from collections.abc import Callable
from typing import BinaryIO

FIRST_BYTES = 1 << 18
"""Size of the first block after a jump; the next ones are twice as large each, up to `BLOCK_BYTES`."""

BLOCK_BYTES = 8 << 20
AHEAD = 2
"""Blocks that are requested before they are read."""


class RemoteInput(io.RawIOBase):
    """Raw file of a remote object.

    Args:
        path: the object.
        size: its size in bytes.
        read: (path, start, stop) -> bytes; called from threads.
    """

    def __init__(self, path: str | os.PathLike, size: int, read: Callable[[str | os.PathLike, int, int], bytes]):
        self.name = os.fspath(path)
        self._path, self._size, self._read_range = path, size, read
        self._position = 0
        self._block, self._block_start = b"", 0
        self._length = FIRST_BYTES
        self._requested: collections.deque[tuple[int, concurrent.futures.Future[bytes], int]] = collections.deque()
        self._threads: concurrent.futures.ThreadPoolExecutor | None = None

    def buffered(self) -> BinaryIO:
        """Returns a buffered file of this object."""
        return io.BufferedReader(self, 1 << 16)

    def readable(self) -> bool:
        """Returns True."""
        return True

    def seekable(self) -> bool:
        """Returns True."""
        return True

    def tell(self) -> int:
        """Returns the position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Sets and returns the position."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative position {base + offset} in {self.name}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer) -> int:
        """Reads into a buffer and returns the number of bytes; 0 at the end."""
        if self.closed:
            raise ValueError(f"{self.name} is closed")
        if self._position >= self._size:
            return 0
        offset = self._position - self._block_start
        if not 0 <= offset < len(self._block):
            block = self._fetch(self._position)
            self._block, self._block_start, offset = block, self._position, 0
        n = min(len(buffer), len(self._block) - offset)
        buffer[:n] = self._block[offset : offset + n]
        self._position += n
        return n

    def _fetch(self, start: int) -> bytes:
        """Returns the block at a position; once two blocks in a row were read, requests the following ones."""
        sequential = bool(self._block) and start == self._block_start + len(self._block)
        if self._requested and self._requested[0][0] == start:
            block = self._requested.popleft()[1].result()
        else:
            self._forget()
            self._length = min(2 * self._length, BLOCK_BYTES) if sequential else FIRST_BYTES
            block = self._read_range(self._path, start, min(start + self._length, self._size))
        if sequential:
            self._request_ahead(start + len(block))
        return block

    def _request_ahead(self, start: int) -> None:
        for _ in range(AHEAD - len(self._requested)):
            at = self._requested[-1][2] if self._requested else start
            if at >= self._size:
                return
            stop = min(at + BLOCK_BYTES, self._size)
            self._threads = self._threads or concurrent.futures.ThreadPoolExecutor(AHEAD, "read-ahead")
            self._requested.append((at, self._threads.submit(self._read_range, self._path, at, stop), stop))

    def _forget(self) -> None:
        for _, future, _ in self._requested:
            future.cancel()
        self._requested.clear()

    def close(self) -> None:
        """Drops the blocks requested ahead."""
        if not self.closed:
            self._forget()
            if self._threads:
                self._threads.shutdown(wait=False, cancel_futures=True)
            self._block = b""
        super().close()
