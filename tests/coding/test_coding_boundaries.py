"""Boundaries of segments by operations on 64 bytes equal those found byte by byte."""

import itertools

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressed_lm.coding import boundaries, segments

MOST = 128
AROUND = [b"\0", b"a", b"A", b" ", b"'", b"\x80", "é".encode()]
CHARACTERS = [
    *(bytes([byte]) for byte in b"azAZ09 ,'\t\n\v\x00\x1c@[`{/:"),
    *(c.encode() for c in "é¡“日。！Ａ😀\U00040000"),
    *(b"\x80", b"\xc0", b"\xc2", b"\xe2", b"\xe2\x80", b"\xf0\x9f", b"\xf5", b"\xff"),
]
RUNS = [b"word", b"The", b"NASA", b"A" * 30, b" " * 25, b"." * 20, b"\n" * 35, "日".encode() * 15]


@numba.njit
def ends(data, stop, most, begins):
    found, n, i = np.empty(stop + 1, np.int64), 0, 0
    while i < stop:
        count = boundaries.find(data, i, stop, stop, most, begins)
        for k in range(1, count + 1):
            found[n] = begins[k]
            n += 1
        i = begins[count]
    return found[:n]


def check(text, after=b"\0", most=MOST):
    data = np.frombuffer(text + (after * boundaries.PADDING)[: boundaries.PADDING], np.uint8)
    found = ends(data, len(text), most, np.empty(most + 1 + boundaries.SPARE, np.int64))
    expected = segments.ends(np.frombuffer(text, np.uint8))
    assert found.tolist() == expected.tolist(), (text, after)


@settings(max_examples=600, deadline=None)
@given(
    st.lists(st.sampled_from([*CHARACTERS, *RUNS]), max_size=80).map(b"".join),
    st.sampled_from(AROUND),
    st.sampled_from([1, 2, 17, MOST]),
)
def test_boundaries_are_those_of_the_rules(text, after, most):
    """Any mix of characters, runs and invalid bytes has the boundaries of `segments.ends`.

    The bytes after the text and the number of segments found at a time make no difference.
    """
    check(text, after, most)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(AROUND))
def test_boundaries_of_any_bytes(noise, after):
    """Random bytes have the boundaries of `segments.ends`."""
    check(noise, after)


def test_all_short_texts():
    """All texts of up to three characters, with every kind of byte after them, alone and far from the beginning."""
    for length in (1, 2, 3):
        for characters in itertools.product(CHARACTERS, repeat=length):
            text = b"".join(characters)
            check(text, b"a"), check(text, b" ")
            if length < 3:
                for n in (55, 58, 61, 64):
                    check(b"a" * n + text, b"A"), check(b" b" * (n // 2) + text + b"c", b"'")


@pytest.mark.parametrize("limit", [0, 1, 5, 40, 100])
def test_beginnings_stop_at_a_limit(limit):
    """Segments that begin at or after the limit are left out; the last one may end after it."""
    text = b"some words, and 1984 more of them " * 5
    data = np.frombuffer(text + bytes(boundaries.PADDING), np.uint8)
    begins = np.empty(MOST + 1 + boundaries.SPARE, np.int64)
    n = boundaries.find(data, 0, limit, len(text), MOST, begins)
    found = segments.ends(data[: len(text)])
    assert n == sum(begin < limit for begin in [0, *found.tolist()][:-1])
    assert begins[: n + 1].tolist() == [0, *found.tolist()][: n + 1]
