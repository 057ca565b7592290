"""Training of pieces: short encodings, and words separate from their markers."""

import random

import numpy as np
import pytest

from compressed_lm.coding import folding, unigram

BYTES = list(folding.ALPHABET)


def test_learned_pieces_code_the_text_in_fewer_bits_than_its_bytes():
    """Words of a small vocabulary become whole pieces, and the cost is near the entropy."""
    drawn, vocabulary = random.Random(0), [b" alpha", b" beta", b" gamma", b" delta", b" epsilon", b" zeta"]
    words = drawn.choices(vocabulary, weights=[8, 4, 2, 2, 1, 1], k=5000)
    p = unigram.learn(unigram.count([b"".join(words)]), len(BYTES) + 6)
    assert set(vocabulary) <= set(p.strings)
    ids = p.encode(b"".join(words))
    share = np.bincount(ids, minlength=len(p))[np.unique(ids)] / len(ids)
    entropy = -(share * np.log2(share)).sum()
    assert len(ids) == 5000 and abs(p.costs[ids].mean() * unigram.COST_UNIT - entropy) < 0.05


def test_too_little_text_is_refused():
    """More pieces than the text has substrings raise an error with their number."""
    with pytest.raises(ValueError, match="400 pieces were requested, and the text has only"):
        unigram.learn(unigram.count([b"a word or two. " * 9]), 400)


def test_spaces_are_learned_and_marks_stay_apart():
    """The default of each context is its most frequent case; only markers themselves contain markers."""
    text = [b"One (two) three-four. " * 30, b'Five "six" seven. ' * 30]
    counts = unigram.count(text)
    spaced = dict(zip(range(folding.CONTEXTS), counts.spaced.tolist(), strict=True))
    assert [spaced[ord(c)] for c in ")-."] == [True, False, True]
    assert [spaced[256 + ord(c)] for c in '("'] == [False, False] and spaced[ord('"')] and not spaced[512]
    assert counts.segments[b"A one"] == 1 + 29 and not any(s.startswith(b"C") for s in counts.segments)
    p = unigram.learn(counts, len(BYTES) + 8)
    assert all(len(s) == 1 for s in p.strings if set(s) & set(b"ABC"))
    within = unigram.learn(counts, len(BYTES) + 8, marks_within=True)
    assert {b"A one", b"A five"} <= set(within.strings) and within.decode(within.encode(text[1])) == text[1]
    assert p.decode(p.encode(text[0])) == text[0]


def test_a_space_that_is_not_as_usual_is_counted_apart():
    """A word without its space is the same word after a marker."""
    counts = unigram.count([b"a word, a word, a word, a,word"])
    assert counts.segments[b" word"] == 3 and counts.segments[b"C word"] == 1
