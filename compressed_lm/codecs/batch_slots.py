"""Running one function over the local devices: the only place that uses pmap."""

import functools
from collections.abc import Callable

import jax
import numpy as np

SLOTS = (1, 8, 64, 256)
"""Rows that one device works on at a time. Few sizes, since each is compiled for itself; the largest bounds memory."""


def slot_count(n_rows: int) -> int:
    """Rows per device for a call on `n_rows`: the smallest of `SLOTS` that holds them, or the largest."""
    per_device = -(-n_rows // jax.local_device_count())
    return next((slots for slots in SLOTS if slots >= per_device), SLOTS[-1])


def map_over_local_devices(fn: Callable, **static) -> Callable:
    """`fn` over rows, split among the local devices.

    Args:
        fn: maps (constants, rows), rows a pytree of arrays [slots, ...], to a pytree of arrays [slots, ...]. Pure, no
            collectives; it must treat rows independently.
        **static: keyword arguments fixed at compile time.

    Returns:
        The same function of (constants, rows) for any number of rows, with NumPy results. Rows are padded with zeros to
        fill the devices. Because M1 is exact, how rows fall on devices does not change a bit of the result.
    """
    mapped = jax.pmap(functools.partial(fn, **static), in_axes=(None, 0), axis_name="devices")
    devices = jax.local_device_count()

    def call(constants, rows):
        n_rows = len(jax.tree.leaves(rows)[0])
        slots = slot_count(n_rows)
        block = slots * devices

        def spread(array, start):
            array = np.asarray(array[start : start + block])
            fill = np.zeros((block - len(array), *array.shape[1:]), array.dtype)
            return np.concatenate([array, fill]).reshape(devices, slots, *array.shape[1:])

        def gather(array, start):
            return array.reshape(block, *array.shape[2:])[: n_rows - start]

        pieces = []
        for start in range(0, n_rows, block):
            out = jax.device_get(mapped(constants, jax.tree.map(functools.partial(spread, start=start), rows)))
            pieces.append(jax.tree.map(functools.partial(gather, start=start), out))
        return jax.tree.map(lambda *parts: np.concatenate(parts), *pieces)

    return call
