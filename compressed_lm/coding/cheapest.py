"""Parse of one segment into the pieces of lowest total cost (Viterbi).

Addresses instead of arrays, since a call takes less time than counting references to its arguments. The best parse of
each prefix is one number, its cost above the beginning of its last piece, so that of equal costs the earlier is less.
"""

import numpy as np

from compressed_lm.coding.compiled import njit
from compressed_lm.coding.machine import load, load_byte, load_half, select, store, store_half

_ONE, _EIGHT, _BYTE, _BASE = np.uint64(1), np.uint64(8), np.uint64(255), np.uint64(0xFFFFFF)
_NEVER = np.uint64(1 << 62)  # cost of a prefix without a parse


@njit(nogil=True)
def write(text, length, steps, number, best, bases, to):
    """Writes the lowest-cost parse of a segment; returns the number of its pieces.

    Args:
        text: address of the folded segment.
        length: its bytes, at most 255.
        steps: address of `parsing.steps`.
        number: address of int32[C], from `pieces.trie`.
        best, bases: addresses of uint64[length + 1], work space.
        to: address of int32[...], written.
    """
    store(best, np.uint64(0))
    for j in range(1, length + 1):
        store(best + _EIGHT * np.uint64(j), _NEVER)
    for i in range(length):
        base, so_far = np.uint64(0), load(best + _EIGHT * np.uint64(i)) & ~_BYTE | np.uint64(i)
        for j in range(i, length):
            byte = load_byte(text + np.uint64(j))
            step = load(steps + _EIGHT * (base + byte))
            if step & _BYTE != byte:
                break
            base, cost = step >> _EIGHT & _BASE, step >> np.uint64(32)
            at = _EIGHT * np.uint64(j + 1)
            before, new = load(best + at), so_far + (cost << _EIGHT)
            better = (new < before) & (cost != np.uint64(0))
            store(best + at, select(better, new, before))
            store(bases + at, select(better, base, load(bases + at)))
    count, j = np.uint64(0), np.uint64(length)
    while j:
        count, j = count + _ONE, load(best + _EIGHT * j) & _BYTE
    place, j = to + np.uint64(4) * count, np.uint64(length)
    while j:
        place -= np.uint64(4)
        store_half(place, load_half(number + np.uint64(4) * load(bases + _EIGHT * j)))
        j = load(best + _EIGHT * j) & _BYTE
    return np.int64(count)
