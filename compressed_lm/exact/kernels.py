"""Forward pass of the exact model on the host, compiled by Numba, bit for bit that of `exact.device`.

One function computes any mixture of cached steps and teacher-forced blocks: a batch is a list of inputs, each with a
slot (a row of the cache) and a position. Inputs of one slot that follow each other in the batch have consecutive
positions. Keys and values of the whole batch are written before attention reads them, so a block attends to itself.

Numbers and operations are those of `exact.integer_ops`, in int32 (`vectors`).
"""

from typing import NamedTuple

import numpy as np

from compressed_lm.coding.compiled import njit, part
from compressed_lm.coding.machine import borrowed_all
from compressed_lm.exact.config import AVERAGE_SCALE, GATE_RANGE
from compressed_lm.exact.products import product_signed, product_unsigned
from compressed_lm.exact.vectors import (
    add,
    both,
    clip,
    exp2_negative,
    floor_quotient,
    larger,
    multiply,
    put_bytes,
    put_lane,
    rescale,
    shift_left,
    shift_right,
    subtract,
    to_float,
)

I = np.int32  # noqa: E741
SHIFTS = ("q", "k", "v", "score", "average", "out", "up", "gate", "product", "down")
"""Columns of `State.shifts`; the last row has the shift of the logits in the first column."""

Q, K, V, SCORE, AVERAGE, OUT, UP, GATE, PRODUCT, DOWN = range(len(SHIFTS))
_SIGNS = I(-0x7F7F7F80)  # flips the sign bits of four bytes: int8 to uint8 + 128


class State(NamedTuple):
    """Weights of a model, its cache, and buffers for up to M inputs; d: width, H: heads, K: head width, L: layers.

    Matrices are in blocks, see `products`, as uint8: 128 is added to each weight, and `start` subtracts it again. K is
    padded to a multiple of four with zeros. `host` makes them.
    """

    embed: np.ndarray  # int32[257, d]
    norms: np.ndarray  # int32[2 L + 1, d]
    qkv: np.ndarray  # uint8[L, blocks, d / 4, 16, 4]; so are out, gated, down; unembed has no L
    qkv_multiplier: np.ndarray  # int32[L, 3 H K]
    score_multiplier: np.ndarray  # int32[L, H]
    bias: np.ndarray  # int32[L, H, context + 16], by position: the largest distance first
    average_multiplier: np.ndarray  # int32[L, H K]
    out: np.ndarray
    out_multiplier: np.ndarray  # int32[L, d]
    gated: np.ndarray
    gated_multiplier: np.ndarray  # int32[L, 2 d_ff]
    product_multiplier: np.ndarray  # int32[L, d_ff]
    down: np.ndarray
    down_multiplier: np.ndarray  # int32[L, d]
    unembed: np.ndarray
    logit_multiplier: np.ndarray  # int32[257]
    shifts: np.ndarray  # int32[L + 1, 10]
    keys: np.ndarray  # int32[slots, L, S / 16 + 1, H, K / 4, 16]: four channels of 16 positions
    values: np.ndarray  # int32[slots, L, H, K / 16, S / 4 + 1, 16]: four positions of 16 channels
    first: np.ndarray  # int32[257], logits at position 0, which every context shares
    inputs: np.ndarray  # int32[M]
    slots: np.ndarray  # int32[M]
    positions: np.ndarray  # int32[M]
    logits: np.ndarray  # int32[M, 257], the result
    h: np.ndarray  # int32[M, d], residual stream
    x: np.ndarray  # int8[M, widest input]
    sums: np.ndarray  # int32[M, widest output]
    start: np.ndarray  # int32[M], -128 * the sum of x
    q: np.ndarray  # int8[M, H K]
    q_start: np.ndarray  # int32[H, M]
    scores: np.ndarray  # int32[H M, S]
    halves: np.ndarray  # uint8[2 H M, S], upper and lower seven bits of attention weights
    weight: np.ndarray  # int32[H M], their sums
    totals: np.ndarray  # int32[2 H M, K]
    zeros: np.ndarray  # int32[2 H M]


@part
def _normalise(h, multiplier, x):
    """Writes `integer_ops.normalise` to x: int8; returns -128 * its sum."""
    top = I(0)
    for c in range(len(h)):
        top = larger(top, larger(h[c], subtract(I(0), h[c])))
    bits = I(0)
    while top > 0:
        top, bits = shift_right(top, I(1)), add(bits, I(1))
    shift = subtract(bits, I(11))
    down, up = larger(shift, I(0)), larger(subtract(I(0), shift), I(0))
    half = shift_right(shift_left(I(1), down), I(1))
    squares = I(0)
    for c in range(len(h)):
        y = shift_left(shift_right(add(h[c], half), down), up)
        squares = add(squares, multiply(y, y))
    norm = larger(I(np.sqrt(np.float64(np.uint32(squares)))), I(1))  # float64 has the exact floor of the root
    twice = shift_left(norm, I(1))
    inverse, total = np.float32(1) / to_float(twice), I(0)
    for c in range(len(h)):
        y = shift_left(shift_right(add(h[c], half), down), up)
        numerator = add(multiply(shift_left(y, I(1)), multiplier[c]), norm)
        y = clip(floor_quotient(numerator, twice, inverse), I(-127), I(127))
        x[c] = y
        total = add(total, y)
    return multiply(total, I(-128))


