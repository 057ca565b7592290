"""Batches of rows over the local devices; the only module that uses pmap.

Each process maps its own rows over its own devices: there is no mesh of several processes and no collective, so
processes need not make the same calls. `jax.pmap` with explicit devices says exactly this. JAX maintains it but does
not develop it further; a `shard_map` over a mesh of the local devices gives the same bits, as a test shows.
"""

import collections
import dataclasses
import functools
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from compressed_lm.errors import InputError

SLOTS = (1, 4, 16, 64, 256)
"""Rows per device and call, beside `rows_per_device` itself. Few sizes, since each is compiled separately."""

MOST_PADDING = 0.15
"""Largest number of rows of padding per row with data."""

AHEAD = 2
"""Blocks of a stream that are dispatched before the results of an earlier one are used."""


_AXIS = "devices"


@dataclasses.dataclass(frozen=True)
class Work:
    """Work of the local devices together when they encode, summed. The difference of two is the work in between.

    Attributes:
        steps: sequential steps of M1: cached steps of one byte per row (eiw), or teacher-forced passes of whole rows.
        rows: rows of all devices, in each of these steps.
        padding: of these, rows without data.
    """

    steps: int = 0
    rows: int = 0
    padding: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.steps + other.steps, self.rows + other.rows, self.padding + other.padding)

    def __sub__(self, other: "Work") -> "Work":
        return Work(self.steps - other.steps, self.rows - other.rows, self.padding - other.padding)

    @property
    def padding_share(self) -> float:
        return self.padding / self.rows if self.rows else 0.0


class _Process:
    """Settings and counters of this process."""

    lock = threading.Lock()
    rows_per_device = 256
    work = Work()


def rows_per_device() -> int:
    """Returns the largest number of rows of a device: its batch size for M1."""
    return _Process.rows_per_device


def use_rows_per_device(n_rows: int) -> None:
    """Sets the largest number of rows of a device in this process, 256 by default. Ids do not depend on it.

    Raises:
        InputError: the number is not positive.
    """
    if n_rows < 1:
        raise InputError(f"{n_rows} rows per device were requested; at least 1 was expected. Give a larger number.")
    _Process.rows_per_device = int(n_rows)


def work() -> Work:
    """Returns the work of this process so far."""
    return _Process.work


def add_work(done: Work) -> None:
    """Adds to the work of this process."""
    with _Process.lock:
        _Process.work += done


def block_rows() -> int:
    """Returns the number of rows that fill the local devices."""
    return rows_per_device() * jax.local_device_count()


def slot_count(n_rows: int) -> int:
    """Returns the smallest of the compiled sizes, in rows per device, that holds `n_rows`, or the largest."""
    per_device = -(-n_rows // jax.local_device_count())
    return next((size for size in _sizes() if size >= per_device), rows_per_device())


def _sizes() -> list[int]:
    return [size for size in SLOTS if size < rows_per_device()] + [rows_per_device()]


def block_sizes(n_rows: int) -> list[int]:
    """Returns the rows per device of the calls for `n_rows` rows: full ones, then few with little padding.

    At most `MOST_PADDING` is added to the rows, or what it takes to give each device equally many.
    """
    devices, sizes = jax.local_device_count(), _sizes()
    left, most, blocks = -(-n_rows // devices), int(n_rows * (1 + MOST_PADDING) / devices), list[int]()
    while left > 0:
        enough = next((size for size in sizes if size >= left and sum(blocks) + size <= most), None)
        blocks.append(enough or next(size for size in reversed(sizes) if size <= left))
        left -= blocks[-1]
    return blocks


def replicated(constants: Any) -> Any:
    """Returns a pytree of arrays on all local devices, so that calls need not copy it again."""
    return jax.device_put(constants, NamedSharding(_mesh(), PartitionSpec()))


def by_device(rows: Any) -> Any:
    """Returns a pytree of arrays [D * slots, ...] as [D, slots, ...]."""
    devices = jax.local_device_count()
    return jax.tree.map(lambda array: array.reshape(devices, -1, *array.shape[1:]), rows)


def divided(rows: Any) -> Any:
    """Returns `by_device` of rows on the devices, just as calls leave their results there."""
    return jax.device_put(by_device(rows), NamedSharding(_mesh(), PartitionSpec(_AXIS)))


def fetched(results: Any) -> Any:
    """Returns results [D, slots, ...] as NumPy arrays [D * slots, ...]; it waits for them."""
    return jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), jax.device_get(results))


