"""The cache of segments is bounded, replaces old entries, and does not change results."""

import random

import numba
import numpy as np
import pytest

from compressed_lm import codecs
from compressed_lm.coding import folding, memo, parsing, pieces, recall, segments

BYTES = list(folding.ALPHABET)
MULTIPLIERS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], np.uint64)
ENGLISH = (
    b"There was a smell of rain in the air, and nobody in the house could say when it would end. In 1905 the "
    b"committee of the university published its report on the history of the railway; it was read by no one.\n"
) * 3
KEY = 0x1234567890ABCDEF, 0xFEDCBA0987654321


def some_pieces(key=KEY):
    p = pieces.Pieces([*BYTES, b"ab", b" the", b" word"], [900] * (len(BYTES) + 3))
    p._memo = memo.Memo(key)
    return p


def words(n, seed=0):
    drawn = random.Random(seed)
    return b" ".join([bytes(drawn.choices(b"abcdefghijklmnop", k=5)) for _ in range(n)])


def chosen_words(n):
    """Returns words of five letters that collide under a multiplicative hash without a key."""
    letters = np.arange(26, dtype=np.uint64) + np.uint64(ord("a"))
    low = np.full(1, ord(" "), np.uint64)
    for place in range(1, 6):
        low = (low[:, None] | letters[: 26 if place > 1 else 8] << np.uint64(8 * place)).reshape(-1)
    mixed = (low ^ np.uint64(6)) * MULTIPLIERS[0]
    place = (mixed ^ (mixed >> np.uint64(29))) * MULTIPLIERS[0] >> np.uint64(47)
    chosen = low[np.argsort(place, kind="stable")[:n]]
    return chosen.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :6].tobytes()


def parsed(p, text):
    """Returns the number of parsed segments of a text that were not in the cache; some are too long for it."""
    before = int(p._memo.parsed[0])
    p.encode(text)
    return int(p._memo.parsed[0]) - before


@pytest.mark.parametrize("key", [(1, 1), (3, 5), tuple(MULTIPLIERS.tolist()), (2**64 - 1, 2**63 + 1)])
def test_ids_do_not_depend_on_the_key(key):
    """The ids are the same for any hash key and any state of the cache."""
    text = words(3000) + b" the word " + bytes(range(256)) + b"aAaA" * 50
    expected = some_pieces().encode(text)
    p = some_pieces(key)
    for _ in range(2):
        assert np.array_equal(p.encode(text), expected)


def test_keys_differ_between_processes():
    """The default key is odd and is not a known constant."""
    assert memo._KEY != tuple(MULTIPLIERS.tolist()) and all(int(k) & 1 for k in memo.Memo().key)


def test_chosen_words_do_not_spoil_the_memory():
    """Words chosen to collide under a hash without a key do not fill the cache.

    After half as many of them as the cache has slots, English is cached again after one pass.
    """
    p, fresh = some_pieces(), some_pieces()
    p.encode(chosen_words(65_500))
    p.encode(ENGLISH), fresh.encode(ENGLISH)
    assert parsed(p, ENGLISH) == parsed(fresh, ENGLISH)


def test_new_words_take_the_place_of_old_ones():
    """More words than fit are parsed correctly with constant memory, and later words are cached."""
    p, fresh = some_pieces(), some_pieces()
    slots = p._memo.slots.nbytes
    text = words(400_000)
    assert p.decode(p.encode(text)) == text and p._memo.slots.nbytes == slots == 1 << 23
    p.encode(ENGLISH), fresh.encode(ENGLISH)
    assert parsed(p, ENGLISH) == parsed(fresh, ENGLISH)
    assert np.array_equal(p.encode(text[-5000:]), some_pieces().encode(text[-5000:]))


def test_a_search_takes_four_slots():
    """A segment is searched in four slots of one aligned group, for any state of the cache."""
    for first in (0, 5, 262_143):
        group = {first ^ k for k in range(memo.WAYS)}
        assert len(group) == memo.WAYS == 4 and {slot // 4 for slot in group} == {first // 4}


def test_the_shipped_vocabulary_forgets_junk():
    """After a cache full of words seen once, the shipped vocabulary parses English again only once."""
    p = codecs.load("pieces16-en").pieces
    p._memo = memo.Memo(KEY)
    p.encode(words(150_000, seed=1))
    p.encode(ENGLISH)
    assert parsed(p, ENGLISH) == 0
    assert parsing.RULES == p.rules == 2


@numba.njit
def keys_of(data, begin, ends, spaced, slots, key):
    begins, keys = np.append(np.array([begin]), ends), np.empty((len(ends), 4), np.uint64)
    text, places, key_at = np.uint64(data.ctypes.data), np.uint64(begins.ctypes.data), np.uint64(keys.ctypes.data)
    recall.find_keys(text, places, len(ends), np.uint64(begin), spaced, np.uint64(slots.ctypes.data), key, key_at)
    return keys


def test_keys_hold_a_segment_and_whether_its_space_is_unusual():
    """The key of a segment is its first 16 bytes, its length and `is_unusual`, also where a text begins."""
    before, text = b"x ", ENGLISH + "a “b” (c).\n d A B Incomprehensibilities éa\x00 1 e ".encode() + b" "
    data = np.frombuffer(before + text + bytes(65), np.uint8)
    slots = memo.Memo(KEY).slots
    for begin in range(20):
        whole = (before + text)[len(before) + begin :]
        ends = segments.ends(np.frombuffer(whole, np.uint8)) + len(before) + begin
        for spaced in (folding.SPACED, ~folding.SPACED, codecs.load("pieces16-en").pieces.spaced):
            found = keys_of(data, len(before) + begin, ends, spaced, slots, memo.Memo(KEY).key)
            for (low, high, tag, slot), i, end in zip(found.tolist(), [len(before) + begin, *ends], ends, strict=False):
                segment = data[i:end].tobytes()
                unusual = folding.is_unusual(data, len(before) + begin, i, end, spaced)
                assert low.to_bytes(8, "little") + high.to_bytes(8, "little") == segment[:16].ljust(16, b"\0")
                assert tag == min(len(segment), 31) + int(recall.UNUSUAL) * unusual
                assert slot % memo.SLOT_BYTES == 0 and slot < memo.SLOT_BYTES << memo.BITS
