"""Lookup of segments in the cache: the loops that most text takes.

They work on addresses, not on arrays: Numba would count references to each array in every call, and pass it as seven
words. The lookups of many segments are independent, so their keys are computed together and their slots prefetched,
with no branch on the text.
"""

import numpy as np

from compressed_lm.coding import memo, segments
from compressed_lm.coding.compiled import njit
from compressed_lm.coding.machine import load, load_byte, prefetch, store

UNUSUAL = np.uint64(32)
"""In the tag of a segment, above its length: its space differs from the default."""

_ONE, _SPACE, _BYTE = np.uint64(1), np.uint64(segments.SPACE), np.uint64(255)
_KEY_BYTES = np.uint64(32)  # of a segment: its two words, tag and first slot
_PIECE, _SECOND = np.uint64(0xFFFF), np.uint64(0xFFFF00000000)  # bits of a piece; of the second in a slot
_AFTER_WHITE = np.where(segments.KINDS == segments.WHITE, 256, 0).astype(np.uint64)


def _masks() -> np.ndarray:
    """Returns the bits of the first n bytes of two words, for n of 0 to 17 and more, uint64[18, 2]."""
    found = np.zeros((18, 16), np.uint8)
    for n in range(18):
        found[n, :n] = 255
    return found.view("<u8").astype(np.uint64)


_MASKS = _masks()


@njit(nogil=True)
def find_keys(text, begins, n, base, spaced, slots, key, keys):
    """Computes the keys of segments and prefetches their slots.

    Args:
        text: address of the text that has all segments, uint64.
        begins: address of int64[n + 1], beginning of each segment from there, and the end of the last.
        n: number of segments.
        base: where the document of the segments begins.
        spaced: bool[513], see `pieces.Pieces`.
        slots, key: address of the slots, and key, of `memo.Memo`.
        keys: address of uint64[n, 4], written: the two words of each segment, its tag and its first slot.
    """
    key0, key1 = key[0], key[1]
    usual = np.uint64(spaced.ctypes.data)
    end = load(begins)
    for k in range(n):
        begin, end = end, load(begins + np.uint64(8 * (k + 1)))
        length, address = end - begin, text + begin
        known = min(length, np.uint64(17))
        low, high = load(address) & _MASKS[known, 0], load(address + np.uint64(8)) & _MASKS[known, 1]
        space = np.uint64(low & _BYTE == _SPACE)
        letter = (low >> (space << np.uint64(3)) | np.uint64(32)) & _BYTE
        if begin < base + np.uint64(2):
            context = np.uint64(512) if begin == base else load_byte(address - _ONE) + np.uint64(256)
        else:
            context = load_byte(address - _ONE) + _AFTER_WHITE[load_byte(address - np.uint64(2))]
        unusual = np.uint64(letter - np.uint64(97) < np.uint64(26)) & (space ^ load_byte(usual + context))
        tag = min(length, np.uint64(31)) | unusual << np.uint64(5)
        slot = memo.first_slot(low, high, tag, key0, key1)
        prefetch(slots + slot)
        to = keys + np.uint64(k) * _KEY_BYTES
        store(to, low)
        store(to + np.uint64(8), high)
        store(to + np.uint64(16), tag)
        store(to + np.uint64(24), slot)


@njit(nogil=True)
def recall(slots, keys, k, n_keys, numbers, n, ends):
    """Writes the pieces of cached segments from the k-th on; stops at the first that is not in the cache.

    Args:
        slots: address of the slots.
        keys: address of uint64[n_keys, 4], from `find_keys`.
        k, n_keys: first segment, and number of segments.
        numbers: address of int32[...], written from index n: the pieces, and up to three more numbers.
        n: index of the next piece.
        ends: address of int64[n_keys], written: the index after the pieces of each segment.

    Returns:
        The first segment that is not in the cache, or n_keys; and the index after the pieces before it.
    """
    to = numbers + np.uint64(n) * np.uint64(4)
    while k < n_keys:
        key = keys + np.uint64(k) * _KEY_BYTES
        slot = load(key + np.uint64(24))
        at = slots + slot
        low, high, tag = load(key), load(key + np.uint64(8)), load(key + np.uint64(16))
        third = load(at + np.uint64(16))
        if (load(at) ^ low) | (load(at + np.uint64(8)) ^ high) | (third >> np.uint64(8) & _BYTE ^ tag):
            at = memo.find_other(slots, slot, low, high, tag)
            if at == memo.NONE:
                break
            third = load(at + np.uint64(16))
        # Two pieces, then the third: a branch for each would cost more.
        store(to, third >> np.uint64(16) & _PIECE | third & _SECOND)
        store(to + np.uint64(8), third >> np.uint64(48))
        count = third & _BYTE
        if count > np.uint64(3):
            fourth = load(at + np.uint64(24))
            for m in range(3, count):
                store(to + np.uint64(4) * np.uint64(m), fourth & _PIECE)
                fourth >>= np.uint64(16)
        to += count * np.uint64(4)
        k += 1
        store(ends + np.uint64(8) * np.uint64(k) - np.uint64(8), to - numbers >> np.uint64(2))
    return k, np.int64(to - numbers >> np.uint64(2))
