"""How a word is written, apart from which word it is: segments in small letters, behind marks.

A word is the same string wherever it stands and however it is written: in small letters with a space before it. Marks
before that tell of a capital, of capitals only, and of a space that is missing where words usually have one, or the
other way round. What is usual is known for each byte before a word, apart for those that have white space before them,
as an opening quote has. Words here begin with one of the letters a to z. As no capitals are left, marks are written as
some of these:

    "The USA (the one)." -> A the | B usa |  ( | C the |  one | ).         where words usually have a space after "("
"""

import numba
import numpy as np

from compressed_lm.coding import segments

CAPITAL, CAPITALS, UNUSUAL = b"ABC"
"""A capital follows; a word of capitals follows; the space before the word that follows is not as usual."""

ALPHABET = tuple(bytes([b]) for b in range(256) if not UNUSUAL < b <= ord("Z"))
"""The bytes of folded text."""

MAX_BYTES = 2 * segments.MAX_BYTES + 2
"""Most bytes of a folded segment."""

CONTEXTS = 513
"""What may stand before a word: a byte; a byte after white space, or with which a text begins (256 more); nothing."""

SPACED = np.arange(CONTEXTS) < CONTEXTS - 1
"""Whether words in each context have a space before them, as far as nothing else is known."""

# What is known while text is unfolded, in this order: a capital is awaited; so are capitals; letters are made capitals;
# the next word's space is not as usual; there is a space of which it is not known yet whether it is that of a word.
_AWAITED, _ALL, _RUNNING, _UNUSUAL, _HELD = range(5)
STATE = 5
"""Length of a state of `unfold`."""


@numba.njit(cache=True, nogil=True, inline="always")
def is_letter(byte):
    """Whether a word begins with this byte."""
    return segments.KINDS[byte] <= segments.CAPITAL


@numba.njit(cache=True, nogil=True, inline="always")
def context(text, begin, i):
    """What stands before place i of a text that begins at `begin`; see `CONTEXTS`."""
    if i == begin:
        return CONTEXTS - 1
    after_white = i == begin + 1 or segments.KINDS[text[i - 2]] == segments.WHITE
    return np.int64(text[i - 1]) + 256 * after_white


@numba.njit(cache=True, nogil=True, inline="always")
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


@numba.njit(cache=True, nogil=True)
def fold(text, i, end, unusual, folded):
    """Writes a segment in small letters behind marks; returns the number of bytes.

    Args:
      text: uint8[N].
      i, end: where the segment lies, as `segments.segment_end` has it.
      unusual: whether its space is not as usual.
      folded: uint8[MAX_BYTES], written.
    """
    n, first = 0, i
    while first < end and (text[first] == segments.SPACE or text[first] == segments.APOSTROPHE):
        first += 1
    capital = first < end and segments.KINDS[text[first]] == segments.CAPITAL
    capitals = capital and first + 1 < end and segments.KINDS[text[first + 1]] == segments.CAPITAL
    cut = end - i == segments.MAX_BYTES  # the letters that follow might be small: a mark for each capital
    if unusual:
        folded[n] = UNUSUAL
        n += 1
    if capital and not (capitals and cut):
        folded[n] = CAPITALS if capitals else CAPITAL
        n += 1
    if is_letter(text[i]):
        folded[n] = segments.SPACE
        n += 1
    for j in range(i, end):
        byte = text[j]
        if segments.KINDS[byte] == segments.CAPITAL:
            if capitals and cut:
                folded[n] = CAPITAL
                n += 1
            byte += np.uint8(32)
        folded[n] = byte
        n += 1
    return n


@numba.njit(cache=True, nogil=True)
def unfold(byte, state, spaced, text, begin, filled):
    """Writes what a byte of folded text stands for; returns how far the text is filled.

    Args:
      byte: of folded text.
      state: bool[STATE], what is known from the bytes before; all False at the beginning.
      spaced: bool[513], what is usual in each context.
      text: uint8[...], written from index `filled`, at most two bytes.
      begin: where the text begins.
    """
    if byte == CAPITAL or byte == CAPITALS:
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


@numba.njit(cache=True, nogil=True, inline="always")
def is_clean(state):
    """Whether bytes that are no marks and no spaces stand for themselves, and words are as usual."""
    return not (state[_AWAITED] or state[_ALL] or state[_RUNNING] or state[_UNUSUAL] or state[_HELD])


@numba.njit(cache=True, nogil=True)
def finish(state, text, filled):
    """Writes the space that is held, if there is one, and resets the state; returns how far the text is filled."""
    if state[_HELD]:
        text[filled] = segments.SPACE
        filled += 1
    state[:] = False
    return filled
