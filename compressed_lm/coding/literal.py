"""Literal spans: text that is not folded because folding would make it longer.

Folding is made for words. Text such as aAaA, codes or tables of letters would need several markers per letter, so spans
of it are encoded in one of three ways, each after two adjacent markers, which folding never writes:

    AA  as it is: lower-case letters represent themselves, a control character represents each capital
    BB  swapped: capitals are written in lower case, and a control character represents each lower-case letter
    AB  packed: bytes are digits of a number, whose base is the number of distinct bytes; it is written in base 233

In the first two, A ends the span, B switches to the other one, and C precedes a control character that represents
itself.

A packed span is a sequence of digits from 0 to 232, each written as one byte. The first digit is 0 for all 256 bytes,
or the number of distinct bytes (2 to 32) minus one; then these bytes follow. Then come blocks, each a number of up to
57 digits: one digit for its length and whether another block follows; in the last block, one digit for how many bytes
it has fewer than would fit; and the number, least significant byte first. DNA takes 0.3 digits per byte, random bytes
1.036.
"""

import numpy as np

from compressed_lm.coding import segments
from compressed_lm.coding.compiled import njit
from compressed_lm.coding.machine import multiply_high

ALPHABET = tuple(bytes([b]) for b in range(256) if not ord("C") < b <= ord("Z"))
"""Bytes of folded text: all except the capitals, but with A, B and C, which are the markers."""

FOLDED, AS_IT_IS, SWAPPED, PACKED = range(4)
"""Encodings of a segment."""

MARKS = np.frombuffer(b"\0\0AABBAB", np.uint8).reshape(4, 2)
"""The two markers before a span of each encoding."""

END, CHANGE, ITSELF = b"ABC"
"""Meaning of the markers inside a span that is not packed."""

MAX_ALPHABET = 32
"""Largest alphabet of a packed span that is listed. A larger one would save little, and would pack the letters of other
scripts, which a model reads better one by one."""

BIAS = 12
"""Tokens that a span must save in addition to its markers, so that all English, initials included, is folded."""

UNIT = 1000
"""Cost units per token, so that the cost of a packed byte is nearly an integer."""

STATE = 8 + 57 + MAX_ALPHABET
"""Length of the first part of a state, which `unspell` uses."""

# State of a span: its encoding; whether the next byte represents itself; for a packed span the kind of the next digit
# and the number of distinct bytes; for a block its number of digits, the digits still to come, its number of bytes and
# whether another block follows; then its digits, the last one first, and the distinct bytes.
MODE, _ITSELF, _NEXT, _BASE, _LENGTH_OF, _DIGITS, _BYTES, _MORE, _STORE = range(9)
_MOST_DIGITS = 57
_ALPHABET = _STORE + _MOST_DIGITS
_OF_ALPHABET, _OF_BLOCK, _LENGTH, _MISSING, _FIRST = range(5)  # kinds of the next digit

_CONTROL = [b for b in range(1, 32) if not segments.KINDS[b] == segments.WHITE]  # 26 of them
_DIGITS_OF = np.frombuffer(b"".join(ALPHABET), np.uint8)
_VALUES = np.searchsorted(_DIGITS_OF, np.arange(256)).astype(np.uint8) % len(ALPHABET)
_RADIX = len(ALPHABET)
_N_LIMBS = 14  # of 32 bits, of the number of a block


def _fitting() -> np.ndarray:
    """Returns how many digits of each base 0..256 fit in a number of 0..57 digits in base 233, int64[257, 58].

    The number also fits in 14 limbs. 1e-9 is added so that equal powers (base 233) fit; all others differ by more.
    """
    bits = np.minimum(np.arange(_MOST_DIGITS + 1) * np.log2(_RADIX), 32 * _N_LIMBS)
    return np.floor(bits / np.log2(np.maximum(np.arange(257), 2))[:, None] + 1e-9).astype(np.int64)


FITTING = _fitting()
_AT_ONCE = np.floor(28 / np.log2(np.maximum(np.arange(257), 2)) + 1e-9).astype(np.int64)  # digits in 28 bits

