"""Many texts at once: in runs of bounded size, by several threads, in buffers that are used again."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

BLOCK = 1 << 19
"""Bytes of text, or tokens, that a thread works on at a time; bounds its buffers to a few MB."""


class Scratch(threading.local):
    """Buffers that each thread uses again and again: memory fresh from the system costs more than filling it."""

    def __init__(self):
        self._arrays = {}

    def array(self, name: str, size: int, dtype) -> np.ndarray:
        """At least `size` elements of any content, good until the thread asks for the same name again."""
        if name not in self._arrays or len(self._arrays[name]) < size:
            self._arrays[name] = np.empty(size, dtype)
        return self._arrays[name]


SCRATCH = Scratch()


def read_only(data: bytes) -> np.ndarray:
    """uint8[N] of bytes, as the compiled loops take it."""
    array = np.frombuffer(data, np.uint8)
    array.flags.writeable = False  # bytes and bytearrays are one type to numba, so the loops are compiled once
    return array


def runs_of(items: Sequence, size: int) -> Iterator[tuple[Sequence, np.ndarray]]:
    """Groups items in order: as many as fit into `size` together, or one that is longer.

    Yields:
        The items; where each lies in their concatenation, int64[D + 1].
    """
    bounds, begin = np.zeros(len(items) + 1, np.int64), 0
    np.cumsum(list(map(len, items)), out=bounds[1:])
    while begin < len(items):
        end = max(begin + 1, int(np.searchsorted(bounds, bounds[begin] + size, "right")) - 1)
        yield items[begin:end], bounds[begin : end + 1] - bounds[begin]
        begin = end


def in_threads(work: Callable[[Sequence, np.ndarray], list], runs: Iterator[tuple], threads: int) -> list:
    """The results of `work` on each run of `runs_of`, in order."""
    if threads <= 1:
        return [result for run in runs for result in work(*run)]
    with ThreadPoolExecutor(threads) as pool:
        return [result for results in pool.map(lambda run: work(*run), runs) for result in results]
