"""Loops of the host's M1, compiled by Numba: tables of known text, and the arithmetic decoder.

Each call runs in one thread and does not leave compiled code between bytes. `address` is that of `kernels.forward`,
`s` a `kernels.State` in which position 0 of each slot is computed.
"""

import numpy as np

from compressed_lm.coding.compiled import njit, part
from compressed_lm.coding.range_coder import TOP
from compressed_lm.coding.tables import END, TABLE_BITS, TABLE_TOTAL
from compressed_lm.exact.vectors import (
    add,
    call,
    exp2_negative,
    floor_quotient,
    larger,
    multiply,
    subtract,
    to_float,
)

_CODE, _SIZE, _READ, _POSITION, _WRITTEN, _STREAM = range(6)


@njit(nogil=True, error_model="numpy")
def table(logits, n_symbols, freqs):
    """Writes `tables.frequencies` of the first symbols to freqs: int32[n_symbols]."""
    top, total, given = np.int32(-0x80000000), np.int32(0), np.int32(0)
    for i in range(n_symbols):
        top = larger(top, logits[i])
    for i in range(n_symbols):
        weight = exp2_negative(subtract(top, logits[i]))
        freqs[i] = weight
        total = add(total, weight)
    shared, inverse = np.int32(TABLE_TOTAL - n_symbols), np.float32(1) / to_float(total)
    for i in range(n_symbols):
        share = add(np.int32(1), floor_quotient(multiply(freqs[i], shared), total, inverse))
        freqs[i] = share
        given = add(given, share)
    heaviest = 0
    while logits[heaviest] < top:
        heaviest += 1
    freqs[heaviest] += np.int32(TABLE_TOTAL) - given


@njit(nogil=True, error_model="numpy")
def entries(address, s, text, first, last, context, freqs, out):
    """Writes table entries of a text and its end, in contexts first .. last - 1, from teacher-forced blocks.

    Args:
        text: uint8[T].
        first, last: contexts.
        context: symbols per context.
        freqs: int32[257], buffer.
        out: uint32[T + 1, 2], entries of all symbols of the text.
    """
    for start in range(first * context, min(last * context, len(text) + 1), context):
        stop, begin = min(start + context, len(text) + 1), start + 1
        table(s.first, END + 1, freqs)
        _entry(freqs, text[start] if start < len(text) else END, out[start])
        while begin < stop:
            n = min(len(s.inputs), stop - begin)
            for row in range(n):
                s.inputs[row], s.slots[row], s.positions[row] = text[begin + row - 1], 0, begin + row - start
            call(address, s, n)
            for row in range(n):
                table(s.logits[row], END + 1, freqs)
                i = begin + row
                _entry(freqs, text[i] if i < len(text) else END, out[i])
            begin += n


@part
def _entry(freqs, symbol, out):
    below = np.int32(0)
    for i in range(symbol):
        below = add(below, freqs[i])
    out[0], out[1] = below, freqs[symbol]


@njit(nogil=True, error_model="numpy")
def cached_entries(address, s, texts, begins, ends, freqs, out):
    """Writes table entries of contexts from cached steps, one slot for each, as the decoder computes them.

    Args:
        texts: int16[T], symbols of all contexts.
        begins, ends: int64[N], bounds of each context, at most as many as slots, longest first.
        freqs: int32[257], buffer.
        out: uint32[T, 2].
    """
    n, position = len(begins), 0
    while n:
        for row in range(n):
            s.inputs[row], s.slots[row], s.positions[row] = texts[begins[row] + position - 1], row, position
        if position:
            call(address, s, n)
        for row in range(n):
            table(s.logits[row] if position else s.first, END + 1, freqs)
            i = begins[row] + position
            _entry(freqs, texts[i], out[i])
        position += 1
        while n and ends[n - 1] - begins[n - 1] <= position:
            n -= 1