# Tokens to switch between encodings. The overhead of a packed span is its markers, its first digit, the two length
# digits of its last block and the rounding up of that block.
_PASS = np.array([[0, 2 + BIAS, 2 + BIAS, 6 + BIAS], [1, 0, 1, 7], [1, 1, 0, 7], [0, 2, 2, 0]], np.int64) * UNIT


def _spellings() -> np.ndarray:
    """Returns the code of each byte in the encodings as it is and swapped, uint8[2, 256]."""
    found = np.tile(np.arange(256, dtype=np.uint8), (2, 1))
    for control, small in zip(_CONTROL, range(ord("a"), ord("z") + 1), strict=True):
        found[0, small - 32] = found[1, small] = control
        found[1, small - 32] = small
    return found


def _readings() -> np.ndarray:
    """Returns the byte of each code in the encodings as it is and swapped, uint8[2, 256]."""
    found = np.tile(np.arange(256, dtype=np.uint8), (2, 1))
    for swapped in range(2):
        for byte in (*range(ord("A"), ord("Z") + 1), *range(ord("a"), ord("z") + 1)):
            found[swapped, _SPELLINGS[swapped, byte]] = byte
    return found


_SPELLINGS = _spellings()
_READINGS = _readings()
IS_CONTROL = np.isin(np.arange(256), _CONTROL)
"""Whether each byte represents a letter in spans that are not packed."""


@njit(nogil=True)
def spell(text, i, end, mode, spelled):
    """Writes a segment as it is or swapped; returns the number of bytes.

    Args:
        text: uint8[N].
        i, end: bounds of the segment.
        mode: `AS_IT_IS` or `SWAPPED`.
        spelled: uint8[2 L], written.
    """
    n = 0
    for j in range(i, end):
        byte = text[j]
        if IS_CONTROL[byte]:
            spelled[n] = ITSELF
            n += 1
        spelled[n] = _SPELLINGS[mode - AS_IT_IS, byte]
        n += 1
    return n


@njit(nogil=True)
def best_mode(text, i, end):
    """Returns the encoding with fewer tokens: `AS_IT_IS`, `SWAPPED`, or `PACKED` if both are the same."""
    for j in range(i, end):
        if segments.KINDS[text[j]] <= segments.CAPITAL:
            capitals = segments.KINDS[text[j]] == segments.CAPITAL
            after = j + 1 < end and segments.KINDS[text[j + 1]] != segments.CAPITAL
            return SWAPPED if capitals and not after else AS_IT_IS
    return PACKED


@njit(nogil=True)
def has_control(text, i, end):
    """Returns whether a segment has a byte that represents a letter in spans that are not packed."""
    for j in range(i, end):
        if IS_CONTROL[text[j]]:
            return True
    return False


@njit(nogil=True)
def alphabet(text, begin, end, different):
    """Writes the distinct bytes of a text to uint8[32] and returns their number, at least 2.

    Returns 256 if there are more than 32, or if the text is too short for a list of them.
    """
    n, seen = 0, np.zeros(256, np.bool_)
    for j in range(begin, end):
        byte = text[j]
        if not seen[byte]:
            if n == MAX_ALPHABET:
                return 256
            seen[byte], different[n] = True, byte
            n += 1
    while n < 2:
        different[n] = n
        n += 1
    return n if end - begin >= 4 * n else 256


@njit(nogil=True)
def byte_cost(base):
    """Returns the cost units of a byte in full packed blocks."""
    return (UNIT * (_MOST_DIGITS + 1) + FITTING[base, _MOST_DIGITS] - 1) // FITTING[base, _MOST_DIGITS]


@njit(nogil=True)
def _fewest_digits(base, n):
    """Returns the number of base-233 digits that hold n digits of a base."""
    n_digits = 1
    while FITTING[base, n_digits] < n:
        n_digits += 1
    return n_digits


@njit(nogil=True)
def passing(base):
    """Returns the cost units of switching between encodings, int64[4, 4]."""
    costs = _PASS.copy()
    if base <= MAX_ALPHABET:
        costs[:PACKED, PACKED] += UNIT * _fewest_digits(256, base)
    return costs


