"""How a word is written, apart from which word it is: segments in small letters, behind marks.

A word is the same string wherever it stands and however it is written: in small letters with a space before it. Marks
before that tell of a capital, of capitals only, and of a space that is missing where words usually have one, or the
other way round. What is usual is known for each byte before a word, apart for those that have white space before them,
as an opening quote has. Words here begin with one of the letters a to z. As no capitals are left, marks are written as
some of these:

    "The USA (the one)." -> A the | B usa |  ( | C the |  one | ).         where words usually have a space after "("

Where that is long for the text that it stands for, `coding.literal` has other ways to write it.
"""

import numpy as np

from compressed_lm.coding import literal, segments
from compressed_lm.coding.compiled import njit

CAPITAL, CAPITALS, UNUSUAL = b"ABC"
"""A capital follows; a word of capitals follows; the space before the word that follows is not as usual."""

ALPHABET = literal.ALPHABET
"""The bytes of folded text."""

MAX_BYTES = 2 * segments.MAX_BYTES + 2
"""Most bytes of a folded segment."""

CONTEXTS = 513
"""What may stand before a word: a byte; a byte after white space, or with which a text begins (256 more); nothing."""

SPACED = np.arange(CONTEXTS) < CONTEXTS - 1
"""Whether words in each context have a space before them, as far as nothing else is known."""

# What is known while text is unfolded, in this order: a capital is awaited; so are capitals; letters are made capitals;
# the next word's space is not as usual; there is a space of which it is not known yet whether it is that of a word.
# Before them stands what `coding.literal` knows of a span.
_AWAITED, _ALL, _RUNNING, _UNUSUAL, _HELD = range(literal.STATE, literal.STATE + 5)
STATE = literal.STATE + 5
"""Length of a state of `unfold`."""


@njit(nogil=True, inline="always")
def is_letter(byte):
    """Whether a word begins with this byte."""
    return segments.KINDS[byte] <= segments.CAPITAL


@njit(nogil=True, inline="always")
def context(text, begin, i):
    """What stands before place i of a text that begins at `begin`; see `CONTEXTS`."""
    if i == begin:
        return CONTEXTS - 1
    after_white = i == begin + 1 or segments.KINDS[text[i - 2]] == segments.WHITE
    return np.int64(text[i - 1]) + 256 * after_white


@njit(nogil=True, inline="always")
def is_unusual(text, begin, i, end, spaced):
    """Whether the segment from i to `end` is a word whose space is not as usual.

    Args:
        text: uint8[N].
        begin: where the text begins.
        i, end: where the segment lies.
        spaced: bool[513], what is usual in each context.
    """
    # "&" as no branch can be foreseen here.
    space = (text[i] == segments.SPACE) & (end > i + 1)
    return is_letter(text[i + space]) & (space != spaced[context(text, begin, i)])


@njit(nogil=True)
def fold(text, i, end, unusual, letter_by_letter, folded):
    """Writes a segment in small letters behind marks; returns the number of bytes.

    Args:
        text: uint8[N].
        i, end: where the segment lies, as `segments.segment_end` has it.
        unusual: whether its space is not as usual.
        letter_by_letter: whether each capital has a mark where the longest segment is one of capitals, by the rules of
            version 1.
        folded: uint8[MAX_BYTES], written.
    """
    n, first = 0, i
    while first < end and (text[first] == segments.SPACE or text[first] == segments.APOSTROPHE):
        first += 1
    capital = first < end and segments.KINDS[text[first]] == segments.CAPITAL
    capitals = capital and first + 1 < end and segments.KINDS[text[first + 1]] == segments.CAPITAL
    each = letter_by_letter and capitals and end - i == segments.MAX_BYTES
    if unusual:
        folded[n] = UNUSUAL
        n += 1
    if capital and not each:
        folded[n] = CAPITALS if capitals else CAPITAL
        n += 1
    if is_letter(text[i]):
        folded[n] = segments.SPACE
        n += 1
    for j in range(i, end):
        byte = text[j]
        if segments.KINDS[byte] == segments.CAPITAL:
            if each:
                folded[n] = CAPITAL
                n += 1
            byte += np.uint8(32)
        folded[n] = byte
        n += 1
    return n


@njit(nogil=True)
def finish(state, text, filled):
    """Writes the space that is held, if there is one, and resets the state; returns how far the text is filled."""
    if state[_HELD]:
        text[filled] = segments.SPACE
        filled += 1
    state[:] = 0
    return filled


@njit(nogil=True)
def _begin_literal(second, state, text, filled):
    """Begins a span behind two marks: none has stood beside another since a word follows each."""
    mode = literal.PACKED if second == CAPITALS else literal.AS_IT_IS
    mode = literal.SWAPPED if state[_ALL] else mode
    filled = finish(state, text, filled)
    literal.begin(state, mode)
    return filled


@njit(nogil=True, inline="always")
def unfold(byte, state, spaced, text, begin, filled):
    """Writes what a byte of folded text stands for; returns how far the text is filled.

    Args:
        byte: of folded text.
        state: int64[STATE], what is known from the bytes before; all 0 at the beginning.
        spaced: bool[513], what is usual in each context.
        text: uint8[...], written from index `filled`: at most two bytes, or 8 for each
            byte of a packed block.
        begin: where the text begins.
    """
    if state[literal.MODE]:
        return literal.unspell(byte, state, text, filled)
    if byte == CAPITAL or byte == CAPITALS:
        if state[_AWAITED] and (byte == CAPITALS or not state[_ALL]):
            return _begin_literal(byte, state, text, filled)
        state[_AWAITED], state[_ALL], state[_RUNNING] = True, byte == CAPITALS, False
        return filled
    if byte == UNUSUAL:
        state[_UNUSUAL] = True
        return filled
    if state[_HELD]:
        state[_HELD] = False
        word = is_letter(byte)
        if not word or spaced[context(text, begin, filled)] != state[_UNUSUAL]:
            text[filled] = segments.SPACE
            filled += 1
        if word:
            state[_UNUSUAL] = False
    if byte == segments.SPACE:
        state[_HELD] = True
        if state[_RUNNING]:
            state[_RUNNING] = state[_ALL] = False
        return filled
    if state[_RUNNING] or (state[_AWAITED] and byte != segments.APOSTROPHE):
        small = segments.KINDS[byte] == segments.SMALL
        if small:
            byte -= np.uint8(32)
        state[_RUNNING] = small and state[_ALL]
        state[_AWAITED], state[_ALL] = False, state[_RUNNING]
    text[filled] = byte
    return filled + 1


@njit(nogil=True, inline="always")
def is_clean(state):
    """Whether bytes that are no marks and no spaces stand for themselves, and words are as usual."""
    known = state[_AWAITED] | state[_ALL] | state[_RUNNING] | state[_UNUSUAL] | state[_HELD] | state[literal.MODE]
    return known == 0
