"""Segmentation and parsing into the pieces of lowest cost, lossless for any bytes."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressed_lm import codecs
from compressed_lm.coding import folding, literal, parsing, pieces

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
    """Returns pieces of up to two letters a and b, a word, and their costs."""
    strings = [*BYTES, b"ab", b"aa", b"ba", b" the", b" word", b"words", b"s,", b"A the"]
    return pieces.Pieces(strings, [900] * len(BYTES) + [1000, 1700, 1600, 1500, 2000, 1900, 10, 1550], spaced)


SPACED = np.array([i % 256 in b"ab," or i in tuple(b"1.\n") for i in range(folding.CONTEXTS)])
PIECES = some_pieces(SPACED)


@settings(max_examples=300, deadline=None)
@given(st.lists(texts, max_size=5), st.binary(max_size=300))
def test_any_text_comes_back(documents, noise):
    """Any text round-trips, with a filled cache, alone and in a batch."""
    documents = [*documents, noise]
    ids = PIECES.encode_batch(documents)
    assert PIECES.decode_batch(ids) == documents
    assert [PIECES.encode(d).tolist() for d in documents] == [i.tolist() for i in ids]
    assert [some_pieces(SPACED).encode(d).tolist() for d in documents[:2]] == [
        i.tolist() for i in ids[:2]
    ]  # no memory yet


def test_what_is_remembered_of_a_word_is_not_taken_for_another():
    """Words that differ in one byte, at any position and of any cached length, are not confused."""
    letters = b"abcdefghijklmnopqrst"
    pairs = [bytes(pair) for pair in itertools.product(letters + b"z", repeat=2)]
    p = pieces.Pieces([*BYTES, *pairs, b" abcdefg"], [1000] * (len(BYTES) + len(pairs) + 1))
    words = [letters[:k] + b"z" + letters[k + 1 : n] for n in range(1, 21) for k in range(n)]
    text = b" ".join([*words, *words, *reversed(words)])
    assert p.decode(p.encode(text)) == text


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, len(PIECES) - 1), max_size=50))
def test_any_numbers_decode(numbers):
    """Any sequence of numbers decodes, and the text of an unfinished one is a prefix of every continuation."""
    text = PIECES.decode(numbers)
    for n in range(len(numbers)):
        assert text.startswith(PIECES.decode(numbers[:n], unfinished=True))


def test_parse_is_the_cheapest():
    """No other pieces of a word have a lower cost (all short words of two letters)."""
    p = some_pieces()
    cost = dict(zip(p.strings, p.costs.tolist(), strict=True))

    def least(word):
        ways = [cost[word[:n]] + least(word[n:]) for n in range(1, len(word) + 1) if word[:n] in cost]
        return min(ways, default=0)

    for length in range(1, 9):
        for letters in itertools.product(b"ab", repeat=length):
            word = bytes(letters)
            assert sum(p.costs[p.encode(b"1 " + word)[1:]].tolist()) == least(b" " + word)


@settings(max_examples=300, deadline=None)
@given(st.text("ab", min_size=1, max_size=12), st.lists(st.integers(1, 3), min_size=14, max_size=14), st.integers(0, 2))
def test_of_equal_parses_the_last_piece_begins_first(word, costs, n):
    """The parse has the lowest cost; of equal ones, that whose last piece begins first, and so on backwards."""
    strings = [word for length in (1, 2, 3) for word in map("".join, itertools.product("ab", repeat=length))]
    cells, number = pieces.trie([s.encode() for s in strings])
    cost = dict(zip(strings, costs, strict=True))
    parses = {0: (0, [])}
    for end in range(1, len(word) + 1):
        ways = [(begin, word[begin:end]) for begin in range(max(0, end - 3), end)]
        begin, last = min(ways, key=lambda way: (parses[way[0]][0] + cost[way[1]], way[0]))
        parses[end] = parses[begin][0] + cost[last], [*parses[begin][1], last]
    numbers, text = np.full(20, -1, np.int32), np.frombuffer(b"xx" + word.encode(), np.uint8)
    space = np.empty(len(word) + 1, np.int64), np.empty((len(word) + 1, 2), np.int32)
    table = parsing.steps(cells, number, np.array(costs))
    end = parsing.least_cost(text, 2, len(text), table, number, *space, numbers, n)
    assert [strings[i] for i in numbers[n:end]] == parses[len(word)][1]
    assert (numbers[:n] == -1).all() and (numbers[end:] == -1).all()


def test_marks_tell_how_a_word_is_written():
    """A word is the same piece in lower case, with a capital, in capitals, and with or without a space."""
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
    """Lower-case letters after a word in capitals that is longer than a segment stay in lower case."""
    for n in range(120):
        for text in (b"A" * n + b"b", b" " + b"A" * n + b"bc A", b"'" + b"A" * n + b"\xffb"):
            assert PIECES.decode(PIECES.encode(text)) == text


WORST = {
    "one capital": b"A",
    "mixed case": b"aA",
    "one a line": b"A\nC\nG\nT\n",
    "letters and digits": b"a1B2",
    "capitals, other letters": "éAÀb".encode(),
    "base64": b"q1ZZUr9nK+xTB/aQe0Lk",
    "hex": b"0F9aE1C4",
    "control characters": b"\x01A\x02b",
    "initials": b"J. R. R. T.",
    "invalid": b"a\xffB\xc1",
}


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("kind", WORST)
def test_no_text_is_longer_than_its_bytes(kind, within):
    """Even with pieces of single bytes, any text takes at most 1.05 pieces per byte.

    This holds with words and markers apart and within.
    """
    marked = [b"A " + bytes([b]) for b in range(97, 123)] if within else []
    p = pieces.Pieces([*BYTES, *marked], [900] * (len(BYTES) + len(marked)))
    for n in (64, 1000, 100_000):
        text = (WORST[kind] * (n // len(WORST[kind]) + 1))[:n]
        ids = p.encode(text)
        assert p.decode(ids) == text and len(ids) <= 1.05 * n + 20


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(texts, st.binary(max_size=200), st.text(max_size=50).map(str.encode)), max_size=30))
def test_any_bytes_are_at_most_so_many_pieces(parts):
    """Any n bytes are at most 1.05 n + 20 pieces, and round-trip."""
    text = b"".join(parts)
    ids = PIECES.encode(text)
    assert PIECES.decode(ids) == text and len(ids) <= 1.05 * len(text) + 20


def test_the_length_of_a_line_of_capitals_does_not_matter():
    """DNA has at least 1.5 bytes per piece for every line length.

    This holds for the shipped vocabulary and for single bytes. Capitals, hexadecimal digits and mixed case have at
    least one byte per piece.
    """
    p, drawn = codecs.load("pieces16-en").pieces, random.Random(0)
    single = pieces.Pieces(BYTES, [900] * len(BYTES))
    for width in (1, 2, 3, 4, 5, 8, 31, 59, 60, 61, 63, 64, 65, 70, 80, 127, 128, 129, 1000, 20_000):
        dna = "".join(drawn.choices("ACGT", k=20_000))
        text = "\n".join(dna[i : i + width] for i in range(0, len(dna), width)).encode()
        assert len(text) >= 1.5 * max(len(p.encode(text)), len(single.encode(text))), width
    for letters in (
        "ACDEFGHIKLMNPQRSTVWY",
        "0123456789ABCDEF",
        "aA",
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
    ):
        text = "".join(drawn.choices(letters, k=20_000)).encode()
        assert len(p.encode(text)) <= 1.05 * len(text), letters


def test_capitals_of_any_length_cost_what_one_less_does():
    """One more capital takes about one more piece: 64 capitals do not get a marker each."""
    p = codecs.load("pieces16-en").pieces
    lengths = [len(p.encode(b"A" * n)) for n in range(1, 300)]
    assert max(abs(b - a) for a, b in zip(lengths, lengths[1:], strict=False)) <= 5 and max(lengths) <= 170


def test_vocabularies_of_version_1_keep_their_ids():
    """Version 1 has no literal spans and a marker for each of 64 capitals; both versions decode its texts."""
    old = pieces.Pieces(PIECES.strings, PIECES.costs, SPACED, rules=1)
    for text in (b"aA" * 100, b"A" * 64 + b"b", b" " + b"A" * 200):
        ids = old.encode(text)
        assert old.decode(ids) == PIECES.decode(ids) == text and len(ids) > len(PIECES.encode(text))
    assert [old.strings[i] for i in old.encode(b"A" * 64 + b"b")].count(b"A") == 64
    with pytest.raises(ValueError, match="Rules of version 3"):
        pieces.Pieces(PIECES.strings, PIECES.costs, rules=3)


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
    """Pieces that cannot encode every text, or not uniquely, raise an error with the reason."""
    with pytest.raises(ValueError, match=complaint):
        pieces.Pieces(strings, costs)


def test_digits_in_long_pieces_have_room():
    """Packed spans whose digits are in pieces of 16 bytes, which no text gives, decode as with single digits.

    57 digits give 448 bytes of text, more than the bytes of the pieces.
    """
    long = b"\x20\x9f" * 8
    p = pieces.Pieces([*BYTES, long], [900] * (len(BYTES) + 1))
    block = [literal._DIGITS_OF[113], *long * 3, *long[:9]]  # 57 digits, and another block follows
    begin = [*b"AB", literal._DIGITS_OF[1], *long[:3]]  # two letters, and which
    number = {s: i for i, s in enumerate(p.strings)}
    single = lambda part: [number[bytes([b])] for b in part]  # noqa: E731
    short = single(begin) + single(block) * 3000
    packed = single(begin) + [*single(block[:1]), *[number[long]] * 3, *single(block[-9:])] * 3000
    text = p.decode(packed)
    assert text == p.decode(short) and len(text) == 448 * 3000 > 17 * len(packed)
