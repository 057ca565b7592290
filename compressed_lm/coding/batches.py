"""Batches of texts: runs of bounded size, threads, reused buffers."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

BLOCK = 1 << 19
"""Bytes of text, or tokens, per call of a thread; bounds its buffers to a few MB."""


class Scratch(threading.local):
    """Reused buffers of each thread: allocating new memory costs more than filling it."""

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}

    def array(self, name: str, size: int, dtype: npt.DTypeLike) -> np.ndarray:
        """Returns at least `size` uninitialised elements, valid until the thread's next call with this name."""
        if name not in self._arrays or len(self._arrays[name]) < size:
            self._arrays[name] = np.empty(size, dtype)
        return self._arrays[name]


SCRATCH = Scratch()


def read_only(data: bytes) -> np.ndarray:
    """Returns bytes as a read-only array uint8[N], the input type of the compiled loops."""
    array = np.frombuffer(data, np.uint8)
    array.flags.writeable = False  # bytes and bytearrays then have one Numba type, so the loops are compiled once
    return array


def runs_of(items: Sequence, size: int) -> Iterator[tuple[Sequence, np.ndarray]]:
    """Groups consecutive items: as many as fit into `size` together, or one longer item.

    Yields:
        The items, and their bounds in the concatenation, int64[D + 1].
    """
    bounds, begin = np.zeros(len(items) + 1, np.int64), 0
    np.cumsum(list(map(len, items)), out=bounds[1:])
    while begin < len(items):
        end = max(begin + 1, int(np.searchsorted(bounds, bounds[begin] + size, "right")) - 1)
        yield items[begin:end], bounds[begin : end + 1] - bounds[begin]
        begin = end


def in_threads(work: Callable[[Sequence, np.ndarray], list], runs: Iterator[tuple], threads: int) -> list:
    """Returns the concatenated results of `work` for each run of `runs_of`, in order."""
    if threads <= 1:
        return [result for run in runs for result in work(*run)]
    with ThreadPoolExecutor(threads) as pool:
        return [result for results in pool.map(lambda run: work(*run), runs) for result in results]
