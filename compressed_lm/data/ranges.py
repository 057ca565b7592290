"""Random access to parts of files that do not change, local or in an object store."""

import collections
import os
import threading
import weakref
from typing import Any, BinaryIO

from compressed_lm import io

OPEN_FILES = 256
"""Local files kept open by one process; a store may have more of them than a process may open."""

_lock = threading.Lock()
_recent: "collections.OrderedDict[int, weakref.ref[RangeFile]]" = collections.OrderedDict()


class RangeFile:
    """A file of which parts are read, by any number of threads. It pickles.

    Attributes:
        path: its path.
        size: its size in bytes.
    """

    def __init__(self, path: Any, size: int) -> None:
        self.path, self.size = path, size
        self._remote = io.is_remote(path)
        self._file: BinaryIO | None = None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_file": None}

    def __del__(self) -> None:
        _recent.pop(id(self), None)

    def read(self, start: int, stop: int) -> bytes:
        """Returns bytes `start` to `stop - 1`; fewer if the file is shorter."""
        if self._remote:
            return io.remote.read_range(self.path, start, min(stop, self.size)) if start < stop else b""
        file = self._opened()  # the name keeps it open while it is read
        return os.pread(file.fileno(), stop - start, start)

    def _opened(self) -> BinaryIO:
        """Returns the open file, and closes the one that was used least recently if there are too many.

        A file that another thread still reads is closed when that thread has read it.
        """
        with _lock:
            if self._file is None:
                self._file = open(self.path, "rb", buffering=0)
                _recent[id(self)] = weakref.ref(self)
                while len(_recent) > OPEN_FILES:
                    _, oldest = _recent.popitem(last=False)
                    if (file := oldest()) is not None:
                        file._file = None
            else:
                _recent.move_to_end(id(self))
            return self._file
