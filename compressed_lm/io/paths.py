"""Files of users: which paths are accepted, and how a file is replaced.

A path with a scheme, such as gs://bucket/x, is refused: without a storage layer `pathlib` would turn it into the local
folder `gs:`. `-` is the standard input or output. A pipe, a device or a socket is written into, the target of a
symbolic link is replaced, and a regular file is replaced at once or not at all.
"""

import contextlib
import glob
import os
import pathlib
import stat
import sys
import tempfile

from compressed_lm.errors import InputError

STANDARD = "-"
"""The path of the standard input and of the standard output."""

_COPY = {
    **{"gs": "gcloud storage cp -r", "s3": "aws s3 cp --recursive", "hdfs": "hdfs dfs -get or -put"},
    **dict.fromkeys(("http", "https"), "curl -O"),
}


def scheme(path: str | os.PathLike) -> str | None:
    """The scheme of a path, `gs` of `gs://bucket/x`; None for a path of this machine."""
    head, found, _ = os.fspath(path).partition("://")
    return head if found and "/" not in head else None


def local_path(path: str | os.PathLike, what: str = "The path") -> pathlib.Path:
    """A path of this machine, a leading `~` expanded unless something of that very name exists.

    Args:
        path: as the user wrote it.
        what: what it was given for, such as `--out`, for messages.

    Raises:
        InputError: the path is empty, or has a scheme.
    """
    text = os.fspath(path)
    if not text:
        raise InputError(f"{what} is empty; give a path. A variable of the shell may not be set.")
    if (found := scheme(text)) is not None:
        rest = text[len(found) + 3 :]
        if found.lower() == "file":
            help_ = f"Give the plain path, such as {'/' + rest.lstrip('/')}."
        else:
            tool = _COPY.get(found.lower())
            help_ = f"Give a local path, and copy what is there before or after{f' ({tool})' if tool else ''}."
        raise InputError(
            f"{what} {text} was given, and only paths of this machine are read and written there; gs:// is supported "
            f"for the folders of runs that `compressed-lm train --out gs://...` writes. {help_}"
        )
    return pathlib.Path(os.path.expanduser(text) if text.startswith("~") and not os.path.lexists(text) else text)


def matching(pattern: str | os.PathLike) -> list[pathlib.Path]:
    """The paths that a pattern names, sorted: the one of this very name, else those that it matches as a glob.

    Folders that exist by their names are taken by these, too: the brackets of `runs[1]/*.jsonl` are those of the folder
    `runs[1]`, where there is one. `**` crosses folders.
    """
    parts = pathlib.Path(pattern).parts
    n = next((n for n in range(len(parts), 0, -1) if os.path.lexists(os.path.join(*parts[:n]))), 0)
    if n == len(parts):
        return [pathlib.Path(pattern)]
    literal = [glob.escape(part) for part in parts[:n]]
    return [pathlib.Path(path) for path in sorted(glob.glob(os.path.join(*literal, *parts[n:]), recursive=True))]


def shown(path: str | os.PathLike) -> str:
    """A file to read as messages name it."""
    return "the standard input" if os.fspath(path) == STANDARD else os.fspath(path)


def read_bytes(path: str | os.PathLike, what: str = "The file") -> bytes:
    """The content of a file, or of the standard input for `-`.

    Raises:
        InputError: a path with a scheme, or of what cannot be read as a file.
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


def inside(folder, name: str):
    """The path of a file that a file in a folder names.

    Args:
        folder: a `pathlib` or `epath` path.
        name: as the file names it; one part, so that it cannot lead out of the folder.

    Raises:
        InputError: another name, or of something that is no regular file, such as a pipe or a device.
    """
    if not isinstance(name, str) or name in ("", ".", "..") or set(name) & set("/\\\0"):
        raise InputError(
            f"{folder} names the file {name!r:.100}; the name of a file in this folder was expected. Another program "
            "wrote it, or it was changed: get it from its source again."
        )
    path = folder / name
    if scheme(folder) is None and (mode := mode_of(path)) is not None and not stat.S_ISREG(mode):
        raise InputError(f"{path} is no regular file; a file was expected there. Get the folder from its source again.")
    return path


def is_stream(path: str | os.PathLike) -> bool:
    """Whether what is written to a path goes on to another program or a device, and is no regular file then."""
    if os.fspath(path) == STANDARD or descriptor_of(path) is not None:
        return True
    mode = mode_of(path)
    return mode is not None and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def is_stdout(path: str | os.PathLike) -> bool:
    """Whether what is written to a path goes to the standard output, where messages have no place then."""
    if os.fspath(path) == STANDARD or descriptor_of(path) == 1:
        return True
    with contextlib.suppress(OSError):
        return is_stream(path) and os.path.samestat(os.stat(path), os.fstat(1))
    return False


def check_output(path: str | os.PathLike, what: str = "The file", *, folder: bool = False) -> None:
    """Raises InputError where a file (or a folder) cannot be written, before any work is done for it."""
    if not folder and os.fspath(path) == STANDARD:
        return
    path = local_path(path, what)
    mode = mode_of(path)
    if folder and mode is not None and not stat.S_ISDIR(mode):
        raise InputError(f"{what} {path} is a file; give a folder, new or to go on with.")
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
        raise InputError(f"{what} {path} cannot be written: {parent} is a file and no folder. Give another path.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(
            f"{what} {path} cannot be written: the folder {parent} is read-only for this user. Give another path, or "
            "the right to write there."
        )
    try:  # rights do not tell of /proc, nor root of a read-only file system
        _make_nothing(parent)
    except OSError as error:
        raise InputError(f"{what} {path} cannot be written: {error.strerror} ({parent}). Give another path.") from error


def _make_nothing(folder: pathlib.Path) -> None:
    """Makes a file without a name in a folder, whose time stays as it was; raises OSError where none can be made."""
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o600))
    except (AttributeError, OSError):  # another system than Linux, or a file system that has no such files
        os.rmdir(tempfile.mkdtemp(prefix=".", dir=folder))


def mode_of(path: str | os.PathLike) -> int | None:
    """What kind of file a path leads to, links followed; None where there is none."""
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def descriptor_of(path: str | os.PathLike) -> int | None:
    """The number of this process's open file that a path such as /dev/stdout or /dev/fd/3 names, or None."""
    path = os.fspath(path)
    for _ in range(40):  # as many links as the system follows
        folder, name = os.path.split(os.path.abspath(path))
        folder = os.path.realpath(folder)
        if name.isdigit() and folder in ("/dev/fd", f"/proc/{os.getpid()}/fd"):
            return int(name)
        path = os.path.join(folder, name)
        if not os.path.islink(path):
            return None
        path = os.path.join(folder, os.readlink(path))
    return None
