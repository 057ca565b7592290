"""Frequency tables: positive integers that sum to exactly 2**16."""

from typing import Any

import numpy as np
import numpy.typing as npt

TABLE_BITS = 16
TABLE_TOTAL = 1 << TABLE_BITS
END = 256
"""Symbol after the 256 bytes: the end of a document, and the first input of every context of M1."""
MAX_WEIGHT = 1 << 15
"""Largest weight for which `frequencies` fits in 32 bits."""


def frequencies(weights: Any, *, xp: Any = np) -> Any:
    """Returns frequencies of symbols from integer weights.

    Every symbol gets at least 1, so that it can be encoded. The remainder of the floors goes to the symbol with the
    largest weight (the first of equals). All operations are on 32-bit integers, so the result is the same on every
    machine.

    Args:
        weights: uint32[..., S], each at most 2**15, not all zero in a row.
        xp: numpy or jax.numpy.

    Returns:
        uint32[..., S], each at least 1, summing to 2**16 along the last axis.
    """
    n_symbols = weights.shape[-1]
    weights = weights.astype(xp.uint32)
    total = weights.sum(-1, keepdims=True, dtype=xp.uint32)
    floors = xp.uint32(1) + weights * xp.uint32(TABLE_TOTAL - n_symbols) // total
    rest = xp.uint32(TABLE_TOTAL) - floors.sum(-1, keepdims=True, dtype=xp.uint32)
    heaviest = xp.arange(n_symbols) == xp.argmax(weights, axis=-1)[..., None]
    return floors + xp.where(heaviest, rest, xp.uint32(0))


def frequencies_from_counts(counts: npt.ArrayLike) -> np.ndarray:
    """Returns frequencies uint32[S] of symbols from their counts in a corpus, non-negative numbers of any size."""
    counts = np.asarray(counts, np.float64)
    if counts.ndim != 1 or not len(counts) or counts.min() < 0 or counts.max() <= 0:
        raise ValueError(
            f"Counts of shape {counts.shape} were given; one list of non-negative numbers, not all zero, was expected."
        )
    return frequencies(np.ceil(counts * (MAX_WEIGHT / counts.max())).astype(np.uint32))


def cumulative(freqs: Any, *, xp: Any = np) -> Any:
    """Returns the cumulative table with a leading zero, uint32[..., S + 1], of frequencies uint32[..., S]."""
    sums = xp.cumsum(freqs, axis=-1, dtype=xp.uint32)
    return xp.concatenate([xp.zeros_like(sums[..., :1]), sums], axis=-1)
