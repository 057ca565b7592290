"""Spans in which bytes are spelled: nothing is lost, and they are as short as they claim."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from compressed_lm.coding import literal


def read(spans):
    """The text of spans, given as a way of writing and its bytes, one after another."""
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
    room = np.empty(2 * len(text) + 2, np.uint8)
    return room[: literal.pack(np.frombuffer(text, np.uint8), 0, len(text), room)].tobytes()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=4))
def test_every_byte_string_is_spelled_and_packed(texts):
    """Each way of writing gives back any bytes, in bytes of folded text alone, and knows where it ends."""
    for mode in (literal.AS_IT_IS, literal.SWAPPED):
        spans = [(mode, spelled(text, mode)) for text in texts]
        assert read(spans) == b"".join(texts)
    spans = [(literal.PACKED, packed(text)) for text in texts]
    assert read(spans) == b"".join(texts)
    assert {bytes([b]) for _, span in spans for b in span} <= set(literal.ALPHABET)


def test_letters_of_either_case_are_one_byte():
    """Small and capital letters take one byte each as they are and swapped; only control characters take two."""
    letters = b"aAzZ9 \n\t\0\xff"
    for mode in (literal.AS_IT_IS, literal.SWAPPED):
        assert len(spelled(letters, mode)) == len(letters) + 1
        assert len(spelled(b"\x01\x1f", mode)) == 5
    assert spelled(b"acg", literal.AS_IT_IS)[:-1] == spelled(b"ACG", literal.SWAPPED)[:-1] == b"acg"


def test_packed_blocks_have_two_digits_more():
    """56 bytes are 58 digits, and the largest number of each length fits: 1.036 digits a byte, and two more."""
    for n in (1, 55, 56, 57, 112, 1000):
        for byte in (0, 255):
            assert len(packed(bytes([byte]) * n)) == n + 2 * -(-n // literal.BLOCK_BYTES) <= 29 * n / 28 + 2
            assert read([(literal.PACKED, packed(bytes([byte]) * n))]) == bytes([byte]) * n


def test_choice_is_the_cheapest():
    """No other ways of writing four segments cost less, the marks between them and the bias included: all are tried."""
    rng = np.random.default_rng(0)
    passing = literal._PASS
    for scale in (3, 30, 300):
        costs = rng.integers(0, scale * literal.UNIT, (4, 4)).astype(np.int32)
        modes = np.empty(4, np.uint8)
        literal.choose(costs, 4, np.empty((4, 4), np.uint8), modes)

        def total(ways, costs=costs):
            steps = itertools.pairwise((0, *ways, 0))
            return sum(passing[a, b] for a, b in steps) + sum(costs[k, way] for k, way in enumerate(ways))

        assert total(modes.tolist()) == min(map(total, itertools.product(range(4), repeat=4)))
