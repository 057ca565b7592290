"""A memory of what short segments were parsed into, of bounded size, where no text makes a search long.

A segment has four slots, found by a hash with a key that is drawn for each process: nobody can choose segments that
meet in one place. What is new takes a free one, or else the place of any of the four.
"""

import secrets
import threading

import numpy as np

from compressed_lm.coding.compiled import njit
from compressed_lm.coding.machine import load

BITS = 18
"""Of the number of slots: 8 MB. English of 6 MB fills a quarter, so what is remembered is mostly in its first slot."""

BYTES = 16
"""Of a segment that is remembered, at most."""

PIECES = 7
"""Into which it was parsed, at most."""

WAYS = 4
"""Slots in which a segment may be."""

_WORDS = 4  # of 8 bytes in a slot
NONE = np.uint64(1 << BITS)
"""In place of a slot."""

_SLOT_BYTES, _LINE = 8 * _WORDS, 64  # of memory, and of the cache


class Memo(threading.local):
    """The memory; each thread has its own.

    A slot is four words: the 16 bytes of a segment; then, from the lowest bits on, the number of its pieces (0 for an
    empty slot) and a tag, its length and how it is written, 8 bits each, and up to seven pieces of 16 bits.

    Attributes:
        slots: uint64[2 ** 18, 4].
        key: uint64[2], odd.
        parsed: int64[1], segments that were not remembered so far.
    """

    def __init__(self, key: tuple[int, int] | None = None):
        """Makes an empty memory.

        Args:
            key: of the hash; what is found does not depend on it. By default that of the process.
        """
        room = np.zeros((_SLOT_BYTES << BITS) + _LINE, np.uint8)
        begin = -room.ctypes.data % _LINE
        self.slots = room[begin : begin + (_SLOT_BYTES << BITS)].view(np.uint64).reshape(-1, _WORDS)
        self.key = np.array(key or _KEY, np.uint64) | np.uint64(1)
        self.parsed = np.zeros(1, np.int64)


_KEY = secrets.randbits(64), secrets.randbits(64)


@njit(nogil=True, inline="always")
def words(address, length):
    """The first 16 bytes of a segment as two words; 16 bytes from its address on can be read."""
    ones, n_low, n_all = ~np.uint64(0), min(length, 8), min(length, BYTES)
    low = load(address) & (ones >> np.uint64(64 - 8 * n_low))
    half = np.uint64(32 - 4 * (n_all - n_low))  # in two steps, as no shift is by 64
    return low, load(address + np.uint64(8)) & (ones >> half >> half)


@njit(nogil=True)
def first_slot(low, high, tag, key):
    """The first of a segment's four slots; the others are the rest of an aligned group of four."""
    mixed = (low ^ tag) * key[0] + high * key[1]
    return (mixed ^ (mixed >> np.uint64(29))) * key[0] >> np.uint64(64 - BITS)


@njit(nogil=True)
def is_in(slots, slot, low, high, tag):
    """Whether a segment is in this slot."""
    wrong = (slots[slot, 0] ^ low) | (slots[slot, 1] ^ high) | ((slots[slot, 2] >> np.uint64(8) & np.uint64(255)) ^ tag)
    return wrong == 0  # one branch in place of three


@njit(nogil=True)
def find_other(slots, first, low, high, tag):
    """Which of its slots but the first a segment is in, or `NONE`."""
    for k in range(1, WAYS):
        slot = first ^ np.uint64(k)
        if is_in(slots, slot, low, high, tag):
            return slot
    return NONE


@njit(nogil=True)
def remember(slots, first, low, high, tag, numbers, begin, end, turn):
    """Writes a segment and its pieces, from one index to another, into the first free of its slots or that at turn."""
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
    """Writes the pieces in the last two words of a slot from index n on, in any case three; returns the index after.

    The words are given in place of the slot, as the loop is then compiled to faster code.
    """
    count = np.int64(third & np.uint64(255))
    for m in range(3):  # all three, since a branch for each would cost more
        numbers[n + m] = np.int32((third >> np.uint64(16 * (m + 1))) & np.uint64(0xFFFF))
    if count > 3:
        for m in range(3, count):
            numbers[n + m] = np.int32(fourth & np.uint64(0xFFFF))
            fourth >>= np.uint64(16)
    return n + count
