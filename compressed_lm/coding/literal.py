"""Text as it stands, where folded text would be longer: spans in which each byte is spelled, capitals included.

Folding is made for words. Of text such as aAaA, codes or tables of letters it makes several marks a letter, so spans
of it are written in one of three other ways, each behind two marks that folding never writes side by side:

    AA  as it is: small letters stand for themselves, a control character stands for each capital
    BB  swapped: capitals are written small, and a control character stands for each small letter
    AB  packed: blocks of up to 56 bytes of any kind, as numbers in base 233

In the first two A ends the span, B changes from one to the other, and C comes before a control character that stands
for itself. A packed block begins with a digit that tells its length and whether another block follows.
"""

import numpy as np

from compressed_lm.coding import segments
from compressed_lm.coding.compiled import njit

ALPHABET = tuple(bytes([b]) for b in range(256) if not ord("C") < b <= ord("Z"))
"""The bytes of folded text: all but the capitals, of which the first three are marks."""

FOLDED, AS_IT_IS, SWAPPED, PACKED = range(4)
"""How a segment is written."""

MARKS = np.frombuffer(b"\0\0AABBAB", np.uint8).reshape(4, 2)
"""The two marks before a span of each kind."""

END, CHANGE, ITSELF = b"ABC"
"""What the marks mean in a span that is not packed."""

BLOCK_BYTES = 56
"""Bytes of a packed block; as 233**(k + 1) > 256**k up to k = 57, it has one digit more."""

BIAS = 12
"""Tokens that a span has to save beyond its marks, so that English is folded throughout, initials included."""

UNIT = BLOCK_BYTES // 2
"""Units of cost in a token, in which the 29/28 tokens of a packed byte are an integer."""

STATE = 5 + BLOCK_BYTES // 4
"""Length of the part of a state that `unspell` uses, the first."""

# What is known of a span, in this order: how it is written; the next byte stands for itself; of a packed block the
# bytes, the digits to come (-1: the first is), whether another follows; then its number in limbs of 32 bits.
MODE, _ITSELF, _BYTES, _DIGITS, _MORE, _LIMBS = range(6)
_CONTROL = [b for b in range(1, 32) if not segments.KINDS[b] == segments.WHITE]  # 26 of them
_DIGITS_OF = np.frombuffer(b"".join(ALPHABET), np.uint8)
_VALUES = np.searchsorted(_DIGITS_OF, np.arange(256)).astype(np.uint8) % len(ALPHABET)
_BASE = len(ALPHABET)

# Tokens to pass from each way of writing to each other; the first block of a packed span costs two more than its share.
_PASS = np.array([[0, 2 + BIAS, 2 + BIAS, 4 + BIAS], [1, 0, 1, 5], [1, 1, 0, 5], [0, 2, 2, 0]], np.int64) * UNIT


def _spellings() -> np.ndarray:
    """The byte that stands for each, as it is and swapped: uint8[2, 256]."""
    found = np.tile(np.arange(256, dtype=np.uint8), (2, 1))
    for control, small in zip(_CONTROL, range(ord("a"), ord("z") + 1), strict=True):
        found[0, small - 32] = found[1, small] = control
        found[1, small - 32] = small
    return found


def _readings() -> np.ndarray:
    """The byte that each stands for, as it is and swapped: uint8[2, 256]."""
    found = np.tile(np.arange(256, dtype=np.uint8), (2, 1))
    for swapped in range(2):
        for byte in (*range(ord("A"), ord("Z") + 1), *range(ord("a"), ord("z") + 1)):
            found[swapped, _SPELLINGS[swapped, byte]] = byte
    return found


_SPELLINGS = _spellings()
_READINGS = _readings()
IS_CONTROL = np.isin(np.arange(256), _CONTROL)
"""Whether each byte stands for a letter in spans that are not packed."""


