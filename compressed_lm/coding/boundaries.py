"""Boundaries of segments, 64 bytes of text at a time.

`segments.segment_end` goes from byte to byte, and each branch on a byte of text is mispredicted often: that took half
of the time of an encoder. Its rules look at two bytes before a boundary and at one character after it, so here they are
operations on sets of positions: a uint64 has bit j set if byte j of a window has a property. A window begins where a
segment begins, and gives all boundaries up to its 60th byte. Where it gives none (a long segment, invalid UTF-8),
`segment_end` finds the next one.
"""

import numpy as np

from compressed_lm.coding.compiled import njit
from compressed_lm.coding.machine import bytes_between, bytes_repeated, count_ones, trailing_zeros
from compressed_lm.coding.segments import segment_end

PADDING = 65
"""Readable bytes after a text."""

SPARE = 96
"""Elements after the requested boundaries that `find` may overwrite."""

_ONE, _TWO, _THREE = np.uint64(1), np.uint64(2), np.uint64(3)
_ALL = ~np.uint64(0)
_MOST = 60  # last position of a window at which a boundary depends on no later byte
_AT_ONCE = 16  # boundaries written without a branch; 64 bytes of English have 13


@njit(nogil=True, inline="always")
def _is(address, byte):
    return bytes_between(address, np.uint8(byte), np.uint8(byte))


@njit(nogil=True)
def _other_letters(address, high, inside):
    """Returns the properties of the bytes of characters beyond ASCII.

    Args:
        address: of the window.
        high: bytes of at least 128 in it.
        inside: bytes of the window that are in the text.

    Returns:
        letters, marks: all bytes of these characters; rest: the bytes that do not begin a character; end: the position
            from which boundaries are unknown because of an invalid byte, 64 if there is none.
    """
    pairs = bytes_between(address, np.uint8(0xC2), np.uint8(0xDF))
    triples = bytes_between(address, np.uint8(0xE0), np.uint8(0xEF))
    fours = bytes_between(address, np.uint8(0xF0), np.uint8(0xF4))
    rest = bytes_between(address, np.uint8(0x80), np.uint8(0xBF)) & inside
    longer = triples | fours
    leads = (pairs | longer) & inside
    expected = leads << _ONE | (longer & inside) << _TWO | (fours & inside) << _THREE
    wrong = (expected ^ rest) | (high & ~(leads | rest))
    marks = _is(address, 0xC2) | _is(address, 0xE2) | _is(address, 0xF0)
    marks |= _is(address, 0xE3) & _is(address, 0x80) >> _ONE
    marks |= _is(address, 0xEF) & bytes_between(address, np.uint8(0xBC), np.uint8(0xBD)) >> _ONE
    marks &= leads
    letters = leads & ~marks
    for _ in range(3):
        marks |= marks << _ONE & rest
        letters |= letters << _ONE & rest
    return letters, marks, rest, np.int64(trailing_zeros(wrong))


@njit(nogil=True, inline="always")
def _window(address, length):
    """Returns the boundaries of a window that begins where a segment begins.

    Args:
        address: of its 64 bytes.
        length: bytes of the text from there, at least 1.

    Returns:
        Positions 1 to 60 at which a segment ends, uint64. All are right, and none is missing below the last.
    """
    inside = _ALL if length >= 64 else (_ONE << np.uint64(length)) - _ONE
    small = bytes_between(address, np.uint8(ord("a")), np.uint8(ord("z"))) & inside
    capital = bytes_between(address, np.uint8(ord("A")), np.uint8(ord("Z"))) & inside
    digit = bytes_between(address, np.uint8(ord("0")), np.uint8(ord("9")))
    space = _is(address, ord(" ")) & inside
    white = (bytes_between(address, np.uint8(9), np.uint8(13)) & inside) | space
    high = bytes_between(address, np.uint8(128), np.uint8(255)) & inside
    apostrophe = _is(address, ord("'")) & inside
    letter = small | capital
    mark = inside & ~(letter | digit | white | high)
    known = _MOST
    glued, foreign = np.uint64(0), np.uint64(0)
    if high:
        foreign, marks, glued, wrong = _other_letters(address, high, inside)
        mark |= marks
        known = min(known, wrong - 4)
        if known < 1:
            return np.uint64(0)
    # A space and what follows; equal white space, but for the last space before anything else.
    glued |= space << _ONE & inside & ~white
    glued |= space & space << _ONE & (white | ~inside) >> _ONE
    glued |= white & ~space & bytes_repeated(address) << _ONE
    # Punctuation, up to an apostrophe before a letter, which begins a segment.
    glued |= mark & mark << _ONE & ~(apostrophe & letter >> _ONE)
    glued |= letter & apostrophe << _ONE
    # Words; capitals, up to the last one before a small letter; other letters after one capital, but not after two.
    lower = small | foreign
    glued |= (small & (lower | capital) << _ONE) | (foreign & lower << _ONE)
    glued |= foreign & capital << _ONE & ~(capital << _TWO)
    glued |= capital & capital << _ONE & ~(small >> _ONE)
    return ~glued & ((_TWO << np.uint64(min(known, length))) - _TWO)


@njit(nogil=True)
def find(data, i, limit, stop, most, begins):
    """Writes the beginnings of the next segments of a text, and the end of the last.

    Args:
        data: uint8[N + 65].
        i, limit, stop: position to start from, end of the segments' beginnings, end of the text.
        most: largest number of segments.
        begins: int64[most + 97], written.

    Returns:
        The number of segments.
    """
    start, n = np.uint64(data.ctypes.data), np.int64(0)
    begins[0] = i
    while n < most and i < limit:
        found = _window(start + np.uint64(i), stop - i)
        if found:
            count = np.int64(count_ones(found))
            for k in range(_AT_ONCE):
                begins[np.uint64(n + 1 + k)] = i + np.int64(trailing_zeros(found))
                found &= found - _ONE
            for k in range(_AT_ONCE, count):
                begins[np.uint64(n + 1 + k)] = i + np.int64(trailing_zeros(found))
                found &= found - _ONE
            n += count
            i = begins[np.uint64(n)]
        else:
            i, n = segment_end(data, i, stop), n + 1
            begins[np.uint64(n)] = i
    n = min(n, most)
    while n and begins[n - 1] >= limit:
        n -= 1
    return n
