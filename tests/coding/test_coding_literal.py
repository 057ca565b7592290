"""Literal spans are lossless and have the expected length."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressed_lm.coding import choice, literal


def read(spans):
    """Returns the text of consecutive spans, given as (encoding, bytes)."""
    text, state, filled = np.empty(10_000, np.uint8), np.zeros(literal.STATE, np.int64), 0
    for mode, content in spans:
        literal.begin(state, mode)
        for byte in content:
            assert state[0], "the span ended before its bytes did"
            filled = literal.unspell(np.uint8(byte), state, text, filled)
        assert not state[0], "the span goes on after its bytes"
    return text[:filled].tobytes()


def spelled(text, mode):
    room = np.empty(2 * len(text) + 1, np.uint8)
    return room[: literal.spell(np.frombuffer(text, np.uint8), 0, len(text), mode, room)].tobytes() + b"A"


def packed(text):
    room = np.empty(2 * len(text) + 64, np.uint8)
    return room[: literal.pack(np.frombuffer(text, np.uint8), 0, len(text), room)].tobytes()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=4))
def test_every_byte_string_is_spelled_and_packed(texts):
    """Each encoding round-trips any bytes, uses only bytes of folded text, and marks its end."""
    for mode in (literal.AS_IT_IS, literal.SWAPPED):
        spans = [(mode, spelled(text, mode)) for text in texts]
        assert read(spans) == b"".join(texts)
    spans = [(literal.PACKED, packed(text)) for text in texts]
    assert read(spans) == b"".join(texts)
    assert {bytes([b]) for _, span in spans for b in span} <= set(literal.ALPHABET)


def test_letters_of_either_case_are_one_byte():
    """Letters of both cases take one byte as they are and swapped; only control characters take two."""
    letters = b"aAzZ9 \n\t\0\xff"
    for mode in (literal.AS_IT_IS, literal.SWAPPED):
        assert len(spelled(letters, mode)) == len(letters) + 1
        assert len(spelled(b"\x01\x1f", mode)) == 5
    assert spelled(b"acg", literal.AS_IT_IS)[:-1] == spelled(b"ACG", literal.SWAPPED)[:-1] == b"acg"


def test_any_bytes_are_packed_into_a_few_digits_more():
    """28 bytes of all values take 29 digits, plus four; the largest number of each length fits."""
    for n in (1, 55, 56, 57, 112, 1000):
        for text in (bytes(range(256)) * 4, b"\xff" * 900 + bytes(range(100)), bytes(1000)):
            text = text[-n:]
            assert len(packed(text)) <= 29 * n / 28 + 4
            assert read([(literal.PACKED, packed(text))]) == text


@pytest.mark.parametrize(("n_letters", "bytes_a_digit"), [(2, 7.6), (4, 3.8), (5, 3.2), (17, 1.8), (32, 1.5)])
def test_texts_of_few_letters_take_few_digits(n_letters, bytes_a_digit):
    """DNA, digits and hex use the base of their alphabet, for any letters."""
    rng = np.random.default_rng(n_letters)
    letters = rng.permutation(256)[:n_letters].astype(np.uint8)
    for n in (1, 2, 63, 64, 1000, 4000):
        for text in (rng.choice(letters, n).tobytes(), letters[-1:].tobytes() * n):
            assert read([(literal.PACKED, packed(text))]) == text
    assert 4000 / len(packed(np.resize(letters, 4000).tobytes())) > bytes_a_digit


def test_fitting_numbers_are_exact():
    """`FITTING` equals the result of exact integer arithmetic."""
    for base in (*range(2, 33), 256):
        for n_digits in range(1, 58):
            n, most = int(literal.FITTING[base, n_digits]), min(233**n_digits, 1 << 448)
            assert base**n <= most < base ** (n + 1)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400).map(lambda b: bytes(x for x in b if bytes([x]) in literal.ALPHABET)))
def test_any_digits_are_read(content):
    """Arbitrary digits decode without an error, to at most 8 bytes per digit."""
    state, filled, read_so_far = np.zeros(literal.STATE, np.int64), 0, 0
    text = np.empty(8 * len(content) + 8, np.uint8)
    for byte in content:
        if not state[literal.MODE]:
            literal.begin(state, literal.PACKED)
        filled, read_so_far = literal.unspell(np.uint8(byte), state, text, filled), read_so_far + 1
        assert filled <= 8 * read_so_far


def test_choice_is_the_cheapest():
    """No other encodings of four segments have a lower cost, markers and bias included (exhaustive search)."""
    rng = np.random.default_rng(0)
    for scale, base in itertools.product((3, 30, 300), (4, 256)):
        passing = literal.passing(base)
        costs = rng.integers(0, scale * literal.UNIT, (4, 4)).astype(np.int32)
        modes = np.empty(4, np.uint8)
        choice.choose(costs, passing, 4, np.empty((4, 4), np.uint8), modes)

        def total(ways, costs=costs, passing=passing):
            steps = itertools.pairwise((0, *ways, 0))
            return sum(passing[a, b] for a, b in steps) + sum(costs[k, way] for k, way in enumerate(ways))

        assert total(modes.tolist()) == min(map(total, itertools.product(range(4), repeat=4)))
