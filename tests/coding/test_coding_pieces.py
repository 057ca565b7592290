"""Text is cut and parsed by rules of bytes alone, into the strings of least cost; capitals come back."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressed_lm.coding import folding, pieces

BYTES = list(folding.ALPHABET)
ALPHABET = [
    b"a",
    b"b",
    b"A",
    b"B",
    b" ",
    b"'",
    b"\n",
    b"1",
    b",",
    "é".encode(),
    "“".encode(),
    b"\xff",
    b"\xe2",
    b"\x00",
]
texts = st.lists(st.sampled_from([*ALPHABET, b"The", b"NASA", b" words", b"A" * 63]), max_size=60).map(b"".join)


def some_pieces(spaced=folding.SPACED):
    """Pieces of two letters or less of a and b, a word, and what they cost."""
    strings = [*BYTES, b"ab", b"aa", b"ba", b" the", b" word", b"words", b"s,", b"A the"]
    return pieces.Pieces(strings, [900] * len(BYTES) + [1000, 1700, 1600, 1500, 2000, 1900, 10, 1550], spaced)


SPACED = np.array([i % 256 in b"ab," or i in tuple(b"1.\n") for i in range(folding.CONTEXTS)])
PIECES = some_pieces(SPACED)


@settings(max_examples=300, deadline=None)
@given(st.lists(texts, max_size=5), st.binary(max_size=300))
def test_any_text_comes_back(documents, noise):
    """Encoding and decoding changes nothing, with what was remembered from texts before, alone or in a batch."""
    documents = [*documents, noise]
    ids = PIECES.encode_batch(documents)
    assert PIECES.decode_batch(ids) == documents
    assert [PIECES.encode(d).tolist() for d in documents] == [i.tolist() for i in ids]
    assert [some_pieces(SPACED).encode(d).tolist() for d in documents[:2]] == [
        i.tolist() for i in ids[:2]
    ]  # no memory yet


def test_what_is_remembered_of_a_word_is_not_taken_for_another():
    """Words that differ in one byte, at any place and of any length that is remembered, stay apart."""
    letters = b"abcdefghijklmnopqrst"
    pairs = [bytes(pair) for pair in itertools.product(letters + b"z", repeat=2)]
    p = pieces.Pieces([*BYTES, *pairs, b" abcdefg"], [1000] * (len(BYTES) + len(pairs) + 1))
    words = [letters[:k] + b"z" + letters[k + 1 : n] for n in range(1, 21) for k in range(n)]
    text = b" ".join([*words, *words, *reversed(words)])
    assert p.decode(p.encode(text)) == text


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, len(PIECES) - 1), max_size=50))
def test_any_numbers_decode(numbers):
    """Every sequence of numbers is a text, and what is certain of it beforehand is a prefix of whatever comes."""
    text = PIECES.decode(numbers)
    for n in range(len(numbers)):
        assert text.startswith(PIECES.decode(numbers[:n], unfinished=True))


def test_parse_is_the_cheapest():
    """No other way to write a word in pieces costs less: all ways of all short words of two letters are tried."""
    p = some_pieces()
    cost = dict(zip(p.strings, p.costs.tolist(), strict=True))

    def least(word):
        ways = [cost[word[:n]] + least(word[n:]) for n in range(1, len(word) + 1) if word[:n] in cost]
        return min(ways, default=0)

    for length in range(1, 9):
        for letters in itertools.product(b"ab", repeat=length):
            word = bytes(letters)
            assert sum(p.costs[p.encode(b"1 " + word)[1:]].tolist()) == least(b" " + word)


def test_marks_tell_how_a_word_is_written():
    """A word is the same piece small, with a capital and in capitals, after a space and where there is none."""
    p = some_pieces()
    the, one, capital_the, capital, capitals, unusual, space = (
        p.strings.index(s) for s in (b" the", b"1", b"A the", b"A", b"B", b"C", b" ")
    )
    assert p.encode(b"the the").tolist() == [the, the]
    assert p.encode(b" the The").tolist() == [unusual, the, capital_the]
    assert p.decode([capital, the, capital_the]) == b"The The"
    assert p.encode(b"THE1the").tolist() == [capitals, the, one, unusual, the]
    assert p.decode([capitals, the, p.strings.index(b"ab"), one, the]) == b"THEAB1 the"
    assert p.decode([capital, one, the, space]) == b"1 the "
    spaced = np.ones(folding.CONTEXTS, bool)
    spaced[ord("1")] = False  # after white space it stays
    p = pieces.Pieces(p.strings, p.costs, spaced)
    assert p.encode(b" the1the1 the").tolist() == [the, one, the, one, unusual, the]
    assert p.encode(b" 1the 1 the").tolist() == [
        space,
        one,
        unusual,
        the,
        space,
        one,
        the,
    ]


def test_words_of_capitals_that_are_cut_come_back():
    """The small letters after a word of capitals too long for a segment stay small."""
    for n in range(120):
        for text in (b"A" * n + b"b", b" " + b"A" * n + b"bc A", b"'" + b"A" * n + b"\xffb"):
            assert PIECES.decode(PIECES.encode(text)) == text


def test_memory_that_is_full_changes_nothing():
    """More different words than are remembered are parsed all the same."""
    p, drawn = some_pieces(), random.Random(0)
    words = [bytes(drawn.choices(b"abcdefghijklmnop", k=5)) for _ in range(90_000)]
    text = b" ".join(words)
    assert p.decode(p.encode(text)) == text and p._memo.used[0] == 1 << 16
    assert np.array_equal(p.encode(text[-5000:]), some_pieces().encode(text[-5000:]))


@pytest.mark.parametrize(
    "strings, costs, complaint",
    [
        (BYTES[:-1], [1] * (len(BYTES) - 1), "single bytes are missing"),
        ([*BYTES, b"a"], [1] * (len(BYTES) + 1), "twice"),
        ([*BYTES, b"x" * 17], [1] * (len(BYTES) + 1), "17 bytes"),
        (BYTES, [0] * len(BYTES), "Costs from 0"),
        (BYTES, [1] * (len(BYTES) - 1), "233 pieces with 232 costs"),
    ],
)
def test_strings_that_are_no_pieces_are_refused(strings, costs, complaint):
    """What could not encode every text, or not without doubt, is an error that says why."""
    with pytest.raises(ValueError, match=complaint):
        pieces.Pieces(strings, costs)
