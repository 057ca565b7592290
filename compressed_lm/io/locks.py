"""Locks: one writer at a time for a folder or file.

A second command fails immediately with the name of the holder, or waits. The lock of `runs/x` is the file
`runs/.x.lock`, held by `flock`: the system releases it when the process ends for any reason. The file contains the
holder's name. It is removed on release; a file that a killed process left is harmless. Buckets (gs://...) and file
systems without locks are not locked.
"""

import contextlib
import contextvars
import errno
import getpass
import json
import os
import pathlib
import shlex
import socket
import sys
import threading
import time
from collections.abc import Iterator

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from compressed_lm import io, terminal
from compressed_lm.errors import InputError
from compressed_lm.io import strict_json

WAIT: contextvars.ContextVar[bool] = contextvars.ContextVar("wait", default=False)
"""Whether `held` waits for the holder of a lock instead of raising; the command line's --wait."""

_POLL_SECONDS = 0.5
_BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_COMMAND_LETTERS = 200
_here = threading.local()
_descriptors: set[int] = set()  # of the locks that this process holds


def _forget() -> None:
    """Closes inherited locks in a forked process, which would hold them when its parent was killed."""
    while _descriptors:
        with contextlib.suppress(OSError):
            os.close(_descriptors.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@contextlib.contextmanager
def held(path: str | os.PathLike, *, part: int | None = None) -> Iterator[None]:
    """Holds the lock of a folder or file while the block runs. Reentrant within one thread.

    Args:
        path: the folder or file; it need not exist.
        part: number of this process among those that share the folder. Two processes with the same number exclude each
            other, and each of them excludes a process without a number.

    Raises:
        InputError: another process holds the lock, and `WAIT` is not set.
    """
    if fcntl is None or io.scheme(path) is not None or io.is_stream(path):
        yield
        return
    path = pathlib.Path(os.path.realpath(path))
    mine = _here.__dict__.setdefault("paths", set())
    if path in mine:
        yield
        return
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_made(path.parent))
        if not os.access(folder, os.W_OK) and path.is_dir():  # such as a container's mount point
            folder = path
        names = [(f".{path.name}.lock", part is not None)]
        names += [] if part is None else [(f".{path.name}.part{part}.lock", False)]
        for name, shared in names:
            stack.enter_context(_locked(folder / name, path, shared=shared))
        mine.add(path)
        stack.callback(mine.discard, path)
        yield


@contextlib.contextmanager
def _made(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Makes a folder and its parents; at the end, removes those it made that are still empty."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):
            for made in missing:
                made.rmdir()


@contextlib.contextmanager
def _locked(lock: pathlib.Path, path: pathlib.Path, *, shared: bool) -> Iterator[None]:
    reported = False
    while True:
        try:
            descriptor = _take(lock, shared=shared)
            break
        except BlockingIOError:
            holder = _holder(lock)
            if not WAIT.get():
                raise InputError(
                    f"{path} is in use: {holder} writes there. Start again when it has ended (--wait does this "
                    "automatically), or give another path."
                ) from None
            if not reported:
                print(f"{path} is in use: waiting for {holder}.", file=sys.stderr, flush=True)
                reported = True
            time.sleep(_POLL_SECONDS)
    if descriptor is not None:
        _descriptors.add(descriptor)
    try:
        yield
    finally:
        if descriptor in _descriptors:  # not in a forked process
            _descriptors.discard(descriptor)
            with contextlib.suppress(OSError):  # other processes share the lock
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                lock.unlink()
            os.close(descriptor)


def _take(lock: pathlib.Path, *, shared: bool) -> int | None:
    """Locks a lock file and returns its descriptor; None if the file system has no locks.

    Raises:
        BlockingIOError: another process holds the lock.
    """
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno in _BUSY:
                raise BlockingIOError from None
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(lock)):  # not removed in between
                with contextlib.suppress(OSError):  # a full disk
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, json.dumps(_own_process()).encode(), 0)
                return descriptor
        os.close(descriptor)


def _own_process() -> dict[str, str | int | float]:
    """Returns the description of this process that a lock file holds."""
    command = shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]])
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    return {
        "command": command[:_COMMAND_LETTERS],
        "process": os.getpid(),
        "host": socket.gethostname(),
        "user": user,
        "since": time.time(),
    }


def _holder(lock: pathlib.Path) -> str:
    """Returns a description of a lock's holder, for messages."""
    for _ in range(5):  # the holder may not have written its name yet
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found = strict_json.parse(lock.read_bytes()[:4096])
            age = max(time.time() - found["since"], 0)
            return terminal.literal(
                f"process {found['process']} of {found['user']} on {found['host']} "
                f"(`{found['command']}`, for {age:,.0f} s now)"
            )
        time.sleep(0.05)
    return "another process"
