"""Batches of rows over the local devices; the only module that uses pmap."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

SLOTS = (1, 8, 64, 256)
"""Batch slots per device. Few sizes, since each is compiled separately; the largest bounds memory."""


def slot_count(n_rows: int) -> int:
    """Returns the batch slots per device for `n_rows` rows: the smallest of `SLOTS` that fits, or the largest."""
    per_device = -(-n_rows // jax.local_device_count())
    return next((slots for slots in SLOTS if slots >= per_device), SLOTS[-1])


def map_over_local_devices(fn: Callable, **static: Any) -> Callable:
    """Returns `fn` as a function of any number of rows, which are divided among the local devices.

    Args:
        fn: maps (constants, rows), rows a pytree of arrays [slots, ...], to a pytree of arrays [slots, ...]. It must be
            pure, without collectives, and treat rows independently.
        **static: keyword arguments fixed at compile time.

    Returns:
        The same function of (constants, rows) for any number of rows, with NumPy results. Rows are zero-padded to fill
        the devices. M1 is exact, so the results do not depend on the placement of rows, bit for bit.
    """
    mapped = jax.pmap(functools.partial(fn, **static), in_axes=(None, 0), axis_name="devices")
    devices = jax.local_device_count()

    def call(constants: Any, rows: Any) -> Any:
        n_rows = len(jax.tree.leaves(rows)[0])
        slots = slot_count(n_rows)
        block = slots * devices

        def spread(array: np.ndarray, start: int) -> np.ndarray:
            array = np.asarray(array[start : start + block])
            fill = np.zeros((block - len(array), *array.shape[1:]), array.dtype)
            return np.concatenate([array, fill]).reshape(devices, slots, *array.shape[1:])

        def gather(array: np.ndarray, start: int) -> np.ndarray:
            return array.reshape(block, *array.shape[2:])[: n_rows - start]

        pieces = []
        for start in range(0, n_rows, block):
            out = jax.device_get(mapped(constants, jax.tree.map(functools.partial(spread, start=start), rows)))
            pieces.append(jax.tree.map(functools.partial(gather, start=start), out))
        return jax.tree.map(lambda *parts: np.concatenate(parts), *pieces)

    return call
