"""Folding: text in lower case with case and space markers.

A folded word is always the same string: in lower case with a space before it. Markers before it encode a capital first
letter, a word in capitals, and a space that differs from the default (missing or present). The default is known for
each byte before a word, separately for bytes that follow white space, such as an opening quote. Words begin with a
letter a to z. Capital letters are free after folding, so the markers are written as A, B and C:

    "The USA (the one)." -> A the | B usa |  ( | C the |  one | ).         if the default is a space after "("

If the folded text is longer than the original, `coding.literal` has other encodings.
"""

import numpy as np

from compressed_lm.coding import literal, segments
from compressed_lm.coding.compiled import njit
from compressed_lm.coding.machine import load_byte, store_byte

CAPITAL, CAPITALS, UNUSUAL = b"ABC"
"""Markers: capital first letter; word in capitals; space before the next word differs from the default."""

ALPHABET = literal.ALPHABET
"""Bytes of folded text."""

MAX_BYTES = 2 * segments.MAX_BYTES + 2
"""Largest length of a folded segment in bytes."""

CONTEXTS = 513
"""Number of contexts of a word: the byte before it (256); the same after white space or at the start (256); nothing."""

SPACED = np.arange(CONTEXTS) < CONTEXTS - 1
"""Default of each context before training: whether a word has a space before it."""

# State of `unfold`, after the part of `coding.literal`: the next letter is a capital; the next word is in capitals; the
# current word is in capitals; the next word's space differs from the default; a space was read and is not written yet,
# since it may belong to a word.
_AWAITED, _ALL, _RUNNING, _UNUSUAL, _HELD = range(literal.STATE, literal.STATE + 5)
STATE = literal.STATE + 5
"""Length of the state of `unfold`."""


@njit(nogil=True, inline="always")
def is_letter(byte):
    """Returns whether a word begins with this byte."""
    return segments.KINDS[byte] <= segments.CAPITAL


@njit(nogil=True, inline="always")
def context(text, begin, i):
    """Returns the context of position i in a text that begins at `begin`; see `CONTEXTS`."""
    if i == begin:
        return CONTEXTS - 1
    after_white = i == begin + 1 or segments.KINDS[text[i - 2]] == segments.WHITE
    return np.int64(text[i - 1]) + 256 * after_white


@njit(nogil=True, inline="always")
def is_unusual(text, begin, i, end, spaced):
    """Returns whether the segment from i to `end` is a word whose space differs from the default.

    Args:
        text: uint8[N].
        begin: beginning of the text.
        i, end: bounds of the segment.
        spaced: bool[513], default of each context.
    """
    # "&" instead of "and": a branch would be unpredictable.
    space = (text[i] == segments.SPACE) & (end > i + 1)
    return is_letter(text[i + space]) & (space != spaced[context(text, begin, i)])


@njit(nogil=True)
def fold(text, i, end, unusual, letter_by_letter, folded):
    """Writes the markers and the lower-case text of a segment; returns the number of bytes.

    Args:
        text: uint8[N].
        i, end: bounds of the segment, from `segments.segment_end`.
        unusual: whether its space differs from the default.
        letter_by_letter: whether each capital of a segment of maximum length has its own marker, as in version 1.
        folded: uint8[MAX_BYTES], written.
    """
    address, to = np.uint64(text.ctypes.data + i), np.uint64(folded.ctypes.data)
    return fold_at(address, end - i, unusual, letter_by_letter, to)


@njit(nogil=True)
def fold_at(text, length, unusual, letter_by_letter, folded):
    """Does the same as `fold`, with the address of the segment, its length, and the address of `folded`."""
    first = 0
    while first < length and (_byte(text, first) == segments.SPACE or _byte(text, first) == segments.APOSTROPHE):
        first += 1
    capital = first < length and _kind(text, first) == segments.CAPITAL
    capitals = capital and first + 1 < length and _kind(text, first + 1) == segments.CAPITAL
    each = letter_by_letter and capitals and length == segments.MAX_BYTES
    to = folded
    if unusual:
        to = _append(to, UNUSUAL)
    if capital and not each:
        to = _append(to, CAPITALS if capitals else CAPITAL)
    if _kind(text, 0) <= segments.CAPITAL:
        to = _append(to, segments.SPACE)
    for j in range(length):
        byte, is_capital = _byte(text, j), _kind(text, j) == segments.CAPITAL
        if each and is_capital:
            to = _append(to, CAPITAL)
        to = _append(to, byte | np.uint64(is_capital) << np.uint64(5))
    return np.int64(to - folded)


@njit(nogil=True, inline="always")
def _byte(text, i):
    return load_byte(text + np.uint64(i))


@njit(nogil=True, inline="always")
def _kind(text, i):
    return segments.KINDS[load_byte(text + np.uint64(i))]


@njit(nogil=True, inline="always")
def _append(to, byte):
    store_byte(to, np.uint64(byte))
    return to + np.uint64(1)


@njit(nogil=True)
def finish(state, text, filled):
    """Writes the pending space, if there is one, and resets the state; returns the length of the text."""
    if state[_HELD]:
        text[filled] = segments.SPACE
        filled += 1
    state[:] = 0
    return filled


@njit(nogil=True)
def _begin_literal(second, state, text, filled):
    """Begins a literal span after two adjacent markers, which folding never writes; returns the length of the text."""
    mode = literal.PACKED if second == CAPITALS else literal.AS_IT_IS
    mode = literal.SWAPPED if state[_ALL] else mode
    filled = finish(state, text, filled)
    literal.begin(state, mode)
    return filled


@njit(nogil=True, inline="always")
def unfold(byte, state, spaced, text, begin, filled):
    """Writes the text of one byte of folded text; returns the new length of the text.

    Args:
        byte: byte of folded text.
        state: int64[STATE], from the bytes before; all 0 at the beginning.
        spaced: bool[513], default of each context.
        text: uint8[...], written from index `filled`: at most two bytes, or 8 for each byte of a packed block.
        begin: beginning of the text.
        filled: length of the text.
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
    """Returns whether no marker, space or literal span is pending: other bytes then represent themselves."""
    known = state[_AWAITED] | state[_ALL] | state[_RUNNING] | state[_UNUSUAL] | state[_HELD] | state[literal.MODE]
    return known == 0
