"""Folding gives the same string for all forms of a word, and is lossless."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressed_lm.coding import folding, segments


def folded(text, spaced=folding.SPACED, *, letter_by_letter=False):
    """Returns the folded segments of a text."""
    data, begin, buffer, found = np.frombuffer(text, np.uint8), 0, np.empty(folding.MAX_BYTES, np.uint8), []
    for segment in segments.split(text):
        end = begin + len(segment)
        unusual = folding.is_unusual(data, 0, begin, end, spaced)
        found.append(buffer[: folding.fold(data, begin, end, unusual, letter_by_letter, buffer)].tobytes())
        begin = end
    return found


def unfolded(data, spaced=folding.SPACED):
    """Returns the text of joined folded segments."""
    text, state, filled = np.empty(2 * len(data) + 1, np.uint8), np.zeros(folding.STATE, np.int64), 0
    for byte in data:
        filled = folding.unfold(np.uint8(byte), state, spaced, text, 0, filled)
    return text[: folding.finish(state, text, filled)].tobytes()


@pytest.mark.parametrize(
    "text, expected",
    [
        (b"The the THE", [b"A the", b" the", b"B the"]),
        (b"I'm A. McKay (no)", [b"A i", b"'m", b"A a", b".", b"A mc", b"CA kay", b" (", b"C no", b")"]),
        (b"DON'T 'Tis", [b"B don", b"A't", b"A 'tis"]),
        (b" a", [b"C a"]),
        ("Élan élan".encode(), ["Élan".encode(), " élan".encode()]),
        (b"A" * 64 + b"b", [b"B " + b"a" * 64, b"C b"]),
    ],
)
def test_words_are_written_small_behind_marks(text, expected):
    """Capitals and unusual spaces become markers, for runs of any length; other alphabets are unchanged."""
    assert folded(text) == expected
    assert unfolded(b"".join(expected)) == text


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="aAbB '1,.\n\u00e9\u201c", max_size=80), st.binary(max_size=80), st.integers(0, 99))
def test_every_text_comes_back(text, noise, seed):
    """Unfolding undoes folding for any defaults."""
    spaced = np.random.default_rng(seed).random(folding.CONTEXTS) < 0.5
    for data in (text.encode(), noise):
        assert unfolded(b"".join(folded(data, spaced)), spaced) == data


def test_marks_of_version_1_are_still_read():
    """Texts of version 1, in which a run of 64 capitals has a marker for each, can still be unfolded."""
    for text in (b"A" * 64 + b"b", b" " + b"A" * 70 + b" b", b"A" * 64 + "é".encode() + b"c"):
        old = b"".join(folded(text, letter_by_letter=True))
        assert b"AaAaAa" in old and unfolded(old) == text
