"""Greedy longest match: texts to entries of a dictionary, whose trie is a double array (`coding.longest_match`).

A step reads one byte: a load that depends on the step before, a comparison and a conditional move, which is not a
branch. One text alone takes the latency of these for each byte, so ten places of the text are stepped in turn. Their
distances are constant, so that they share one register: the ten states and all addresses stay in the sixteen registers
of an x86 processor, and a step is seven instructions. Each step writes its state, which tells whether a token began.

A greedy parse does not depend on the text before the current token. So the parse from such a place is that of the text
from the first position on at which both begin a token; the tokens from there are read from the states, 64 at a time.
"""

import numpy as np

from compressed_lm.coding.compiled import njit
from compressed_lm.coding.machine import (
    count_ones,
    load_byte,
    load_half,
    low_bytes_differ,
    select,
    store_half,
    trailing_zeros,
)

STREAMS = 10
"""Places that are stepped in turn: as many as there are registers for their states."""

FAR, NEAR = 4160, 272
"""Distances of these places in bytes, for long texts and for the rest. No multiples of 1024, with which the states that
are written together would be in one set of the L1 cache."""

PADDING = STREAMS * NEAR + 64
"""Readable bytes after a text."""

SPARE = 65
"""Elements after the last token that `parse` may overwrite."""

STATES = STREAMS * FAR + 64
"""Elements of the work space of `parse`."""

_AT_ONCE = 14  # tokens written without a branch; 64 bytes of English have 13
_ZERO, _ONE, _FOUR, _BYTE = np.uint64(0), np.uint64(1), np.uint64(4), np.uint64(255)
_BASE, _CELLS = np.uint64(8), np.uint64(1024)  # shift from a state to its base; bytes of the table before the cells


def with_roots(cells: np.ndarray) -> np.ndarray:
    """Returns the table of `parse`, uint32[256 + C]: the node of each single byte, with its byte inverted; the cells.

    Args:
        cells: uint32[C], see `longest_match.double_array`.
    """
    return np.concatenate([cells[:256] ^ np.uint32(255), cells])


@njit(nogil=True, inline="always")
def _step(text, table, states, state, place):
    """Steps one stream by one byte and writes its state, which has an inverted byte if a token begins there."""
    byte = load_byte(text + place)
    child = load_half(table + _CELLS + _FOUR * ((state >> _BASE) + byte))
    begin = load_half(table + _FOUR * byte)
    state = select((child ^ byte) & _BYTE != _ZERO, begin, child)
    store_half(states + _FOUR * place, state)
    return state


@njit(nogil=True, inline="always")
def _advance(text, table, states, steps, distance):
    """Steps all streams from the root, each by the same number of bytes.

    Args:
        text: address of the first stream's text; the others follow at constant distances.
        table: address of the table, from `with_roots`.
        states: address of uint32[...], written: the state after each byte.
        steps: number of bytes.
        distance: of streams, in bytes.
    """
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = s8 = s9 = _ZERO
    for step in range(steps):
        i = np.uint64(step)
        s0 = _step(text, table, states, s0, i)
        s1 = _step(text, table, states, s1, i + np.uint64(distance))
        s2 = _step(text, table, states, s2, i + np.uint64(2 * distance))
        s3 = _step(text, table, states, s3, i + np.uint64(3 * distance))
        s4 = _step(text, table, states, s4, i + np.uint64(4 * distance))
        s5 = _step(text, table, states, s5, i + np.uint64(5 * distance))
        s6 = _step(text, table, states, s6, i + np.uint64(6 * distance))
        s7 = _step(text, table, states, s7, i + np.uint64(7 * distance))
        s8 = _step(text, table, states, s8, i + np.uint64(8 * distance))
        s9 = _step(text, table, states, s9, i + np.uint64(9 * distance))


@njit(nogil=True)
def _advance_far(text, table, states, steps):
    _advance(text, table, states, steps, FAR)


@njit(nogil=True)
def _advance_near(text, table, states, steps):
    _advance(text, table, states, steps, NEAR)


@njit(nogil=True, inline="always")
def _write_token(before, found, ids, to):
    """Writes the token before the first of the positions `found`, 0 to 63; `before` is the address of the state there.

    Without a position it writes some token: the state 64 bytes later is not read, since there may be none.
    """
    state = load_half(before + _FOUR * (trailing_zeros(found) & np.uint64(63)))
    store_half(to, load_half(ids + _FOUR * (state >> _BASE)))