@part
def _to_bytes(sums, multiplier, shift, x):
    """Writes rescaled sums in the int8 range; returns -128 * the sum of what it wrote."""
    total = I(0)
    for c in range(len(x)):
        y = clip(rescale(sums[c], multiplier[c], shift), I(-127), I(127))
        x[c] = y
        total = add(total, y)
    return multiply(total, I(-128))


@part
def _gate(sums, multipliers, up_shift, gate_shift, multiplier, shift, x):
    n, total = len(multiplier), I(0)
    ups, gates, up_multiplier, gate_multiplier = sums[:n], sums[n : 2 * n], multipliers[:n], multipliers[n : 2 * n]
    for c in range(n):
        up = clip(rescale(ups[c], up_multiplier[c], up_shift), I(-GATE_RANGE), I(GATE_RANGE))
        gate = clip(rescale(gates[c], gate_multiplier[c], gate_shift), I(0), I(GATE_RANGE))
        y = clip(rescale(multiply(up, gate), multiplier[c], shift), I(-127), I(127))
        x[c] = y
        total = add(total, y)
    return multiply(total, I(-128))


@part
def _add_rescaled(h, sums, multiplier, shift):
    for c in range(len(h)):
        h[c] = add(h[c], rescale(sums[c], multiplier[c], shift))


@part
def _softmax(scores, limit, width, multiplier, shift, bias, halves):
    """Writes 14-bit weights of the first `limit` positions as two halves, zeros up to `width`; returns their sum.

    It computes whole vectors of 16: the bias of the positions after the last one makes their weights zero.
    """
    top, stop = I(-0x80000000), (limit + 15) & ~15
    for s in range(stop):
        y = add(rescale(scores[s], multiplier, shift), bias[s])
        scores[s] = y
        top = larger(top, y)
    total, high, low = I(0), halves[0], halves[1]
    for s in range(stop):
        weight = shift_right(exp2_negative(subtract(top, scores[s])), I(1))
        high[s] = np.uint8(shift_right(weight, I(7)))
        low[s] = np.uint8(both(weight, I(127)))
        total = add(total, weight)
    for s in range(stop, width):
        high[s] = low[s] = 0
    return total


@part
def _average(totals, weight, multiplier, shift, x):
    weight = shift_right(weight, I(4))
    inverse, half, total = np.float32(1) / to_float(weight), shift_right(weight, I(1)), I(0)
    high, low = totals[0], totals[1]
    for c in range(len(x)):
        y = shift_right(add(shift_left(high[c], I(7)), low[c]), I(4))
        y = add(multiply(y, I(AVERAGE_SCALE)), half)
        y = clip(rescale(floor_quotient(y, weight, inverse), multiplier[c], shift), I(-127), I(127))
        x[c] = y
        total = add(total, y)
    return multiply(total, I(-128))


@part
def _split(sums, multiplier, shifts, x, q, q_start, keys, values, position):
    """Writes the queries of an input, and its keys and values to the cache of its slot and layer."""
    n_heads, groups, inner = keys.shape[1], keys.shape[2], len(q)
    width = 4 * groups
    _to_bytes(sums, multiplier, shifts[Q], q)
    for head in range(n_heads):
        total = I(0)
        for c in range(head * width, head * width + width):
            total = add(total, I(q[c]))
        q_start[head] = multiply(total, I(-128))
    _to_bytes(sums[inner:], multiplier[inner:], shifts[K], x[:inner])
    fours, lane = x[:inner].view(np.int32), I(position & 15)
    line = keys.ctypes.data + 64 * (position >> 4) * n_heads * groups
    for i in range(n_heads * groups):
        put_lane(line + 64 * i, lane, I(fours[i] ^ _SIGNS))
    _to_bytes(sums[2 * inner :], multiplier[2 * inner :], shifts[V], x[:inner])
    n_blocks, depth = values.shape[1], values.shape[2]
    for head in range(n_heads):
        for block in range(n_blocks):
            line = values.ctypes.data + 64 * ((head * n_blocks + block) * depth + (position >> 2))
            put_bytes(line, x.ctypes.data + head * width + 16 * block, I(8 * (position & 3)))