@njit(nogil=True)
def _write_number(text, begin, end, base, values, n_digits, digits, n):
    """Writes the number whose digits in a base are given bytes to `digits[n:]`; returns the index after it."""
    limbs, at_once = np.zeros(_N_LIMBS, np.uint64), _AT_ONCE[base]
    for first in range(begin + (end - begin - 1) // at_once * at_once, begin - 1, -at_once):
        value, scale = np.uint64(0), np.uint64(1)
        for j in range(min(first + at_once, end) - 1, first - 1, -1):
            value = value * np.uint64(base) + np.uint64(values[text[j]])
            scale *= np.uint64(base)
        for k in range(_N_LIMBS):
            value += limbs[k] * scale
            limbs[k] = value & np.uint64(0xFFFFFFFF)
            value >>= np.uint64(32)
    end, used = n + n_digits, _N_LIMBS
    while end > n:
        rest, scale = np.uint64(0), np.uint64(_RADIX**4)
        while used > 0 and limbs[used - 1] == 0:
            used -= 1
        for k in range(used - 1, -1, -1):
            value = rest << np.uint64(32) | limbs[k]
            limbs[k] = value // scale
            rest = value - limbs[k] * scale
        for _ in range(min(4, end - n)):
            end -= 1
            digits[end] = _DIGITS_OF[rest % np.uint64(_RADIX)]
            rest //= np.uint64(_RADIX)
    return n + n_digits


@njit(nogil=True)
def pack(text, begin, end, digits):
    """Writes bytes as a packed span; returns the number of digits, at most 29 n / 28 + 4 for n bytes.

    Args:
        text: uint8[N].
        begin, end: bounds of the bytes; at least one.
        digits: uint8[...], written; bytes of `ALPHABET`.
    """
    different, values, themselves = np.empty(MAX_ALPHABET, np.uint8), np.arange(256), np.arange(256)
    base, n = alphabet(text, begin, end, different), 1
    digits[0] = _DIGITS_OF[base % 256 - (base < 256)]
    if base < 256:
        n = _write_number(different, 0, base, 256, themselves, _fewest_digits(256, base), digits, n)
        for k in range(base):
            values[different[k]] = k
    while begin < end:
        stop = min(begin + FITTING[base, _MOST_DIGITS], end)
        n_digits = _MOST_DIGITS if stop < end else _fewest_digits(base, stop - begin)
        digits[n] = _DIGITS_OF[n_digits - 1 + _MOST_DIGITS * (stop < end)]
        n += 1
        if stop == end:
            digits[n] = _DIGITS_OF[FITTING[base, n_digits] - (stop - begin)]
            n += 1
        n, begin = _write_number(text, begin, stop, base, values, n_digits, digits, n), stop
    return n


@njit(nogil=True)
def begin(state, mode):
    """Begins a span; `state` is int64[...] of zeros."""
    state[MODE], state[_NEXT] = mode, _FIRST


@njit(nogil=True, inline="always")
def unspell(byte, state, text, filled):
    """Writes the text of one byte of a span; returns the new length of the text.

    Args:
        byte: byte of the span.
        state: int64[...], from the bytes before; its `MODE` is 0 after the end of a span.
        text: uint8[...], written from index `filled`: at most one byte, or 8 for each byte of a packed block.
        filled: length of the text.
    """
    if state[MODE] == PACKED:
        left = state[_DIGITS]
        if left > 1:  # the common case is inlined, since a call would take longer
            state[_STORE + left - 1], state[_DIGITS] = _VALUES[byte], left - 1
        else:
            filled = _unpack(byte, state, text, filled)
    elif state[_ITSELF] or np.uint8(byte - END) > ITSELF - END:
        text[filled] = byte if state[_ITSELF] else _READINGS[state[MODE] - AS_IT_IS, byte]
        state[_ITSELF] = 0
        filled += 1
    else:
        _obey(byte, state)
    return filled


@njit(nogil=True)
def _obey(byte, state):
    """Handles a marker inside a span that is not packed."""
    if byte == END:
        state[MODE] = FOLDED
    elif byte == CHANGE:
        state[MODE] = AS_IT_IS + SWAPPED - state[MODE]
    else:
        state[_ITSELF] = 1


@njit(nogil=True)
def _unpack(byte, state, text, filled):
    """Handles a digit of a packed span that is a length or the last digit of its block.

    Every digit is valid at every position, so any sequence of ids can be decoded.
    """
    value, expected = np.int64(_VALUES[byte]), state[_NEXT]
    if expected == _FIRST:
        state[_BASE] = value % MAX_ALPHABET + 1
        if state[_BASE] == 1:
            state[_BASE], state[_NEXT] = 256, _LENGTH
        else:
            _expect_number(_OF_ALPHABET, _fewest_digits(256, state[_BASE]), state[_BASE], state)
        return filled
    if expected == _LENGTH:
        state[_MORE], n_digits = value // _MOST_DIGITS == 1, value % _MOST_DIGITS + 1
        _expect_number(_OF_BLOCK, n_digits, FITTING[state[_BASE], n_digits], state)
        if not state[_MORE]:
            state[_NEXT], state[_DIGITS] = _MISSING, 0
        return filled
    if expected == _MISSING:
        _expect_number(_OF_BLOCK, state[_LENGTH_OF], max(state[_BYTES] - value, 0), state)
        return filled
    state[_STORE], state[_DIGITS], state[_NEXT] = value, 0, _LENGTH
    if expected == _OF_ALPHABET:
        _read_number(256, state, state, _ALPHABET)
        return filled
    state[MODE] = PACKED if state[_MORE] else FOLDED
    end = _read_number(state[_BASE], state, text, filled)
    if state[_BASE] < 256:
        for place in range(filled, end):
            text[place] = state[_ALPHABET + text[place]]
    return end


@njit(nogil=True)
def _expect_number(kind, n_digits, n_bytes, state):
    state[_NEXT], state[_LENGTH_OF], state[_DIGITS], state[_BYTES] = kind, n_digits, n_digits, n_bytes


@njit(nogil=True)
def _read_number(base, state, written, n):
    """Writes the digits of a block's number in a base to `written[n:]`; returns the index after them."""
    limbs, used = np.zeros(_N_LIMBS, np.uint64), 0
    place = state[_LENGTH_OF]
    while place > 0:  # four digits at a time are less than 32 bits
        value, scale = np.uint64(0), np.uint64(1)
        for _ in range((place - 1) % 4 + 1):
            place -= 1
            value = value * np.uint64(_RADIX) + np.uint64(state[_STORE + place])
            scale *= np.uint64(_RADIX)
        for k in range(used):
            value += limbs[k] * scale
            limbs[k] = value & np.uint64(0xFFFFFFFF)
            value >>= np.uint64(32)
        if value and used < _N_LIMBS:
            limbs[used], used = value, used + 1
    left, at_once, scale = state[_BYTES], _AT_ONCE[base], np.uint64(1)
    ones = (np.uint64(1) << np.uint64(56)) - np.uint64(1)
    for _ in range(at_once):
        scale *= np.uint64(base)
    inverse = ~np.uint64(0) // scale + np.uint64(1)
    while left > 0:
        rest = np.uint64(0)
        while used > 0 and limbs[used - 1] == 0:
            used -= 1
        for k in range(used - 1, -1, -1):
            value = rest << np.uint64(32) | limbs[k]  # below scale * 2**32, so the quotient is too large by 1 at most
            quotient = multiply_high(value, inverse)
            quotient -= np.uint64(quotient * scale > value)
            limbs[k], rest = quotient, value - quotient * scale
        # The digits of rest / scale, first one first, by multiplications, which are faster than divisions. The 56-bit
        # fraction is too large by at most 2**-36 + 2**-56, and there are fewer than 2**28 such fractions.
        fraction = (rest * inverse >> np.uint64(8)) + np.uint64(1)
        for place in range(n + at_once - 1, n - 1, -1):
            fraction *= np.uint64(base)
            if place < n + left:
                written[place] = fraction >> np.uint64(56)
            fraction &= ones
        n, left = n + min(at_once, left), left - at_once
    return n
