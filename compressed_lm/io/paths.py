"""Paths that users give: accepted paths, and checks before any work.

A path with a scheme, such as gs://bucket/x, is refused: without a storage layer `pathlib` would turn it into the local
folder `gs:`. `-` is the standard input or output.
"""

import contextlib
import glob
import os
import pathlib
import stat
import sys
import tempfile
from typing import Any

from compressed_lm.errors import InputError

STANDARD = "-"
"""Path of the standard input and output."""

_COPY = {
    **{"gs": "gcloud storage cp -r", "s3": "aws s3 cp --recursive", "hdfs": "hdfs dfs -get or -put"},
    **dict.fromkeys(("http", "https"), "curl -O"),
}


def scheme(path: str | os.PathLike) -> str | None:
    """Returns the scheme of a path, such as `gs` for `gs://bucket/x`; None for a local path."""
    head, found, _ = os.fspath(path).partition("://")
    return head if found and "/" not in head else None


def local_path(path: str | os.PathLike, what: str = "The path") -> pathlib.Path:
    """Returns a local path; a leading `~` is expanded unless a file of exactly this name exists.

    Args:
        path: path as the user wrote it.
        what: its purpose for messages, such as `--out`.

    Raises:
        InputError: the path is empty, or has a scheme.
    """
    text = os.fspath(path)
    if not text:
        raise InputError(f"{what} is empty; give a path. A shell variable may not be set.")
    if (found := scheme(text)) is not None:
        rest = text[len(found) + 3 :]
        if found.lower() == "file":
            help_ = f"Give the plain path, such as {'/' + rest.lstrip('/')}."
        else:
            tool = _COPY.get(found.lower())
            help_ = f"Give a local path, and copy the files before or after{f' ({tool})' if tool else ''}."
        raise InputError(
            f"{what} {text} was given; only local paths are supported here. gs:// is supported for run folders "
            f"(`compressed-lm train --out gs://...`). {help_}"
        )
    return pathlib.Path(os.path.expanduser(text) if text.startswith("~") and not os.path.lexists(text) else text)


def matching(pattern: str | os.PathLike) -> list[pathlib.Path]:
    """Returns the sorted paths that a pattern matches: the path of exactly this name, otherwise the glob's matches.

    Leading folders that exist by name are taken literally: `runs[1]/*.jsonl` searches the folder `runs[1]` if it
    exists. `**` matches nested folders.
    """
    parts = pathlib.Path(pattern).parts
    n = next((n for n in range(len(parts), 0, -1) if os.path.lexists(os.path.join(*parts[:n]))), 0)
    if n == len(parts):
        return [pathlib.Path(pattern)]
    literal = [glob.escape(part) for part in parts[:n]]
    return [pathlib.Path(path) for path in sorted(glob.glob(os.path.join(*literal, *parts[n:]), recursive=True))]


def shown(path: str | os.PathLike) -> str:
    """Returns the name of an input file for messages."""
    return "the standard input" if os.fspath(path) == STANDARD else os.fspath(path)


def read_bytes(path: str | os.PathLike, what: str = "The file") -> bytes:
    """Returns the content of a file, or of the standard input for `-`.

    Raises:
        InputError: the path has a scheme, or cannot be read as a file.
    """
    if os.fspath(path) == STANDARD:
        return sys.stdin.buffer.read()
    path = local_path(path, what)
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{what} {path} cannot be read ({error.strerror}). Give a file, or - for the standard input."
        ) from error


def inside(folder: Any, name: str) -> Any:
    """Returns the path of a file whose name was read from a file in the same folder.

    Args:
        folder: a `pathlib` or `epath` path.
        name: the name; a single path component, so that it cannot leave the folder.

    Raises:
        InputError: the name is not a single path component, or the file is not a regular file, such as a pipe.
    """
    if not isinstance(name, str) or name in ("", ".", "..") or set(name) & set("/\\\0"):
        raise InputError(
            f"{folder} refers to the file {name!r:.100}; the name of a file in this folder was expected. Another "
            "program wrote it, or it was changed: get it from its source again."
        )
    path = folder / name
    if scheme(folder) is None and (mode := mode_of(path)) is not None and not stat.S_ISREG(mode):
        raise InputError(f"{path} is not a regular file, as expected. Get the folder from its source again.")
    return path


def is_stream(path: str | os.PathLike) -> bool:
    """Returns whether a path is a stream (standard output, pipe, device or socket) and not a regular file."""
    if os.fspath(path) == STANDARD or descriptor_of(path) is not None:
        return True
    mode = mode_of(path)
    return mode is not None and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def is_stdout(path: str | os.PathLike) -> bool:
    """Returns whether a path is the standard output, so that no messages may be printed there."""
    if os.fspath(path) == STANDARD or descriptor_of(path) == 1:
        return True
    with contextlib.suppress(OSError):
        return is_stream(path) and os.path.samestat(os.stat(path), os.fstat(1))
    return False


def check_output(path: str | os.PathLike, what: str = "The file", *, folder: bool = False) -> None:
    """Raises InputError if a file (or a folder) cannot be written; call it before any work."""
    if not folder and os.fspath(path) == STANDARD:
        return
    path = local_path(path, what)
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


def _make_nothing(folder: pathlib.Path) -> None:
    """Makes an unnamed file in a folder, which does not change the folder's time. Raises OSError if this fails."""
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o600))
    except (AttributeError, OSError):  # not Linux, or a file system without O_TMPFILE
        os.rmdir(tempfile.mkdtemp(prefix=".", dir=folder))


def mode_of(path: str | os.PathLike) -> int | None:
    """Returns `st_mode` of a path, with links followed; None if it does not exist."""
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def descriptor_of(path: str | os.PathLike) -> int | None:
    """Returns the descriptor number of a path such as /dev/stdout or /dev/fd/3; None for other paths."""
    path = os.fspath(path)
    for _ in range(40):  # the system's limit of links
        folder, name = os.path.split(os.path.abspath(path))
        folder = os.path.realpath(folder)
        if name.isdigit() and folder in ("/dev/fd", f"/proc/{os.getpid()}/fd"):
            return int(name)
        path = os.path.join(folder, name)
        if not os.path.islink(path):
            return None
        path = os.path.join(folder, os.readlink(path))
    return None