@njit(nogil=True, error_model="numpy")
def frequencies(address, s, texts, out):
    """Writes frequencies of the next byte, without the end, after each of the texts uint8[N, D] to int32[N, 256]."""
    n_texts, depth = texts.shape
    if not depth:
        for i in range(n_texts):
            table(s.first, END, out[i])
        return
    together = max(1, min(len(s.keys), len(s.inputs) // depth))
    for begin in range(0, n_texts, together):
        count, done = min(together, n_texts - begin), 0
        while done < depth:
            n = min(len(s.inputs) // count, depth - done)
            for i in range(count):
                for j in range(n):
                    row = i * n + j
                    s.inputs[row], s.slots[row], s.positions[row] = texts[begin + i, done + j], i, done + j + 1
            call(address, s, count * n)
            done += n
        for i in range(count):
            table(s.logits[i * n + n - 1], END, out[begin + i])


@part
def _decode_symbol(freqs, stream, end, slot):
    """Decodes a symbol; returns it, or -1 if no encoder writes such a stream. Zeros follow the stream."""
    code, size, position = slot[_CODE], slot[_SIZE], slot[_READ]
    unit = size >> TABLE_BITS
    if code >= unit * TABLE_TOTAL:
        return -1
    target, below, symbol = np.int64(np.uint32(code) // np.uint32(unit)), np.int64(0), 0
    while below + np.int64(freqs[symbol]) <= target:
        below += np.int64(freqs[symbol])
        symbol += 1
    code, size = code - unit * below, unit * np.int64(freqs[symbol])
    while size < TOP:
        code = code << 8 | (np.int64(stream[position]) if position < end else 0)
        size, position = size << 8, position + 1
    slot[_CODE], slot[_SIZE], slot[_READ] = code, size, position
    return symbol


@njit(nogil=True, error_model="numpy")
def decode(address, s, streams, begins, ends, overrun, context, freqs, symbols, lengths, final):
    """Decodes streams up to their end symbols, in the slots of the state; a free slot takes the next stream.

    Args:
        streams: uint8[B], one after another; each reads as zeros beyond its end.
        begins, ends: int64[N], bounds of each stream.
        overrun: bytes that may be read beyond the end; a symbol that needs more is not decoded.
        context: symbols per context.
        freqs: int32[257], buffer.
        symbols: uint8[N, most], written. A stream that has more symbols ends there.
        lengths: int64[N], written: number of symbols.
        final: int64[N, 3], written: code, size and bytes read after the end symbol; zeros if there was none.
    """
    slots, taken = np.full((len(s.keys), 6), -1, np.int64), 0
    while True:
        n = running = 0
        for i in range(len(slots)):
            slot = slots[i]
            if slot[_STREAM] < 0 and taken < len(begins):
                _open(streams, begins[taken], ends[taken], slot)
                slot[_STREAM], lengths[taken], taken = taken, 0, taken + 1
            if slot[_STREAM] >= 0:
                running += 1
                if slot[_POSITION]:
                    s.inputs[n], s.slots[n] = symbols[slot[_STREAM], slot[_WRITTEN] - 1], i
                    s.positions[n] = slot[_POSITION]
                    n += 1
        if not running:
            return
        call(address, s, n)
        n = 0
        for i in range(len(slots)):
            slot = slots[i]
            stream = slot[_STREAM]
            if stream < 0:
                continue
            if slot[_POSITION]:
                table(s.logits[n], END + 1, freqs)
                n += 1
            else:
                table(s.first, END + 1, freqs)
            symbol = _decode_symbol(freqs, streams, ends[stream], slot)
            ended = symbol < 0 or slot[_READ] > ends[stream] + overrun
            if not ended and symbol == END:
                final[stream, 0], final[stream, 1] = slot[_CODE], slot[_SIZE]
                final[stream, 2] = slot[_READ] - begins[stream]
            if ended or symbol == END or slot[_WRITTEN] == symbols.shape[1]:
                lengths[stream], slot[_STREAM] = slot[_WRITTEN], -1
                continue
            symbols[stream, slot[_WRITTEN]] = symbol
            slot[_WRITTEN] += 1
            slot[_POSITION] = (slot[_POSITION] + 1) % context


@part
def _open(streams, begin, end, slot):
    slot[_CODE] = 0
    for i in range(begin, begin + 4):
        slot[_CODE] = slot[_CODE] << 8 | (np.int64(streams[i]) if i < end else 0)
    slot[_SIZE], slot[_READ], slot[_POSITION], slot[_WRITTEN] = 0xFFFFFFFF, begin + 4, 0, 0
