"""Folders for compiled programs, private to the user.

What a cache of compiled programs holds is run as it is read. So it is kept apart from runs, codecs and stores, which
people pass on, and only in folders that nobody else can write.
"""

import contextlib
import os
import pathlib
import stat
import tempfile


def private_folder(parent: pathlib.Path) -> pathlib.Path | None:
    """The user's own folder inside one that all may write; None where nobody else can be kept out of it."""
    try:
        return _closed(parent / f"compressed_lm-{os.getuid()}")
    except AttributeError:  # Windows has no user ids, and no folder that all share
        return None


def xla() -> pathlib.Path | None:
    """Folder in which XLA keeps compiled programs for later processes of this user.

    `$XDG_CACHE_HOME/compressed_lm/xla` (by default under `~/.cache`), or a private folder for temporary files where
    that cannot be written.

    Returns:
        The folder; None where `JAX_COMPILATION_CACHE_DIR` names another, which JAX then uses, or where there is none
            that
        only the user can write.
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
    """Makes a folder that only the user can read; None if it is there already and others can write it, or is a link."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    own = not hasattr(os, "getuid") or found.st_uid == os.getuid()
    closed = stat.S_ISDIR(found.st_mode) and own and not found.st_mode & (0o077 if os.name == "posix" else 0)
    return folder if closed and os.access(folder, os.W_OK) else None