def _mesh() -> Mesh:
    return Mesh(np.array(jax.local_devices()), (_AXIS,))


def on_devices(fn: Callable) -> Callable:
    """Returns `fn` of (constants, rows) mapped over the local devices: rows are pytrees of arrays [D, slots, ...].

    The results are on the devices, where a later call can use them. Calls return before the devices have finished.
    """
    return jax.pmap(fn, in_axes=(None, 0), axis_name=_AXIS, devices=jax.local_devices())


class LocalMap:
    """A function of any number of rows, which are divided among the local devices.

    M1 is exact, so the results do not depend on the placement of rows, bit for bit.
    """

    def __init__(self, fn: Callable, *, sequential: bool) -> None:
        self._mapped, self._sequential = on_devices(fn), sequential

    def __call__(self, constants: Any, rows: Any) -> Any:
        """Returns the results of rows, a pytree of arrays [N, ...], as NumPy arrays."""

        def pieces() -> Iterator[tuple[Any, int]]:
            start = 0
            for size in self._blocks(len(jax.tree.leaves(rows)[0])):
                yield jax.tree.map(lambda array: array[start : start + size], rows), size  # noqa: B023
                start += size

        parts = list(self._run(constants, pieces()))
        return parts[0] if len(parts) == 1 else jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)

    def stream(self, constants: Any, rows: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yields the result of each row, in order, for a function of one array and with one array as its result.

        Rows are collected until they fill the devices, and `AHEAD` + 1 such blocks are read ahead. So the devices work
        while the caller makes rows and uses results.
        """
        rows = iter(rows)

        def pieces() -> Iterator[tuple[np.ndarray, int]]:
            while block := list(itertools.islice(rows, block_rows())):
                start = 0
                for size in self._blocks(len(block)):
                    yield np.stack(block[start : start + size]), size
                    start += size

        return itertools.chain.from_iterable(self._run(constants, pieces()))

    def _run(self, constants: Any, pieces: Iterable[tuple[Any, int]]) -> Iterator[Any]:
        """Yields the results of pieces of rows, padded to the given sizes; `AHEAD` calls follow the one in use."""
        running: collections.deque[Callable[[], Any]] = collections.deque()
        for rows, size in pieces:
            running.append(self._dispatch(constants, rows, size))
            if len(running) > AHEAD:
                yield running.popleft()()
        while running:
            yield running.popleft()()

    def _blocks(self, n_rows: int) -> list[int]:
        """Returns the rows of each call, on all devices."""
        if self._sequential:  # many small blocks would take as long as many full ones
            full, rest = divmod(n_rows, block_rows())
            sizes = [rows_per_device()] * full + ([slot_count(rest)] if rest else [])
        else:
            sizes = block_sizes(n_rows)
        return [size * jax.local_device_count() for size in sizes]

    def _dispatch(self, constants: Any, rows: Any, block: int) -> Callable[[], Any]:
        """Starts a call for up to `block` rows, zero-padded; returns a function that waits for its results."""
        n_rows = len(jax.tree.leaves(rows)[0])

        def filled(array: np.ndarray) -> np.ndarray:
            fill = np.zeros((block - n_rows, *array.shape[1:]), array.dtype)
            return np.concatenate([array, fill])

        out = self._mapped(constants, by_device(jax.tree.map(filled, rows)))
        if not self._sequential:  # loops of many steps decode
            add_work(Work(1, block, block - n_rows))
        return lambda: jax.tree.map(lambda array: array[:n_rows], fetched(out))


def map_over_local_devices(fn: Callable, *, sequential: bool = False, **static: Any) -> LocalMap:
    """Returns `fn` as a function of any number of rows, which are divided among the local devices.

    Args:
        fn: maps (constants, rows), rows a pytree of arrays [slots, ...], to a pytree of arrays [slots, ...]. It must be
            pure, without collectives, and treat rows independently.
        sequential: whether `fn` is a long loop of small steps, which takes about as long for few rows as for many. Its
            last rows are then one call, with any padding; otherwise `block_sizes` bounds it.
        **static: keyword arguments fixed at compile time.

    Returns:
        The same function of (constants, rows) for any number of rows, with NumPy results.
    """
    return LocalMap(functools.partial(fn, **static), sequential=sequential)
