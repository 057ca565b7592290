"""Files of users: which paths are accepted, and how a file is replaced.

A path with a scheme, such as gs://bucket/x, is refused: without a storage layer `pathlib` would turn it into the local
folder `gs:`. `-` is the standard input or output. A pipe, a device or a socket is written into, the target of a
symbolic link is replaced, and a regular file is replaced at once or not at all.
"""

import contextlib
import errno
import glob
import os
import pathlib
import re
import secrets
import shutil
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from compressed_lm.errors import InputError

STANDARD = "-"
"""The path of the standard input and of the standard output."""

_COPY = {
    **{"gs": "gcloud storage cp -r", "s3": "aws s3 cp --recursive", "hdfs": "hdfs dfs -get or -put"},
    **dict.fromkeys(("http", "https"), "curl -O"),
}
_NAME_BYTES = 100  # of a file's name that its temporary file has in its own name, so that this is not too long


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
    if scheme(folder) is None and (mode := _mode(path)) is not None and not stat.S_ISREG(mode):
        raise InputError(f"{path} is no regular file; a file was expected there. Get the folder from its source again.")
    return path


def is_stream(path: str | os.PathLike) -> bool:
    """Whether what is written to a path goes on to another program or a device, and is no regular file then."""
    if os.fspath(path) == STANDARD or _descriptor(path) is not None:
        return True
    mode = _mode(path)
    return mode is not None and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def is_stdout(path: str | os.PathLike) -> bool:
    """Whether what is written to a path goes to the standard output, where messages have no place then."""
    if os.fspath(path) == STANDARD or _descriptor(path) == 1:
        return True
    with contextlib.suppress(OSError):
        return is_stream(path) and os.path.samestat(os.stat(path), os.fstat(1))
    return False


def check_output(path: str | os.PathLike, what: str = "The file", *, folder: bool = False) -> None:
    """Raises InputError where a file (or a folder) cannot be written, before any work is done for it."""
    if not folder and os.fspath(path) == STANDARD:
        return
    path = local_path(path, what)
    mode = _mode(path)
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


@contextlib.contextmanager
def open_output(path: str | os.PathLike, what: str = "The file") -> Iterator[BinaryIO]:
    """Opens a file to write, whose content takes the place of what is there once the block ends without an error.

    A pipe, a device, a socket, a descriptor such as /dev/fd/3, and the standard output for `-`, are written into. A
    symbolic link stays and its target is replaced, by a file with the same owner and permissions; a new file has those
    that the umask gives. The folder is made where it is missing.

    Raises:
      InputError: a path with a scheme, or of a folder.
      OSError: the file cannot be written.
    """
    if os.fspath(path) == STANDARD:
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = local_path(path, what)
    number, mode = _descriptor(path), _mode(path)
    if number is not None:
        sys.stdout.flush()
        with os.fdopen(os.dup(number), "wb") as file:  # to open its path again would empty a file behind it
            yield file
    elif mode is None or stat.S_ISREG(mode):
        with _replacing(os.path.realpath(path)) as file:
            yield file
    elif stat.S_ISDIR(mode):
        raise InputError(f"{what} {path} is a folder; give the file to write.")
    elif stat.S_ISSOCK(mode):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(os.fspath(path))
            with connection.makefile("wb") as file:
                yield file
    else:
        with open(path, "wb") as file:
            yield file


def write_atomic(path: str | os.PathLike, content: bytes | str, what: str = "The file") -> int:
    """Writes a file as `open_output` does; text as UTF-8. Returns its bytes."""
    data = content.encode() if isinstance(content, str) else content
    with open_output(path, what) as file:
        file.write(data)
    return len(data)


def publish(temporary: str | os.PathLike, path: str | os.PathLike) -> None:
    """Flushes a finished temporary file to the disk and names it: a crash leaves the old file or the new one."""
    _flush(temporary)
    replace(temporary, path)


def replace(temporary: str | os.PathLike, path: str | os.PathLike) -> None:
    """Renames what was flushed to the disk, and flushes the name."""
    os.replace(temporary, path)
    with contextlib.suppress(OSError):  # some file systems cannot flush a folder
        _flush(os.path.dirname(path) or ".")


def remove_temporaries(path: str | os.PathLike) -> None:
    """Removes what killed writers of a file or folder have left; what somebody is writing now stays."""
    folder, name = os.path.split(os.path.realpath(path))
    left = re.compile(re.escape(_temporary_prefix(name)) + r"[0-9a-f]{12}\.tmp")
    with contextlib.suppress(OSError):
        for found in os.listdir(folder):
            if left.fullmatch(found):
                _remove_left(os.path.join(folder, found))


def _remove_left(temporary: str) -> None:
    with contextlib.suppress(AttributeError, OSError):  # among others, that it is being written now
        descriptor = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(temporary) if os.path.isdir(temporary) else os.unlink(temporary)
        finally:
            os.close(descriptor)


def temporary_beside(path: str | os.PathLike, *, folder: bool = False) -> tuple[str, int]:
    """Makes a file or folder beside a path, to be renamed to it; what killed writers have left goes.

    Returns:
      Its path and an open descriptor, for writing where it is a file. As long as this is open, nobody removes it.
    """
    remove_temporaries(path)
    parent, name = os.path.split(os.path.realpath(path))
    os.makedirs(parent, exist_ok=True)
    while True:
        temporary = os.path.join(parent, f"{_temporary_prefix(name)}{secrets.token_hex(6)}.tmp")
        if folder:
            os.mkdir(temporary)
            descriptor = os.open(temporary, os.O_RDONLY)
        else:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        with contextlib.suppress(AttributeError, OSError):  # without locks nobody takes it for left
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.path.exists(temporary):
            return temporary, descriptor
        os.close(descriptor)  # somebody removed it before it was locked


@contextlib.contextmanager
def _replacing(path: str) -> Iterator[BinaryIO]:
    """Opens a new file beside a regular one, which it replaces at the end."""
    before = os.stat(path) if os.path.exists(path) else None
    if before and not os.access(path, os.W_OK):  # a rename would not ask
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    temporary, descriptor = temporary_beside(path)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if before and os.name == "posix":
                with contextlib.suppress(PermissionError):
                    os.fchown(descriptor, before.st_uid, before.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(before.st_mode))
            yield file
            file.flush()
            os.fsync(descriptor)
            replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _temporary_prefix(name: str) -> str:
    return f".{os.fsdecode(os.fsencode(name)[:_NAME_BYTES])}."


def flush_tree(folder: str | os.PathLike) -> None:
    """Flushes a folder and everything in it to the disk."""
    for parent, _, names in os.walk(folder):
        for name in names:
            _flush(os.path.join(parent, name))
        with contextlib.suppress(OSError):
            _flush(parent)


def _flush(path: str | os.PathLike) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _mode(path: str | os.PathLike) -> int | None:
    """What kind of file a path leads to, links followed; None where there is none."""
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def _descriptor(path: str | os.PathLike) -> int | None:
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
