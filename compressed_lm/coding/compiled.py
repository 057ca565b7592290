"""Numba compilation with a cache on disk.

Compiling the loops of a codec takes up to 15 s of CPU time. It is logged once (logger `compressed_lm`, level WARNING).
The cache is beside the source or in the user's cache folder, as is Numba's default; if neither can be written, in a
private temporary folder; if there is none, every process compiles again.
"""

import functools
import logging
import pathlib
import tempfile
import threading
from collections.abc import Callable
from typing import Any

import numba
from numba.core import event

from compressed_lm.caches import private_folder

_LOCK = threading.Lock()


def njit(function: Callable | None = None, **options: Any) -> Any:
    """Compiles a function by `numba.njit`, with a cache on disk if a folder can be written.

    Use as `@njit` or `@njit(nogil=True)`.
    """
    if function is None:
        return functools.partial(njit, **options)
    try:
        return _stamped(numba.njit(cache=True, **options)(function))
    except RuntimeError:  # Numba found no cache folder
        return _njit_elsewhere(function, options)


part = functools.partial(numba.njit, nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""Decorator of functions that only compiled loops call. They are kept on disk within their callers."""


def _sources() -> tuple:
    """Returns names, sizes and times of the modules whose loops call each other."""
    package = pathlib.Path(__file__).parent.parent
    found = sorted(path for folder in ("coding", "exact", "codecs") for path in (package / folder).glob("*.py"))
    return tuple((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in found)


_SOURCES = _sources()


def _stamped(function: Any) -> Any:
    """Makes Numba recompile when any of the modules changes; by default it checks only the function's own module."""
    file: Any = getattr(getattr(function, "_cache", None), "_cache_file", None)
    if hasattr(file, "_source_stamp"):
        file._source_stamp = file._source_stamp, _SOURCES
    return function


def _njit_elsewhere(function: Callable, options: dict[str, Any]) -> Any:
    folder = private_folder(pathlib.Path(tempfile.gettempdir()))
    config: Any = numba.config  # its attributes are set at run time
    with _LOCK:
        usual = config.CACHE_DIR
        try:
            config.CACHE_DIR = str(folder or "")
            return _stamped(numba.njit(cache=folder is not None, **options)(function))
        except RuntimeError:
            return numba.njit(**options)(function)
        finally:
            config.CACHE_DIR = usual


def cache_folder() -> str | None:
    """Returns the cache folder of the compiled loops; None if there is none."""
    return getattr(_probe, "stats", None) and _probe.stats.cache_path


@njit
def _probe():
    return 0


class _Announcement(event.Listener):
    """Logs once per process that loops of this package are being compiled."""

    def __init__(self) -> None:
        self._made = False

    def on_start(self, event: Any) -> None:
        package = __name__.partition(".")[0]
        if self._made or event.data["dispatcher"].py_func.__module__.partition(".")[0] != package:
            return
        self._made, kept = True, cache_folder()
        logging.getLogger(package).warning(  # a level that is shown without logging set-up, as in notebooks
            "Compiling loops for this machine: up to 15 s of CPU time, %s.",
            f"once (kept in {kept})" if kept else "in every process (no cache folder can be written)",
        )

    def on_end(self, event: Any) -> None:
        pass


event.register("numba:compile", _Announcement())
