"""`epath` paths of gs:// and s3:// through `io.remote`, for this package and for Orbax.

By itself `epath` uses TensorFlow's file system where TensorFlow is installed, which ignores the variables of the
emulators and behaves differently, and otherwise `fsspec` with cached listings, which breaks after a fork and uploads
what was written before an error.
"""

import datetime
import io
import os
import posixpath
from collections.abc import Callable, Iterator
from typing import IO, Any

from etils.epath import gpath, stat_utils
from etils.epath.backend import Backend

from compressed_lm.io import remote
from compressed_lm.io.object_stores import PACKAGES


def install() -> None:
    """Makes `epath.Path("gs://...")` and `epath.Path("s3://...")` use `io.remote`, also in child processes."""
    os.environ["EPATH_USE_TF"] = "0"
    gpath._is_tf_installed.cache_clear()  # it may have been asked before
    gpath._PREFIX_TO_BACKEND |= dict.fromkeys(PACKAGES, RemoteBackend())


class RemoteBackend(Backend):
    """File system of `epath` paths. Folders exist while they have objects; making one does nothing."""

    def open(self, path, mode: str) -> IO[Any]:
        """Opens an object: r, rb, w or wb."""
        kind = mode.replace("b", "").replace("t", "")
        if kind == "r":
            file = remote.open_input(path)
        elif kind == "w":
            file = _Writer(path)
            if "b" not in mode:
                return _TextWriter(file, encoding="utf-8")
        else:
            raise NotImplementedError(f"{path}: an object cannot be opened with mode {mode!r}")
        return file if "b" in mode else io.TextIOWrapper(file, encoding="utf-8")  # type: ignore[arg-type, return-value]

    def exists(self, path) -> bool:
        """Returns whether there is an object or a folder with objects."""
        return remote.exists(path)

    def isdir(self, path) -> bool:
        """Returns whether there is a folder with objects."""
        return remote.is_folder(path)

    def listdir(self, path) -> list[str]:
        """Returns the names directly in a folder."""
        found = remote.entries(path)
        if not found and not remote.is_folder(path):
            remote.stat(path)  # raises FileNotFoundError
            raise NotADirectoryError(os.fspath(path))
        return sorted(found)

    def glob(self, path) -> list[str]:
        """Returns the paths that a pattern matches."""
        from compressed_lm.io.patterns import matching

        return [os.fspath(found) for found in matching(path)]

    def walk(
        self, top, *, top_down: bool = True, on_error: Callable[[OSError], object] | None = None
    ) -> Iterator[tuple[Any, list[str], list[str]]]:
        """Yields (folder, names of folders, names of objects)."""
        found = remote.entries(top)
        folders = [name for name, entry in found.items() if entry["type"] == "directory"]
        here = (os.fspath(top), folders, [name for name in found if name not in folders])
        if top_down:
            yield here
        for name in folders:
            yield from self.walk(posixpath.join(os.fspath(top), name), top_down=top_down, on_error=on_error)
        if not top_down:
            yield here

    def makedirs(self, path, *, exist_ok: bool = False, mode: int | None = None) -> None:
        """Does nothing: the first object makes the folder."""
        if not exist_ok and remote.exists(path):
            raise FileExistsError(os.fspath(path))

    mkdir = makedirs

    def rmtree(self, path) -> None:
        """Deletes all objects below a folder."""
        remote.delete_tree(path)

    def remove(self, path) -> None:
        """Deletes an object."""
        remote.stat(path)
        remote.delete(path)

    def rename(self, path, dst) -> None:
        """Copies an object or all objects of a folder, then deletes the old ones."""
        if remote.exists(dst):
            raise FileExistsError(f"{dst} already exists; {path} cannot be renamed.")
        remote.copy(path, dst)
        remote.delete_tree(path)

    def replace(self, path, dst) -> None:
        """Copies an object over another one, then deletes the old one."""
        remote.copy(path, dst)
        remote.delete_tree(path)

    def copy(self, path, dst, overwrite: bool) -> None:
        """Copies an object."""
        if not overwrite and remote.exists(dst):
            raise FileExistsError(f"{dst} already exists; {path} cannot be copied to it.")
        remote.copy(path, dst)

    def stat(self, path) -> stat_utils.StatResult:
        """Returns type, size and time of an object or folder."""
        found = remote.stat(path)
        time = found.get("mtime") or found.get("LastModified") or 0
        return stat_utils.StatResult(
            is_directory=found["type"] == "directory",
            length=int(found.get("size") or 0),
            mtime=int(time.timestamp() if isinstance(time, datetime.datetime) else 0),
            owner=None,
            group=None,
            mode=None,
        )


class _Writer(io.BytesIO):
    """File that becomes an object when it is closed, unless its block ends with an error."""

    def __init__(self, path):
        super().__init__()
        self._path = path

    def __exit__(self, kind, *rest):
        if kind is not None:
            self.discard()
        super().__exit__(kind, *rest)

    def close(self) -> None:
        """Writes the object."""
        path, self._path = self._path, None
        if path is not None:
            remote.write_bytes(path, self.getvalue())
        super().close()

    def discard(self) -> None:
        """Makes `close` write nothing."""
        self._path = None

    def __del__(self):
        self.discard()  # never closed: incomplete


class _TextWriter(io.TextIOWrapper):
    """Text file of a `_Writer`."""

    def __exit__(self, kind, *rest):
        if kind is not None:
            self.buffer.discard()
        super().__exit__(kind, *rest)

    def __del__(self):
        self.buffer.discard()