@njit(nogil=True)
def _continue(text, table, states, ids, begin, end, state, to):
    """Continues a parse through a piece that was parsed independently.

    Args:
        text, table: as in `_advance`.
        states: address of the state after the first byte of `text`.
        ids: address of int32[C], entry number at each base.
        begin, end: bounds of the piece in the text.
        state: the state reached just before it; 0 if a token ends there.
        to: address of int32[...], written: the tokens that end in the piece, and up to 64 more numbers.

    Returns:
        The state at the end of the piece, and the address after the tokens.
    """
    i = begin
    while True:  # byte by byte until both begin a token
        byte = load_byte(text + i)
        child = load_half(table + _CELLS + _FOUR * ((state >> _BASE) + byte))
        if state >> _BASE == _ZERO or child & _BYTE != byte:
            if state >> _BASE:
                store_half(to, load_half(ids + _FOUR * (state >> _BASE)))
                to += _FOUR
            if load_half(states + _FOUR * i) & _BYTE != byte:
                break
            child = load_half(table + _FOUR * byte)
        state, i = child, i + _ONE
        if i == end:
            return state, to
    i += _ONE
    while i < end:
        found = low_bytes_differ(states + _FOUR * i, text + i)
        if end - i < np.uint64(64):
            found &= (_ONE << (end - i)) - _ONE
        count, before = count_ones(found), states + _FOUR * (i - _ONE)
        for k in range(_AT_ONCE):
            _write_token(before, found, ids, to + np.uint64(4 * k))
            found &= found - _ONE
        for k in range(_AT_ONCE, count):
            _write_token(before, found, ids, to + _FOUR * np.uint64(k))
            found &= found - _ONE
        to += _FOUR * count
        i += np.uint64(64)
    return load_half(states + _FOUR * (end - _ONE)), to


@njit(nogil=True)
def parse(data, bounds, table, ids, state, unfinished, states, numbers, token_bounds):
    """Writes the greedy longest-match parse of concatenated texts.

    Args:
        data: uint8[N + PADDING], the texts and other bytes.
        bounds: int64[D + 1]; text d is data[bounds[d] : bounds[d + 1]].
        table: from `with_roots`.
        ids: int32[C], from `longest_match.double_array`.
        state: returned state of the previous part if the first text continues it; otherwise 0.
        unfinished: whether the last text continues later, so that its last token is not known yet.
        states: uint32[STATES], work space.
        numbers: int32[N + SPARE], written: tokens of all texts.
        token_bounds: int64[D + 1], written: bounds of each text's tokens.

    Returns:
        The state at the end of the last text.
    """
    text, table_at, ids_at = np.uint64(data.ctypes.data), np.uint64(table.ctypes.data), np.uint64(ids.ctypes.data)
    states_at, start = np.uint64(states.ctypes.data), np.uint64(numbers.ctypes.data)
    i, stop, to, reached = np.uint64(bounds[0]), np.uint64(bounds[-1]), start, np.uint64(state)
    last, token_bounds[0] = len(bounds) - 2 if unfinished else -1, 0
    d, reached, to = _end_texts(bounds, 0, i, last, ids_at, reached, start, to, token_bounds)
    while i < stop:
        begin, distance = i, np.uint64(FAR)
        if stop - begin >= np.uint64(STREAMS * FAR):
            _advance_far(text + begin, table_at, states_at, FAR)
        else:
            distance = np.uint64(NEAR)
            _advance_near(text + begin, table_at, states_at, np.int64(min(distance, stop - begin)))
        piece = begin
        while i < stop and piece < begin + np.uint64(STREAMS) * distance:
            piece += distance
            while i < min(piece, stop):
                end = min(piece, np.uint64(bounds[d + 1]))
                reached, to = _continue(text + begin, table_at, states_at, ids_at, i - begin, end - begin, reached, to)
                i = end
                d, reached, to = _end_texts(bounds, d, i, last, ids_at, reached, start, to, token_bounds)
    return np.uint32(reached)


@njit(nogil=True)
def _end_texts(bounds, d, i, last, ids, reached, start, to, token_bounds):
    """Writes the last token of the text that ends at position i, if one does, and the bounds of its tokens.

    Args:
        bounds, token_bounds: as in `parse`.
        d: number of the text that has the bytes before i.
        i: position, uint64.
        last: the text whose last token is not known yet, or -1.
        ids, start, to: addresses of the entry numbers, of the first token and of the next.
        reached: the state at i.

    Returns:
        The number of the text that has the byte at i, the state, and the address of the next token.
    """
    while d < len(bounds) - 1 and np.uint64(bounds[d + 1]) == i:
        if reached and d != last:
            store_half(to, load_half(ids + _FOUR * (reached >> _BASE)))
            to, reached = to + _FOUR, _ZERO
        d += 1
        token_bounds[d] = np.int64(to - start) >> 2
    return d, reached, to
