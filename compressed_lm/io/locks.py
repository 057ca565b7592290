"""One writer at a time for a folder or file: a second command ends at once, told who writes there, or waits.

The lock of `runs/x` is the file `runs/.x.lock`, held by `flock`: the system releases it when its process ends, however
it ends. The file tells who holds it. It is removed when it is released; one that a killed process left does no harm.
Buckets (gs://...) and file systems that have no locks are not locked.
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
    fcntl = None

from compressed_lm import io, terminal
from compressed_lm.errors import InputError
from compressed_lm.io import strict_json

WAIT: contextvars.ContextVar[bool] = contextvars.ContextVar("wait", default=False)
"""Whether `held` waits for who holds a lock, instead of raising; the command line's --wait."""

_POLL_SECONDS = 0.5
_BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_COMMAND_LETTERS = 200
_here = threading.local()


@contextlib.contextmanager
def held(path: str | os.PathLike, *, part: int | None = None) -> Iterator[None]:
    """Holds the lock of a folder or file while the block runs. Blocks of one thread may hold it inside each other.

    Args:
        path: what is written; it need not exist.
        part: the number of this process among those that share the folder; two of one number exclude each other, and
            all of them exclude a process without one.

    Raises:
        InputError: somebody else holds it, and `WAIT` is not set.
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
        if not os.access(folder, os.W_OK) and path.is_dir():  # such as the mount of a container
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
    """Makes a folder; those that were made and are still empty at the end are removed."""
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
    told = False
    while True:
        try:
            descriptor = _take(lock, shared=shared)
            break
        except BlockingIOError:
            holder = _holder(lock)
            if not WAIT.get():
                raise InputError(
                    f"{path} is in use: {holder} writes there. Start again when it has ended (--wait does so by "
                    "itself), or give another path."
                ) from None
            if not told:
                print(f"{path} is in use: waiting for {holder}.", file=sys.stderr, flush=True)
                told = True
            time.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        if descriptor is not None:
            with contextlib.suppress(OSError):  # others who share it keep it
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                lock.unlink()
            os.close(descriptor)


def _take(lock: pathlib.Path, *, shared: bool) -> int | None:
    """The descriptor of a lock file that is locked now; None where there are no locks.

    Raises:
        BlockingIOError: somebody else holds it.
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
            if os.path.samestat(os.fstat(descriptor), os.stat(lock)):  # nobody removed it in between
                with contextlib.suppress(OSError):  # a full disk
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, json.dumps(_oneself()).encode(), 0)
                return descriptor
        os.close(descriptor)


def _oneself() -> dict:
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
    """Who holds a lock, in words."""
    for _ in range(5):  # it may be about to write its name
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found = strict_json.parse(lock.read_bytes()[:4096])
            age = max(time.time() - found["since"], 0)
            return terminal.literal(
                f"process {found['process']} of {found['user']} on {found['host']} "
                f"(`{found['command']}`, for {age:,.0f} s now)"
            )
        time.sleep(0.05)
    return "another process"