@njit(nogil=True)
def spell(text, i, end, mode, spelled):
    """Writes a segment as it is or swapped; returns the number of bytes.

    Args:
      text: uint8[N].
      i, end: where the segment lies.
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
    """How a segment is spelled in fewer tokens: `AS_IT_IS`, `SWAPPED`, or `PACKED` where both are the same."""
    for j in range(i, end):
        if segments.KINDS[text[j]] <= segments.CAPITAL:
            capitals = segments.KINDS[text[j]] == segments.CAPITAL
            after = j + 1 < end and segments.KINDS[text[j + 1]] != segments.CAPITAL
            return SWAPPED if capitals and not after else AS_IT_IS
    return PACKED


@njit(nogil=True)
def pack(text, begin, end, digits):
    """Writes bytes as packed blocks; returns the number of digits, at most n + 2 ceil(n / 56) for n bytes.

    Args:
      text: uint8[N].
      begin, end: where the bytes lie.
      digits: uint8[...], written; bytes of `ALPHABET`.
    """
    limbs, n = np.empty(BLOCK_BYTES // 4, np.uint64), 0
    while begin < end:
        size = min(end - begin, BLOCK_BYTES)
        digits[n] = _DIGITS_OF[size - 1 + BLOCK_BYTES * (begin + size < end)]
        for k in range(len(limbs)):
            limbs[k] = 0
        for k in range(size):
            limbs[k >> 2] |= np.uint64(text[begin + k]) << np.uint64(8 * (k & 3))
        for place in range(n + 1 + size, n, -1):
            rest = np.uint64(0)
            for k in range((size - 1) >> 2, -1, -1):
                value = rest << np.uint64(32) | limbs[k]
                limbs[k] = value // np.uint64(_BASE)
                rest = value - limbs[k] * np.uint64(_BASE)
            digits[place] = _DIGITS_OF[rest]
        n, begin = n + size + 2, begin + size
    return n


@njit(nogil=True)
def begin(state, mode):
    """Begins a span; `state` is int64[...] of zeros."""
    state[MODE], state[_DIGITS] = mode, -1


@njit(nogil=True)
def unspell(byte, state, text, filled):
    """Writes what a byte of a span stands for; returns how far the text is filled.

    Args:
      byte: of the span.
      state: int64[...], what is known from the bytes before; that at `MODE` is 0 after the end of a span.
      text: uint8[...], written from index `filled`, at most 56 bytes.
    """
    if state[MODE] == PACKED:
        return _unpack(byte, state, text, filled)
    if state[_ITSELF]:
        state[_ITSELF] = 0
    elif byte == END:
        state[MODE] = FOLDED
        return filled
    elif byte == CHANGE:
        state[MODE] = AS_IT_IS + SWAPPED - state[MODE]
        return filled
    elif byte == ITSELF:
        state[_ITSELF] = 1
        return filled
    else:
        byte = _READINGS[state[MODE] - AS_IT_IS, byte]
    text[filled] = byte
    return filled + 1


@njit(nogil=True)
def _unpack(byte, state, text, filled):
    value = np.int64(_VALUES[byte])
    if state[_DIGITS] < 0:
        value %= 2 * BLOCK_BYTES  # others are no first digits: any will do
        state[_MORE], state[_BYTES] = value // BLOCK_BYTES, value % BLOCK_BYTES + 1
        state[_DIGITS] = state[_BYTES] + 1
        for k in range(_LIMBS, STATE):
            state[k] = 0
        return filled
    n_bytes = state[_BYTES]
    for k in range(_LIMBS, _LIMBS + (n_bytes + 3) // 4):
        value += state[k] * _BASE
        state[k] = value & 0xFFFFFFFF
        value >>= 32
    state[_DIGITS] -= 1
    if state[_DIGITS] == 0:
        for k in range(n_bytes):
            text[filled + k] = state[_LIMBS + (k >> 2)] >> (8 * (k & 3)) & 255
        filled += n_bytes
        state[_DIGITS] = -1
        if not state[_MORE]:
            state[MODE] = FOLDED
    return filled


@njit(nogil=True)
def choose(costs, n, come_from, modes):
    """Chooses how each of some segments is written so that all take the least: the marks of spans, and `BIAS`, count.

    Args:
      costs: int32[..., 4], units of cost of each segment, for each way of writing it.
      n: number of segments.
      come_from: uint8[..., 4], for the loop's own use.
      modes: uint8[...], written.
    """
    total, new = np.empty(4, np.int64), np.empty(4, np.int64)
    for mode in range(4):
        total[mode] = _PASS[FOLDED, mode]
    for k in range(n):
        for mode in range(4):
            best, least = 0, total[0] + _PASS[0, mode]
            for before in range(1, 4):
                other = total[before] + _PASS[before, mode]
                best, least = (before, other) if other < least else (best, least)
            come_from[k, mode] = best
            new[mode] = least + costs[k, mode]
        for mode in range(4):
            total[mode] = new[mode]
    best = 0
    for mode in range(1, 4):
        if total[mode] + _PASS[mode, FOLDED] < total[best] + _PASS[best, FOLDED]:
            best = mode
    for k in range(n - 1, -1, -1):
        modes[k] = best
        best = np.int64(come_from[k, best])
