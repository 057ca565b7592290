"""Private folders for compiled programs.

A process executes what it finds in such a cache. So caches are kept apart from runs, codecs and stores, which people
share, and only in folders that no other user can write.
"""

import contextlib
import os
import pathlib
import stat
import tempfile


def private_folder(parent: pathlib.Path) -> pathlib.Path | None:
    """Returns the user's private folder in a shared parent; None if it cannot be protected from other users."""
    try:
        return _closed(parent / f"compressed_lm-{os.getuid()}")
    except AttributeError:  # Windows has no user ids, and no shared folder
        return None


def xla() -> pathlib.Path | None:
    """Returns the folder in which XLA caches compiled programs of this user.

    It is `$XDG_CACHE_HOME/compressed_lm/xla` (by default under `~/.cache`), or a private temporary folder if that one
    cannot be written.

    Returns:
        The folder; None if `JAX_COMPILATION_CACHE_DIR` is set, which JAX then uses, or if no folder is private.
    """
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return None
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    usual = None
    if os.path.isabs(home):
        with contextlib.suppress(OSError):
            os.makedirs(home, exist_ok=True)
        usual = _closed(pathlib.Path(home) / "compressed_lm")
    folder = usual or private_folder(pathlib.Path(tempfile.gettempdir()))
    return folder and _closed(folder / "xla")


def _closed(folder: pathlib.Path) -> pathlib.Path | None:
    """Makes a folder with mode 0700 and returns it; None if it exists and is a link or open to other users."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    own = not hasattr(os, "getuid") or found.st_uid == os.getuid()
    closed = stat.S_ISDIR(found.st_mode) and own and not found.st_mode & (0o077 if os.name == "posix" else 0)
    return folder if closed and os.access(folder, os.W_OK) else None
