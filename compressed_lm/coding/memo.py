"""Cache of parsed short segments, of bounded size and bounded search time.

A segment has four slots, found by a hash with a random key per process, so that no text can be made to cause
collisions. A new segment takes a free slot, or replaces one of the four.
"""

import secrets
import threading

import numpy as np

from compressed_lm.coding.compiled import njit
from compressed_lm.coding.machine import load, load_half, store

BITS = 18
"""log2 of the number of slots, which take 8 MB. 6 MB of English fill a quarter, so most hits are in the first slot."""

BYTES = 16
"""Largest length of a cached segment in bytes."""

PIECES = 7
"""Largest number of pieces of a cached segment."""

WAYS = 4
"""Slots per segment."""

_WORDS = 4  # of 8 bytes in a slot
NONE = np.uint64(0)
"""Address that means "not found"."""

SLOT_BYTES = 8 * _WORDS
_LINE = 64  # bytes of a cache line


class Memo(threading.local):
    """The cache; each thread has its own.

    A slot is four words: the 16 bytes of a segment; then, from the lowest bit, the number of its pieces (0 for an empty
    slot) and a tag (length and space marker), 8 bits each, and up to seven pieces of 16 bits.

    Attributes:
        slots: uint64[2 ** 18, 4].
        key: uint64[2], odd.
        parsed: int64[1], number of segments that were not found so far.
    """

    def __init__(self, key: tuple[int, int] | None = None) -> None:
        """Makes an empty cache.

        Args:
            key: key of the hash, by default that of the process. Results do not depend on it.
        """
        memory = np.zeros((SLOT_BYTES << BITS) + _LINE, np.uint8)
        begin = -memory.ctypes.data % _LINE
        self.slots = memory[begin : begin + (SLOT_BYTES << BITS)].view(np.uint64).reshape(-1, _WORDS)
        self.key = np.array(key or _KEY, np.uint64) | np.uint64(1)
        self.parsed = np.zeros(1, np.int64)


_KEY = secrets.randbits(64), secrets.randbits(64)


@njit(nogil=True)
def first_slot(low, high, tag, key0, key1):
    """Returns the offset in bytes of a segment's first slot; the others are in the same aligned group of four."""
    mixed = (low ^ tag) * key0 + high * key1
    return ((mixed ^ mixed >> np.uint64(29)) * key0 >> np.uint64(64 - BITS)) * np.uint64(SLOT_BYTES)


@njit(nogil=True)
def find_other(slots, first, low, high, tag):
    """Returns the address of a segment's slot, searching all except the first; `NONE` if it is in none.

    Args:
        slots: address of the slots.
        first: offset of its first slot from there, in bytes.
        low, high, tag: the segment.
    """
    for k in range(1, WAYS):
        at = slots + (first ^ np.uint64(SLOT_BYTES * k))
        found = load(at + np.uint64(16)) >> np.uint64(8) & np.uint64(255)
        if load(at) == low and load(at + np.uint64(8)) == high and found == tag:
            return at
    return NONE


@njit(nogil=True)
def remember(slots, first, low, high, tag, pieces, count, turn):
    """Writes a segment and its pieces into its first free slot, or into the one chosen by `turn`.

    Args:
        slots: address of the slots.
        first: offset of its first slot from there, in bytes.
        low, high, tag: the segment.
        pieces: address of int32[count], at most 7.
        count: number of its pieces.
        turn: uint64, number of segments written before.
    """
    at = slots + (first ^ np.uint64(SLOT_BYTES) * (turn & np.uint64(WAYS - 1)))
    for k in range(WAYS - 1, -1, -1):
        free = slots + (first ^ np.uint64(SLOT_BYTES * k))
        if load(free + np.uint64(16)) == 0:
            at = free
    third, fourth = np.uint64(count) | tag << np.uint64(8), np.uint64(0)
    for k in range(count):
        piece = load_half(pieces + np.uint64(4 * k))
        if k < 3:
            third |= piece << np.uint64(16 * (k + 1))
        else:
            fourth |= piece << np.uint64(16 * (k - 3))
    store(at, low)
    store(at + np.uint64(8), high)
    store(at + np.uint64(16), third)
    store(at + np.uint64(24), fourth)
