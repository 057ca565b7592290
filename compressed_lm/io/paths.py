"""Paths that users give: local ones, and objects in stores (gs://bucket/x, s3://bucket/x).

Other schemes are refused: `pathlib` would turn hdfs://host/x into the local folder `hdfs:`. `-` is the standard input
or output.
"""

import contextlib
import os
import pathlib
import stat
import sys
from typing import Any, NoReturn

from etils import epath

from compressed_lm.errors import InputError
from compressed_lm.io import object_stores

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


def is_remote(path: str | os.PathLike) -> bool:
    """Returns whether a path is in an object store: gs:// or s3://."""
    return scheme(path) in object_stores.PACKAGES


def any_path(path: str | os.PathLike, what: str = "The path") -> pathlib.Path | epath.Path:
    """Returns a local path as `local_path` does, or the path of an object or folder in a store.

    Args:
        path: path as the user wrote it.
        what: its purpose for messages, such as `--out`.

    Raises:
        InputError: the path is empty, has another scheme than gs:// and s3://, names no bucket, or the package that
            reads its scheme is not installed.
    """
    found = scheme(path)
    if found not in object_stores.PACKAGES:
        return (
            local_path(path, what)
            if found is None
            else _refuse(path, found, what, "local paths, gs:// and s3:// are supported")
        )
    if not os.fspath(path)[len(found) + 3 :].strip("/"):
        raise InputError(f"{what} {os.fspath(path)} was given, but it names no bucket; give {found}://BUCKET/PATH.")
    object_stores.check_package(found, path, what)
    return epath.Path(path)


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
        _refuse(text, found, what, "local paths are supported here")
    return pathlib.Path(os.path.expanduser(text) if text.startswith("~") and not os.path.lexists(text) else text)


def _refuse(path: str | os.PathLike, found: str, what: str, supported: str) -> NoReturn:
    """Raises InputError for a scheme that is not supported."""
    text = os.fspath(path)
    rest = text[len(found) + 3 :]
    if found.lower() == "file":
        help_ = f"Give the plain path, such as {'/' + rest.lstrip('/')}."
    elif found not in object_stores.PACKAGES and found.lower() in object_stores.PACKAGES and "s3" in supported:
        help_ = f"Write the scheme in small letters: {found.lower()}://{rest}."
    else:
        kind = "a local" if "here" in supported else "such a"
        tool = f" ({_COPY[found.lower()]})" if found.lower() in _COPY else ""
        help_ = f"Give {kind} path, and copy the files before or after{tool}."
    raise InputError(f"{what} {text} was given; only {supported}. {help_}")


def shown(path: str | os.PathLike) -> str:
    """Returns the name of an input file for messages."""
    return "the standard input" if os.fspath(path) == STANDARD else os.fspath(path)


def read_bytes(path: str | os.PathLike, what: str = "The file") -> bytes:
    """Returns the content of a file, or of the standard input for `-`.

    Raises:
        InputError: the path has an unsupported scheme, or cannot be read as a file.
    """
    if os.fspath(path) == STANDARD:
        return sys.stdin.buffer.read()
    path = any_path(path, what)
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
