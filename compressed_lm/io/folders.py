"""Atomic writes of folders: complete, or not there at all."""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from etils import epath

from compressed_lm import io
from compressed_lm.errors import InputError
from compressed_lm.io import locks, remote


def check_new(out: str | os.PathLike, what: str) -> pathlib.Path | epath.Path:
    """Returns the path of a folder to write, local (with symbolic links resolved) or in an object store.

    Raises:
        InputError: the folder is not empty, or cannot be written.
    """
    path = io.any_path(out, what)
    io.check_output(path, what, folder=True)
    if path.exists() and any(path.iterdir()):
        raise InputError(f"{out} was given as {what[:1].lower()}{what[1:]} and is not empty; give a new folder.")
    return path if io.is_remote(path) else pathlib.Path(os.path.realpath(path))


@contextlib.contextmanager
def new(out: str | os.PathLike, what: str) -> Iterator[pathlib.Path]:
    """Yields a temporary folder to fill; it is renamed to `out` when the block ends without an error.

    If the block fails, `out` is unchanged. One writer at a time (see `locks.held`). To an object store the files are
    uploaded at the end; JSON files directly in the folder, which describe the others, are the last ones.

    Args:
        out: the folder; new or empty.
        what: its description for messages, such as "The folder of the run".

    Raises:
        InputError: the folder is not empty, cannot be written, or another process writes it.
    """
    with locks.held(io.any_path(out, what)):
        path = check_new(out, what)
        if io.is_remote(path):
            with tempfile.TemporaryDirectory(prefix="compressed-lm-") as made:
                yield pathlib.Path(made)
                _upload(pathlib.Path(made), path)
            return
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


def _upload(folder: pathlib.Path, path: pathlib.Path | epath.Path) -> None:
    """Uploads the files of a folder; removes them again if this fails."""
    names = [file.relative_to(folder) for file in sorted(folder.rglob("*")) if file.is_file()]
    names.sort(key=lambda name: len(name.parts) == 1 and name.suffix == ".json")  # stable: these come last
    try:
        for name in names:
            remote.upload(folder / name, path / name.as_posix())
    except BaseException:
        with contextlib.suppress(OSError, InputError):
            remote.delete_tree(path)
        raise
