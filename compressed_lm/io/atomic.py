"""Atomic writes: the content is flushed to disk under a temporary name, then renamed; or uploaded as one object.

A pipe, a device or a socket is written to directly. The target of a symbolic link is replaced.
"""

import contextlib
import errno
import os
import re
import secrets
import shutil
import socket
import stat
import sys
from collections.abc import Iterator
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from compressed_lm.errors import InputError
from compressed_lm.io import remote
from compressed_lm.io.paths import STANDARD, any_path, descriptor_of, is_remote, mode_of

_NAME_BYTES = 100  # of the file's name are used in the name of its temporary file, which must not become too long


@contextlib.contextmanager
def open_output(path: str | os.PathLike, what: str = "The file", *, durable: bool = True) -> Iterator[BinaryIO]:
    """Opens a file for writing; it replaces the old file when the block ends without an error.

    A pipe, a device, a socket, a descriptor such as /dev/fd/3, and the standard output for `-`, are written to
    directly. A symbolic link is kept and its target is replaced. The new file has the owner and permissions of the old
    one, or those of the umask. Missing folders are made. An object in a store appears, or is replaced, at the end.

    Args:
        path: the file.
        what: its purpose, for messages.
        durable: whether it is flushed to disk, so that it survives a loss of power and not only the end of the process.

    Raises:
        InputError: the path has an unsupported scheme, or is a folder.
        OSError: the file cannot be written.
    """
    if os.fspath(path) == STANDARD:
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = any_path(path, what)
    if is_remote(path):
        with remote.open_output(path) as file:
            yield file
        return
    number, mode = descriptor_of(path), mode_of(path)
    if number is not None:
        sys.stdout.flush()
        with os.fdopen(os.dup(number), "wb") as file:  # opening the path again would truncate the file
            yield file
    elif mode is None or stat.S_ISREG(mode):
        with _replacing(os.path.realpath(path), durable=durable) as file:
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
    """Writes a file as `open_output` does, text as UTF-8, and returns its size in bytes."""
    data = content.encode() if isinstance(content, str) else content
    if is_remote(path):
        remote.write_bytes(any_path(path, what), data)
        return len(data)
    with open_output(path, what) as file:
        file.write(data)
    return len(data)


def publish(temporary: str | os.PathLike, path: str | os.PathLike) -> None:
    """Flushes a finished temporary file to disk and renames it: a crash leaves the old file or the new one."""
    _flush(temporary)
    replace(temporary, path)


def replace(temporary: str | os.PathLike, path: str | os.PathLike) -> None:
    """Renames a file that was flushed to disk, and flushes its folder."""
    os.replace(temporary, path)
    with contextlib.suppress(OSError):  # some file systems cannot flush a folder
        _flush(os.path.dirname(path) or ".")


def remove_temporaries(path: str | os.PathLike) -> None:
    """Removes temporary files that killed writers of a file or folder left; files in use are kept."""
    folder, name = os.path.split(os.path.realpath(path))
    left = re.compile(re.escape(_temporary_prefix(name)) + r"[0-9a-f]{12}\.tmp")
    with contextlib.suppress(OSError):
        for found in os.listdir(folder):
            if left.fullmatch(found):
                _remove_left(os.path.join(folder, found))


def _remove_left(temporary: str) -> None:
    with contextlib.suppress(AttributeError, OSError):  # such as BlockingIOError for a file in use
        descriptor = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(temporary) if os.path.isdir(temporary) else os.unlink(temporary)
        finally:
            os.close(descriptor)


def temporary_beside(path: str | os.PathLike, *, folder: bool = False) -> tuple[str, int]:
    """Makes a temporary file or folder beside a path, to be renamed to it later; removes those of killed writers.

    Returns:
        Its path, and an open descriptor (writable for a file). While it is open, no other process removes the file.
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
        with contextlib.suppress(AttributeError, OSError):  # without locks, temporary files are never removed
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.path.exists(temporary):
            return temporary, descriptor
        os.close(descriptor)  # another process removed it before it was locked


@contextlib.contextmanager
def _replacing(path: str, *, durable: bool) -> Iterator[BinaryIO]:
    """Opens a temporary file that replaces a regular file at the end."""
    before = os.stat(path) if os.path.exists(path) else None
    if before and not os.access(path, os.W_OK):  # a rename ignores write protection
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
            if durable:
                os.fsync(descriptor)
                replace(temporary, path)
            else:
                os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _temporary_prefix(name: str) -> str:
    return f".{os.fsdecode(os.fsencode(name)[:_NAME_BYTES])}."


def flush_tree(folder: str | os.PathLike) -> None:
    """Flushes a folder and all its files to disk."""
    for parent, _, names in os.walk(os.fspath(folder)):
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
