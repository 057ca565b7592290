"""Atomic writes of folders: complete, or not there at all."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator

from compressed_lm import io
from compressed_lm.errors import InputError
from compressed_lm.io import locks


def check_new(out: str | os.PathLike, what: str) -> pathlib.Path:
    """Returns the path of a folder to write, with symbolic links resolved.

    Raises:
        InputError: the folder is not empty, or cannot be written.
    """
    path = io.local_path(out, what)
    io.check_output(path, what, folder=True)
    if path.exists() and any(path.iterdir()):
        raise InputError(f"{out} was given as {what[:1].lower()}{what[1:]} and is not empty; give a new folder.")
    return pathlib.Path(os.path.realpath(path))


@contextlib.contextmanager
def new(out: str | os.PathLike, what: str) -> Iterator[pathlib.Path]:
    """Yields a temporary folder to fill; it is renamed to `out` when the block ends without an error.

    If the block fails, `out` is unchanged. One writer at a time (see `locks.held`).

    Args:
        out: the folder; new or empty.
        what: its description for messages, such as "The folder of the run".

    Raises:
        InputError: the folder is not empty, cannot be written, or another process writes it.
    """
    with locks.held(io.local_path(out, what)):
        path = check_new(out, what)
        inside = path.is_dir() and (os.path.ismount(path) or not os.access(path.parent, os.W_OK))
        temporary, descriptor = io.temporary_beside(path / "content" if inside else path, folder=True)
        try:
            yield pathlib.Path(temporary)
            io.flush_tree(temporary)
            if inside:  # the folder itself cannot be replaced, such as a container's mount point
                for name in sorted(os.listdir(temporary)):
                    os.replace(os.path.join(temporary, name), path / name)
                io.flush_tree(path)
            else:
                io.replace(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            os.close(descriptor)
