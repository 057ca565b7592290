"""Greedy longest match in a double-array trie, for several texts at a time.

The states of the parser are indices of one array of cells. A cell has a byte in its low 8 bits and the `base` of this
byte's node above. The child of the node at base `b` for byte `c` is cell `b + c`, if the byte in that cell is `c`;
otherwise there is no child. Bases are unique, so no other check is needed and a base identifies its node. The root has
base 0, so `cells[c]` is the node of the single byte `c`.

A step is a load that depends on the step before, then a compare and a select with an unpredictable condition.
`STREAMS` texts are therefore stepped in turn by one loop, which hides the latency of the load, and the select is
compiled to a conditional move, not a branch.
"""

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from compressed_lm.coding.compiled import njit
from compressed_lm.errors import InputError

STREAMS = 6
"""Texts that one loop steps in turn: enough to hide the latency of the L2 cache, few enough to stay in registers."""

PIECE_BYTES = 4096
"""Longer texts are split, so that the streams have equal work."""

LEAST_PIECE_BYTES = 256
"""Shorter pieces would cost more in joining than they save in waiting."""

MAX_ENTRIES = 1 << 20
"""A base has 24 bits: 16 times the number of entries, which leaves space for gaps."""


@intrinsic
def _select(typing_context, condition, yes, no):
    """Returns `yes if condition else no`, compiled to a conditional move on every processor."""

    def generate(context, builder, signature, arguments):
        chosen = builder.select(builder.trunc(arguments[0], ir.IntType(1)), arguments[1], arguments[2])
        chosen.set_metadata("unpredictable", builder.module.add_metadata([]))
        return chosen

    return numba.uint32(numba.boolean, numba.uint32, numba.uint32), generate


@njit(nogil=True, inline="always")
def _step(data, place, cells, states, state, n):
    """Steps one stream by one byte. The state is always written, and counted only at the end of a token."""
    byte = np.uint64(data[place])
    begin = cells[byte]
    child = cells[np.uint64(state >> np.uint32(8)) + byte]
    states[n] = state
    missing = ((child ^ begin) & np.uint32(255)) != 0
    return _select(missing, begin, child), n + np.uint64(missing)


@njit(nogil=True)
def _advance(data, cells, states, place, state, n, steps):
    """Steps all streams by the same number of bytes.

    Args:
        data, cells, states: as in `_parse_pieces`.
        place, n: uint64[STREAMS], next read and write index of each stream.
        state: uint32[STREAMS], current cell of each stream.
        steps: number of bytes.
    """
    p0, p1, p2, p3, p4, p5 = place[0], place[1], place[2], place[3], place[4], place[5]
    s0, s1, s2, s3, s4, s5 = state[0], state[1], state[2], state[3], state[4], state[5]
    n0, n1, n2, n3, n4, n5 = n[0], n[1], n[2], n[3], n[4], n[5]
    for step in range(steps):
        i = np.uint64(step)
        s0, n0 = _step(data, p0 + i, cells, states, s0, n0)
        s1, n1 = _step(data, p1 + i, cells, states, s1, n1)
        s2, n2 = _step(data, p2 + i, cells, states, s2, n2)
        s3, n3 = _step(data, p3 + i, cells, states, s3, n3)
        s4, n4 = _step(data, p4 + i, cells, states, s4, n4)
        s5, n5 = _step(data, p5 + i, cells, states, s5, n5)
    state[0], state[1], state[2], state[3], state[4], state[5] = s0, s1, s2, s3, s4, s5
    n[0], n[1], n[2], n[3], n[4], n[5] = n0, n1, n2, n3, n4, n5
    for stream in range(STREAMS):
        place[stream] += np.uint64(steps)


@njit(nogil=True)
def _parse_pieces(data, cells, begins, ends, states, counts, finals):
    """Parses each piece independently, from the root.

    Args:
        data: uint8[N].
        cells: from `double_array`.
        begins, ends: int64[P], bounds of the pieces; none is empty.
        states: uint32[N], written: complete tokens of piece p, as cells, from index begins[p].
        counts: int64[P], written: number of these.
        finals: uint32[P], written: last cell of the piece, whose token may continue.
    """
    place, n = np.zeros(STREAMS, np.uint64), np.zeros(STREAMS, np.uint64)
    state = np.zeros(STREAMS, np.uint32)
    piece, left = np.full(STREAMS, -1), np.zeros(STREAMS, np.int64)
    waiting = 0
    while True:
        busy, steps = -1, 0
        for stream in range(STREAMS):
            if left[stream] == 0:
                if piece[stream] >= 0:
                    counts[piece[stream]] = np.int64(n[stream]) - begins[piece[stream]]
                    finals[piece[stream]] = state[stream]
                piece[stream] = -1
                if waiting < len(begins):
                    place[stream] = n[stream] = np.uint64(begins[waiting])
                    state[stream], piece[stream] = 0, waiting
                    left[stream] = ends[waiting] - begins[waiting]
                    waiting += 1
            if left[stream] and (busy < 0 or left[stream] < steps):
                busy, steps = stream, left[stream]
        if busy < 0:
            return
        for stream in range(STREAMS):
            if piece[stream] < 0:  # an idle stream repeats a busy one, so it writes the same values
                place[stream], state[stream], n[stream] = place[busy], state[busy], n[busy]
            else:
                left[stream] -= steps
        _advance(data, cells, states, place, state, n, steps)