@part
def _attend(s, layer, slot, begin, end, position):
    """Writes the attention of inputs begin .. end - 1, which are consecutive positions of a slot, to `x`."""
    n, length = end - begin, position + end - begin
    keys, values = s.keys[slot, layer], s.values[slot, layer]
    n_heads, groups = keys.shape[1], keys.shape[2]
    d_head, width, context = 4 * groups, (length + 15) & ~15, s.bias.shape[2] - 16
    # One stage after another for all heads: their chains of dependent operations then overlap.
    for head in range(n_heads):
        product_unsigned(
            s.q.ctypes.data + begin * s.q.shape[1] + head * d_head,
            s.q.shape[1],
            n,
            keys.ctypes.data + 64 * head * groups,
            64 * n_heads * groups,
            width >> 4,
            groups,
            s.q_start.ctypes.data + 4 * (head * s.q_start.shape[1] + begin),
            s.scores.ctypes.data + 4 * head * n * s.scores.shape[1],
            s.scores.shape[1],
        )
    for head in range(n_heads):
        for t in range(n):
            i, limit = head * n + t, position + t + 1
            s.weight[i] = _softmax(
                s.scores[i],
                limit,
                width,
                s.score_multiplier[layer, head],
                s.shifts[layer, SCORE],
                s.bias[layer, head, context - limit :],
                s.halves[2 * i : 2 * i + 2],
            )
    for head in range(n_heads):
        product_signed(
            s.halves.ctypes.data + 2 * head * n * s.halves.shape[1],
            s.halves.shape[1],
            2 * n,
            values.ctypes.data + 64 * head * values.shape[1] * values.shape[2],
            64 * values.shape[2],
            values.shape[1],
            (length + 3) >> 2,
            s.zeros.ctypes.data,
            s.totals.ctypes.data + 8 * head * n * s.totals.shape[1],
            s.totals.shape[1],
        )
    for t in range(n):
        total = I(0)
        for head in range(n_heads):
            i, c = head * n + t, head * d_head
            total = add(
                total,
                _average(
                    s.totals[2 * i : 2 * i + 2],
                    s.weight[i],
                    s.average_multiplier[layer, c : c + d_head],
                    s.shifts[layer, AVERAGE],
                    s.x[begin + t, c : c + d_head],
                ),
            )
        s.start[begin + t] = total


@part
def _project(s, n, matrix):
    """Writes the products of the first n rows of `x` and a matrix to `sums`."""
    product_unsigned(
        s.x.ctypes.data,
        s.x.shape[1],
        n,
        matrix.ctypes.data,
        matrix.strides[0],
        matrix.shape[0],
        matrix.shape[1],
        s.start.ctypes.data,
        s.sums.ctypes.data,
        s.sums.shape[1],
    )


@part
def _clear_padding(x, n, width):
    """Clears what earlier rows left between the width of an input and the next multiple of four."""
    for row in range(n):
        for c in range(width, (width + 3) & ~3):
            x[row, c] = 0


@njit(nogil=True, error_model="numpy")
def forward(state, n):
    """Computes `logits` of the first n inputs, and writes their keys and values to the cache."""
    s = borrowed_all(state)
    d, d_ff, n_layers = s.embed.shape[1], s.product_multiplier.shape[1], len(s.qkv)
    for row in range(n):
        for c in range(d):
            s.h[row, c] = s.embed[s.inputs[row], c]
    for layer in range(n_layers):
        shifts = s.shifts[layer]
        _clear_padding(s.x, n, d)
        for row in range(n):
            s.start[row] = _normalise(s.h[row], s.norms[2 * layer], s.x[row])
        _project(s, n, s.qkv[layer])
        for row in range(n):
            keys, values = s.keys[s.slots[row], layer], s.values[s.slots[row], layer]
            _split(
                s.sums[row],
                s.qkv_multiplier[layer],
                shifts,
                s.x[row],
                s.q[row],
                s.q_start[:, row],
                keys,
                values,
                s.positions[row],
            )
        begin = np.int64(0)
        while begin < n:
            end = begin + 1
            while end < n and s.slots[end] == s.slots[begin]:
                end += 1
            _attend(s, layer, s.slots[begin], begin, end, s.positions[begin])
            begin = end
        _project(s, n, s.out[layer])
        _clear_padding(s.x, n, d)
        for row in range(n):
            _add_rescaled(s.h[row], s.sums[row], s.out_multiplier[layer], shifts[OUT])
            s.start[row] = _normalise(s.h[row], s.norms[2 * layer + 1], s.x[row])
        _project(s, n, s.gated[layer])
        _clear_padding(s.x, n, d_ff)
        for row in range(n):
            s.start[row] = _gate(
                s.sums[row],
                s.gated_multiplier[layer],
                shifts[UP],
                shifts[GATE],
                s.product_multiplier[layer],
                shifts[PRODUCT],
                s.x[row],
            )
        _project(s, n, s.down[layer])
        for row in range(n):
            _add_rescaled(s.h[row], s.sums[row], s.down_multiplier[layer], shifts[DOWN])
    _clear_padding(s.x, n, d)
    for row in range(n):
        s.start[row] = _normalise(s.h[row], s.norms[2 * n_layers], s.x[row])
    _project(s, n, s.unembed)
    for row in range(n):
        sums, logits = s.sums[row], s.logits[row]
        for c in range(len(logits)):
            logits[c] = rescale(sums[c], s.logit_multiplier[c], s.shifts[n_layers, 0])
