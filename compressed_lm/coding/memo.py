"""Cache of parsed short segments, of bounded size and bounded search time.

A segment has four slots, found by a hash with a random key per process, so that no text can be made to cause
collisions. A new segment takes a free slot, or replaces one of the four.
"""

import secrets
import threading

import numpy as np

from compressed_lm.coding.compiled import njit
from compressed_lm.coding.machine import load

BITS = 18
"""log2 of the number of slots, which take 8 MB. 6 MB of English fill a quarter, so most hits are in the first slot."""

BYTES = 16
"""Largest length of a cached segment in bytes."""

PIECES = 7
"""Largest number of pieces of a cached segment."""

WAYS = 4
"""Slots per segment."""

_WORDS = 4  # of 8 bytes in a slot
NONE = np.uint64(1 << BITS)
"""Slot number that means "not found"."""

_SLOT_BYTES, _LINE = 8 * _WORDS, 64  # size of a slot, and of a cache line


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
        memory = np.zeros((_SLOT_BYTES << BITS) + _LINE, np.uint8)
        begin = -memory.ctypes.data % _LINE
        self.slots = memory[begin : begin + (_SLOT_BYTES << BITS)].view(np.uint64).reshape(-1, _WORDS)
        self.key = np.array(key or _KEY, np.uint64) | np.uint64(1)
        self.parsed = np.zeros(1, np.int64)


_KEY = secrets.randbits(64), secrets.randbits(64)


@njit(nogil=True, inline="always")
def words(address, length):
    """Returns the first 16 bytes of a segment as two words. 16 bytes from the address must be readable."""
    ones, n_low, n_all = ~np.uint64(0), min(length, 8), min(length, BYTES)
    low = load(address) & (ones >> np.uint64(64 - 8 * n_low))
    half = np.uint64(32 - 4 * (n_all - n_low))  # in two steps, since a shift by 64 is undefined
    return low, load(address + np.uint64(8)) & (ones >> half >> half)


@njit(nogil=True)
def first_slot(low, high, tag, key):
    """Returns the first of a segment's four slots; the others are in the same aligned group of four."""
    mixed = (low ^ tag) * key[0] + high * key[1]
    return (mixed ^ (mixed >> np.uint64(29))) * key[0] >> np.uint64(64 - BITS)


@njit(nogil=True)
def is_in(slots, slot, low, high, tag):
    """Returns whether a segment is in this slot."""
    wrong = (slots[slot, 0] ^ low) | (slots[slot, 1] ^ high) | ((slots[slot, 2] >> np.uint64(8) & np.uint64(255)) ^ tag)
    return wrong == 0  # one branch instead of three


@njit(nogil=True)
def find_other(slots, first, low, high, tag):
    """Returns the slot of a segment, searching all except the first; `NONE` if it is in none."""
    for k in range(1, WAYS):
        slot = first ^ np.uint64(k)
        if is_in(slots, slot, low, high, tag):
            return slot
    return NONE


@njit(nogil=True)
def remember(slots, first, low, high, tag, numbers, begin, end, turn):
    """Writes a segment and its pieces numbers[begin:end] into its first free slot, or into the one chosen by `turn`."""
    place = first ^ np.uint64(turn & (WAYS - 1))
    for k in range(WAYS - 1, -1, -1):
        if slots[first ^ np.uint64(k), 2] == 0:
            place = first ^ np.uint64(k)
    third, fourth = np.uint64(end - begin) | tag << np.uint64(8), np.uint64(0)
    for k in range(end - begin):
        if k < 3:
            third |= np.uint64(numbers[begin + k]) << np.uint64(16 * (k + 1))
        else:
            fourth |= np.uint64(numbers[begin + k]) << np.uint64(16 * (k - 3))
    slots[place, 0], slots[place, 1], slots[place, 2], slots[place, 3] = low, high, third, fourth


@njit(nogil=True)
def recall(third, fourth, numbers, n):
    """Writes the pieces in the last two words of a slot to `numbers[n:]`; returns the index after them.

    At least three numbers are written. The words are arguments instead of the slot, since the loop compiles to faster
    code that way.
    """
    count = np.int64(third & np.uint64(255))
    for m in range(3):  # always three, since a branch for each would cost more
        numbers[n + m] = np.int32((third >> np.uint64(16 * (m + 1))) & np.uint64(0xFFFF))
    if count > 3:
        for m in range(3, count):
            numbers[n + m] = np.int32(fourth & np.uint64(0xFFFF))
            fourth >>= np.uint64(16)
    return n + count
