"""Segmentation of text at words, capitals, digits and punctuation; no piece crosses a segment boundary.

A segment is one word, one digit or one run of punctuation, with the single space before it if there is one; or a run of
white space without its last space, which belongs to the next segment. A word ends before a capital, except words in
capitals. A segment never splits a UTF-8 character, and an invalid byte is a segment of its own. The rules use bytes
only, not Unicode tables, so the result is the same everywhere.

    b"In 1984, (don't!) USA, McKay" -> In | " 1" | 9 | 8 | 4 | , | " (" | don | 't | !) | " USA" | , | " Mc" | Kay
"""

import numpy as np

from compressed_lm.coding.compiled import njit
from compressed_lm.coding.machine import load, trailing_zeros

MAX_BYTES = 64
"""Largest segment: longer runs are split between characters, since parsing takes memory quadratic in the length."""

# Kinds of bytes: lower-case letter, capital, letter of another alphabet, digit, punctuation, white space, first byte of
# a multi-byte character, invalid.
SMALL, CAPITAL, LETTER, DIGIT, MARK, WHITE, LEAD, OTHER = range(8)
SPACE, APOSTROPHE = 32, 39
_AHEAD = 18  # bytes from the beginning of a word that are read together


def _kinds() -> np.ndarray:
    kinds = np.full(256, OTHER, np.uint8)
    for byte in range(128):
        letter = chr(byte)
        known = [(letter.islower(), SMALL), (letter.isupper(), CAPITAL), (letter.isdigit(), DIGIT)]
        kinds[byte] = next((kind for is_it, kind in known if is_it), WHITE if byte in b" \t\n\r\v\f" else MARK)
    kinds[0xC2:0xF5] = LEAD
    return kinds


KINDS = _kinds()


@njit(nogil=True)
def _character(data, i, end):
    """Returns kind and length of the character at i."""
    byte = data[i]
    kind = KINDS[byte]
    if kind != LEAD:
        return kind, 1
    length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
    if i + length > end:
        return np.uint8(OTHER), 1
    for j in range(i + 1, i + length):
        if data[j] & 0xC0 != 0x80:
            return np.uint8(OTHER), 1
    # Blocks of punctuation and symbols with hardly any letter: Latin-1 punctuation, general punctuation to symbols,
    # Chinese and Japanese punctuation, full-width punctuation, pictographs.
    second = data[i + 1]
    mark = byte == 0xC2 or byte == 0xE2 or (byte == 0xE3 and second == 0x80) or byte == 0xF0
    mark = mark or (byte == 0xEF and (second == 0xBC or second == 0xBD))
    return np.uint8(MARK if mark else LETTER), length


@njit(nogil=True, inline="always")
def _small_letters(word):
    """Returns the number of leading bytes of a uint64, of 8, that are lower-case letters."""
    low = word & np.uint64(0x7F7F7F7F7F7F7F7F)
    from_a = low + np.uint64(0x1F1F1F1F1F1F1F1F)  # sets the highest bit of bytes >= "a"
    beyond_z = low + np.uint64(0x0505050505050505)
    letters = from_a & ~beyond_z & ~word & np.uint64(0x8080808080808080)
    return np.int64(trailing_zeros(letters ^ np.uint64(0x8080808080808080)) >> np.uint64(3))


@njit(nogil=True)
def segment_end(data, i, end):
    """Returns the end of the segment that begins at i. It does not depend on the text before i.

    Args:
        data: uint8[N].
        i: beginning of the segment, below `end`.
        end: end of the text.
    """
    # Most segments are words in lower case, perhaps after a capital. Eight bytes at a time save a branch for each.
    start = i + (data[i] == SPACE)
    if start + _AHEAD <= len(data):
        kind = KINDS[data[start]]
        if kind == SMALL or (kind == CAPITAL and KINDS[data[start + 1]] != CAPITAL):
            address = np.uint64(data.ctypes.data + start + 1)
            n = _small_letters(load(address))
            if n == 8:
                n += _small_letters(load(address + np.uint64(8)))
            j = min(start + 1 + n, end)
            if start < end and n < 16 and (j == end or KINDS[data[j]] != LEAD):
                return j
    last = min(end, i + MAX_BYTES)
    kind, length = _character(data, i, end)
    if kind == WHITE:
        first, j = data[i], i + 1
        while j < last and data[j] == first:
            j += 1
        if first != SPACE or j == end or KINDS[data[j]] == WHITE:
            return j
        if j > i + 1:
            return j - 1
        kind, length = _character(data, j, end)
        if kind == OTHER:
            return j
        i = j
    j = i + length
    if kind == DIGIT or kind == OTHER:
        return j
    if kind == MARK and data[i] == APOSTROPHE and j < last and KINDS[data[j]] <= CAPITAL:
        kind = KINDS[data[j]]
        i, j = j, j + 1
    if kind == MARK:
        while j < last:
            kind, length = _character(data, j, end)
            word = data[j] == APOSTROPHE and j + 1 < end and KINDS[data[j + 1]] <= CAPITAL
            if kind != MARK or word or j + length > last:
                return j
            j += length
        return j
    if kind == CAPITAL and j < last and KINDS[data[j]] == CAPITAL:
        while j < last and KINDS[data[j]] == CAPITAL:
            j += 1
        return j - 1 if j < end and KINDS[data[j]] == SMALL and j < last else j
    while j < last:
        kind, length = _character(data, j, end)
        if (kind != SMALL and kind != LETTER) or j + length > last:
            return j
        j += length
    return j


@njit(nogil=True)
def ends(data):
    """Returns the ends of the segments of a text uint8[N], int64[S]."""
    found, i, n = np.empty(len(data), np.int64), 0, 0
    while i < len(data):
        i = segment_end(data, i, len(data))
        found[n] = i
        n += 1
    return found[:n].copy()


def split(text: bytes) -> list[bytes]:
    """Returns the segments of a text; their concatenation is the text."""
    bounds = [0, *ends(np.frombuffer(text, np.uint8)).tolist()]
    return [text[begin:end] for begin, end in zip(bounds, bounds[1:], strict=False)]
