"""Loops compiled by Numba, and the folder in which they are kept.

Compiling all of them takes some 15 s of CPU time. It is announced once (logger `compressed_lm`, level WARNING), and the
result is kept on disk: beside the source or in the user's cache, as Numba does by itself; where neither can be written,
in a private folder for temporary files; where there is none, nowhere, and each process compiles again.
"""

import functools
import logging
import pathlib
import tempfile
import threading

import numba
from numba.core import event

from compressed_lm.caches import private_folder

_LOCK = threading.Lock()


def njit(function=None, **options):
    """`numba.njit`, kept on disk where a folder can be written. Use as `@njit(nogil=True)`."""
    if function is None:
        return functools.partial(njit, **options)
    try:
        return _stamped(numba.njit(cache=True, **options)(function))
    except RuntimeError:  # Numba found no folder
        return _njit_elsewhere(function, options)


def _sources() -> tuple:
    """Names, sizes and times of the modules whose loops call each other."""
    found = sorted(pathlib.Path(__file__).parent.glob("*.py"))
    return tuple((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in found)


_SOURCES = _sources()


def _stamped(function):
    """Makes Numba compile again when any of the modules changes: by itself it looks at the function's own alone."""
    file = getattr(getattr(function, "_cache", None), "_cache_file", None)
    if hasattr(file, "_source_stamp"):
        file._source_stamp = file._source_stamp, _SOURCES
    return function


def _njit_elsewhere(function, options):
    folder = private_folder(pathlib.Path(tempfile.gettempdir()))
    with _LOCK:
        usual = numba.config.CACHE_DIR
        try:
            numba.config.CACHE_DIR = str(folder or "")
            return _stamped(numba.njit(cache=folder is not None, **options)(function))
        except RuntimeError:
            return numba.njit(**options)(function)
        finally:
            numba.config.CACHE_DIR = usual


def cache_folder() -> str | None:
    """Where compiled loops are kept; None where they are not."""
    return getattr(_probe, "stats", None) and _probe.stats.cache_path


@njit
def _probe():
    return 0


class _Announcement(event.Listener):
    """Says once in a process that loops of this package are being compiled."""

    def __init__(self):
        self._made = False

    def on_start(self, event):
        package = __package__.partition(".")[0]
        if self._made or event.data["dispatcher"].py_func.__module__.partition(".")[0] != package:
            return
        self._made, kept = True, cache_folder()
        logging.getLogger(package).warning(  # a level that is shown where nobody has set logging up, as in notebooks
            "Compiling loops for this machine: up to 15 s of CPU time, %s.",
            f"once (kept in {kept})" if kept else "in every process (no folder to keep them in can be written)",
        )

    def on_end(self, event):
        pass


event.register("numba:compile", _Announcement())
