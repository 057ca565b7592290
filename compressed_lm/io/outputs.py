"""Checks of outputs before any work."""

import os
import pathlib
import stat
import tempfile

from compressed_lm.errors import InputError
from compressed_lm.io import remote
from compressed_lm.io.paths import STANDARD, any_path, is_remote, is_stream, mode_of


def check_output(path: str | os.PathLike, what: str = "The file", *, folder: bool = False) -> None:
    """Raises InputError if a file (or a folder) cannot be written; call it before any work.

    For an object store the bucket is asked; nothing appears in it.
    """
    if not folder and os.fspath(path) == STANDARD:
        return
    path = any_path(path, what)
    if is_remote(path):
        _check_object(path, what, folder=folder)
        return
    mode = mode_of(path)
    if folder and mode is not None and not stat.S_ISDIR(mode):
        raise InputError(f"{what} {path} is a file; give a folder, new or to continue.")
    if not folder and mode is not None and stat.S_ISDIR(mode):
        raise InputError(f"{what} {path} is a folder; give the file to write.")
    if is_stream(path):
        return
    if mode is not None and not os.access(path, os.W_OK):
        raise InputError(f"{what} {path} is write-protected. Give another file, or allow writing (chmod u+w).")
    parent = pathlib.Path(os.path.realpath(path))
    parent = parent if folder and mode is not None else parent.parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise InputError(f"{what} {path} cannot be written: {parent} is a file, not a folder. Give another path.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(
            f"{what} {path} cannot be written: the folder {parent} is read-only for this user. Give another path, or "
            "allow writing there."
        )
    try:  # permissions are not enough for /proc, or for root on a read-only file system
        _make_nothing(parent)
    except OSError as error:
        raise InputError(f"{what} {path} cannot be written: {error.strerror} ({parent}). Give another path.") from error


def _check_object(path: str | os.PathLike, what: str, *, folder: bool) -> None:
    """Raises InputError if an object, or objects in a folder, cannot be written."""
    try:
        remote.check_writable(path)
    except InputError as error:
        raise InputError(f"{what} {error}") from error
    if not folder and os.fspath(path).count("/") == 2:
        raise InputError(
            f"{what} {os.fspath(path)} is a bucket; give the object to write, such as {os.fspath(path)}/x."
        )
    try:
        there = remote.stat(path)["type"]
    except FileNotFoundError:
        return
    if folder and there == "file":
        raise InputError(f"{what} {os.fspath(path)} is an object; give a folder, new or to continue.")
    if not folder and there == "directory":
        raise InputError(f"{what} {os.fspath(path)} is a folder; give the object to write.")


def _make_nothing(folder: pathlib.Path) -> None:
    """Makes an unnamed file in a folder, which does not change the folder's time. Raises OSError if this fails."""
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o600))
    except (AttributeError, OSError):  # not Linux, or a file system without O_TMPFILE
        os.rmdir(tempfile.mkdtemp(prefix=".", dir=folder))