@njit(nogil=True)
def _cut(bounds):
    """Splits texts into pieces of about equal length.

    Returns:
        begins, ends: int64[P], bounds of the pieces; firsts: int64[D + 1], the first piece of each text.
    """
    total = bounds[-1] - bounds[0]
    size = min(max(total // STREAMS, LEAST_PIECE_BYTES), PIECE_BYTES)
    firsts = np.zeros(len(bounds), np.int64)
    for d in range(len(bounds) - 1):
        firsts[d + 1] = firsts[d] - (bounds[d] - bounds[d + 1]) // size
    begins, ends = np.empty(firsts[-1], np.int64), np.empty(firsts[-1], np.int64)
    for d in range(len(bounds) - 1):
        length, parts = bounds[d + 1] - bounds[d], firsts[d + 1] - firsts[d]
        for part in range(parts):
            begins[firsts[d] + part] = bounds[d] + length * part // parts
            ends[firsts[d] + part] = bounds[d] + length * (part + 1) // parts
    return begins, ends, firsts


@njit(nogil=True)
def _join(data, cells, ids, depth, states, begin, end, count, final, state, numbers, n):
    """Continues a parse through a piece that was parsed independently.

    A greedy parse does not depend on the text before the current token. So both parses are the same from the first
    position at which both begin a token.

    Args:
        data, cells, ids, depth, states: as in `parse`.
        begin, end, count, final: of the piece, from `_parse_pieces`.
        state: the cell reached just before the piece.
        numbers: int32[...], written from index n.
        n: index of the next token.

    Returns:
        The new n, and the cell reached at the end of the piece.
    """
    token, stop, boundary = begin, begin + count, begin
    met = state >> np.uint32(8) == 0
    i = begin
    while not met:
        if i == end:
            return n, state
        child = cells[(state >> np.uint32(8)) + data[i]]
        if child & np.uint32(255) == data[i]:
            state, i = child, i + 1
            continue
        numbers[n] = ids[state >> np.uint32(8)]
        n += 1
        while boundary < i and token < stop:
            boundary += depth[ids[states[token] >> np.uint32(8)]]
            token += 1
        met = boundary == i
        state, i = cells[data[i]], i + 1
    for j in range(stop - token):  # unsigned, so that Numba does not check for negative indices
        numbers[np.uint64(n + j)] = ids[np.uint64(states[np.uint64(token + j)] >> np.uint32(8))]
    return n + stop - token, final


@njit(nogil=True)
def parse(data, bounds, cells, ids, depth, state, unfinished, states, numbers, token_bounds):
    """Writes the greedy longest-match parse of concatenated texts.

    Args:
        data: uint8[N], the texts.
        bounds: int64[D + 1]; text d is data[bounds[d] : bounds[d + 1]].
        cells, ids: from `double_array`.
        depth: int32[V], bytes in each entry.
        state: returned cell of the previous part if the first text continues it; otherwise 0.
        unfinished: whether the last text continues later, so that its last token is not known yet.
        states: uint32[N], work space.
        numbers: int32[N + 1], written: tokens of all texts.
        token_bounds: int64[D + 1], written: bounds of each text's tokens.

    Returns:
        The last cell of the last text.
    """
    begins, ends, firsts = _cut(bounds)
    counts, finals = np.empty(len(begins), np.int64), np.empty(len(begins), np.uint32)
    _parse_pieces(data, cells, begins, ends, states, counts, finals)
    n, reached = 0, np.uint32(state)
    token_bounds[0] = 0
    for d in range(len(bounds) - 1):
        for p in range(firsts[d], firsts[d + 1]):
            n, reached = _join(
                data, cells, ids, depth, states, begins[p], ends[p], counts[p], finals[p], reached, numbers, n
            )
        if reached and not (unfinished and d == len(bounds) - 2):
            numbers[n] = ids[reached >> np.uint32(8)]
            n, reached = n + 1, np.uint32(0)
        token_bounds[d + 1] = n
    return reached


@njit(nogil=True)
def _place(order, starts, labels):
    """Returns a base for each node of `order`: the lowest one found at which the cells of all its children are free.

    Nodes with equally many children get increasing bases, which keeps the search linear.

    Args:
        order: int64[I], nodes with children, the most frequent first.
        starts: int64[V + 1], bounds of each node's children in `labels`.
        labels: int64[E], bytes of the children: those of node i are labels[starts[i] : starts[i + 1]].

    Returns:
        bases: int64[V], 0 for nodes not in `order`; unused: uint64[W], one bit per base, 1 if a node without children
            may have it. At least V bits are 1.
    """
    n_words = len(starts) // 32 // 4 * 4 + 16
    free, unused = np.full(n_words, ~np.uint64(0)), np.full(n_words, ~np.uint64(0))
    free[:4], unused[0] = 0, ~np.uint64(1)  # the root and its children
    unused[3::4] = ~np.uint64(0) >> np.uint64(1)  # bases that are 255 modulo 256
    bases, hints = np.zeros(len(starts) - 1, np.int64), np.zeros(17, np.int64)
    for node in order:
        begin, end = starts[node], starts[node + 1]
        word = hints[min(end - begin, 16)]
        while True:
            if word + 6 > len(free):
                free = np.concatenate((free, np.full(len(free), ~np.uint64(0))))
                unused = np.concatenate((unused, unused))
                unused[len(unused) // 2 :] = ~np.uint64(0)
                unused[len(unused) // 2 + 3 :: 4] = ~np.uint64(0) >> np.uint64(1)
            candidates = unused[word]
            for j in range(begin, end):
                if candidates == 0:
                    break
                at, shift = word + (labels[j] >> 6), np.uint64(labels[j] & 63)
                window = free[at] >> shift
                if shift:
                    window |= free[at + 1] << (np.uint64(64) - shift)
                candidates &= window
            if candidates:
                break
            word += 1
        hints[min(end - begin, 16)] = word
        bit = 0
        while not candidates >> np.uint64(bit) & np.uint64(1):
            bit += 1
        bases[node] = 64 * word + bit
        unused[word] ^= np.uint64(1) << np.uint64(bit)
        for j in range(begin, end):
            cell = bases[node] + labels[j]
            free[cell >> 6] ^= np.uint64(1) << np.uint64(cell & 63)
    return bases, unused


@njit(nogil=True)
def subtree_sizes(parent, by_depth):
    """Returns the number of entries that begin with each entry, int64[V]. `by_depth` lists parents before children."""
    sizes = np.ones(len(parent), np.int64)
    for i in by_depth[::-1]:
        if parent[i] >= 0:
            sizes[parent[i]] += sizes[i]
    return sizes


def double_array(parent: np.ndarray, last: np.ndarray, by_depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the double array of a trie.

    Nodes with many descendants are placed first, so that the most visited ones are close in memory.

    Args:
        parent: int32[V], -1 for single bytes.
        last: uint8[V].
        by_depth: int64[V], numbers of the entries, parents before children.

    Returns:
        cells: uint32[C], byte and base of the child at each place. A cell without a child has the byte that would need
            a base of 255 modulo 256; no node has such a base, so it never matches.
        ids: int32[C], entry number at each base; 0 if there is none.
    """
    by_parent = np.lexsort((last, parent))
    starts = np.searchsorted(parent[by_parent], np.arange(len(parent) + 1))
    n_children = np.diff(starts)
    sizes = subtree_sizes(parent, by_depth)
    inner, leaves = np.flatnonzero(n_children), np.flatnonzero(n_children == 0)
    bases, unused = _place(inner[np.argsort(-sizes[inner], kind="stable")], starts, last[by_parent].astype(np.int64))
    bases[leaves] = np.flatnonzero(np.unpackbits(unused.astype("<u8").view(np.uint8), bitorder="little"))[: len(leaves)]
    n_cells = int(bases.max()) + 256
    if n_cells > 1 << 24:
        raise InputError(
            f"The trie of {len(parent)} entries takes {n_cells} cells; at most {1 << 24} were expected. Build a "
            "smaller dictionary."
        )
    cells = (np.arange(1, n_cells + 1, dtype=np.uint32)) & np.uint32(255)
    places = np.where(parent < 0, 0, bases[parent]) + last
    cells[places] = bases << 8 | last
    ids = np.zeros(n_cells, np.int32)
    ids[bases] = np.arange(len(parent), dtype=np.int32)
    return cells, ids
