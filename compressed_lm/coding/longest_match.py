"""Greedy longest match over a trie laid out as a double array, several texts at a time.

The states of the parse are places in one array of cells. A cell holds a byte in its low 8 bits and, above, the `base`
of the node that this byte leads to; the child of the node at base `b` over byte `c` is cell `b + c`, and it is one only
if the byte in that cell is `c`. Bases are different for different nodes, so no further check is needed and a base names
its node. The root is base 0, thus `cells[c]` is where byte `c` begins.

One step is a load that depends on the step before, then a compare and a select that no branch predictor could guess.
`LANES` texts are therefore stepped in turn, which hides the load, and the select never becomes a branch.
"""

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from compressed_lm.coding.compiled import njit

LANES = 6
"""Texts that are stepped together: enough to hide the latency of the second-level cache, few enough to stay in
registers."""

PIECE_BYTES = 4096
"""Texts longer than this are cut so that the lanes stay equally busy."""

LEAST_PIECE_BYTES = 256
"""Shorter pieces would cost more in joining than a busier lane saves."""

MAX_ENTRIES = 1 << 20
"""Bases take 24 bits of a cell; sixteen times the entries leaves room for gaps."""


@intrinsic
def _select(typing_context, condition, yes, no):
    """`yes if condition else no`, marked so that it is compiled to a conditional move on every processor."""

    def generate(context, builder, signature, arguments):
        chosen = builder.select(builder.trunc(arguments[0], ir.IntType(1)), arguments[1], arguments[2])
        chosen.set_metadata("unpredictable", builder.module.add_metadata([]))
        return chosen

    return numba.uint32(numba.boolean, numba.uint32, numba.uint32), generate


@njit(nogil=True, inline="always")
def _step(data, place, cells, states, state, n):
    """One byte of one lane. Writes the state in any case and counts it only where a token ends."""
    byte = np.uint64(data[place])
    begin = cells[byte]
    child = cells[np.uint64(state >> np.uint32(8)) + byte]
    states[n] = state
    missing = ((child ^ begin) & np.uint32(255)) != 0
    return _select(missing, begin, child), n + np.uint64(missing)


@njit(nogil=True)
def _advance(data, cells, states, place, state, n, steps):
    """Steps all lanes by the same number of bytes.

    Args:
        place, n: uint64[LANES], where each lane reads and writes next.
        state: uint32[LANES], cell each lane has reached.
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
    for lane in range(LANES):
        place[lane] += np.uint64(steps)


@njit(nogil=True)
def _parse_pieces(data, cells, begins, ends, states, counts, finals):
    """Parses each piece by itself, from the root.

    Args:
        data: uint8[N].
        begins, ends: int64[P], where each piece lies; none is empty.
        states: uint32[N], written: piece p's whole tokens, as cells, from index begins[p].
        counts: int64[P], written: number of these.
        finals: uint32[P], written: the cell at which the piece ended, whose token may go on.
    """
    place, n = np.zeros(LANES, np.uint64), np.zeros(LANES, np.uint64)
    state = np.zeros(LANES, np.uint32)
    piece, left = np.full(LANES, -1), np.zeros(LANES, np.int64)
    waiting = 0
    while True:
        busy, steps = -1, 0
        for lane in range(LANES):
            if left[lane] == 0:
                if piece[lane] >= 0:
                    counts[piece[lane]] = np.int64(n[lane]) - begins[piece[lane]]
                    finals[piece[lane]] = state[lane]
                piece[lane] = -1
                if waiting < len(begins):
                    place[lane] = n[lane] = np.uint64(begins[waiting])
                    state[lane], piece[lane] = 0, waiting
                    left[lane] = ends[waiting] - begins[waiting]
                    waiting += 1
            if left[lane] and (busy < 0 or left[lane] < steps):
                busy, steps = lane, left[lane]
        if busy < 0:
            return
        for lane in range(LANES):
            if piece[lane] < 0:  # An idle lane repeats a busy one, and so writes nothing new.
                place[lane], state[lane], n[lane] = place[busy], state[busy], n[busy]
            else:
                left[lane] -= steps
        _advance(data, cells, states, place, state, n, steps)


@njit(nogil=True)
def _cut(bounds):
    """Cuts texts into pieces of about equal length.

    Returns:
        begins, ends: int64[P]; firsts: int64[D + 1], the first piece of each text.
    """
    total = bounds[-1] - bounds[0]
    size = min(max(total // LANES, LEAST_PIECE_BYTES), PIECE_BYTES)
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
    """Continues a parse through a piece that was parsed by itself.

    A greedy parse depends on nothing before the token at hand, so from the first place where both parses begin a token
    they are the same.

    Args:
        state: the cell reached just before the piece.
        numbers: int32[...], written from index n.

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
    for j in range(stop - token):  # unsigned, so that no index is taken for one from the end
        numbers[np.uint64(n + j)] = ids[np.uint64(states[np.uint64(token + j)] >> np.uint32(8))]
    return n + stop - token, final


@njit(nogil=True)
def parse(data, bounds, cells, ids, depth, state, unfinished, states, numbers, token_bounds):
    """Greedy longest-match parse of texts that stand one after another.

    Args:
        data: uint8[N], the texts.
        bounds: int64[D + 1], where text d lies: bounds[d] to bounds[d + 1].
        cells, ids: from `double_array`.
        depth: int32[V], bytes in each entry.
        state: the cell at which the text that the first one continues was left; 0 if it begins here.
        unfinished: whether the last text goes on, so that its last token is not yet known.
        states: uint32[N], for the loop's own use.
        numbers: int32[N + 1], written: the tokens of all texts.
        token_bounds: int64[D + 1], written: where the tokens of text d lie.

    Returns:
        The cell at which the last text was left.
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
    """A base for each node of `order`: the lowest found at which all its children fall on free cells.

    Nodes with equally many children are placed at rising bases, which keeps the search linear.

    Args:
        order: int64[I], nodes with children, the most frequent first.
        starts: int64[V + 1]; labels: int64[E]: bytes of the children of node i are labels[starts[i]:starts[i + 1]].

    Returns:
        bases: int64[V], 0 for nodes not in `order`; unused: uint64[W], a bit for each base, 1 where a node without
            children may have it. There are at least V of these.
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
    """Entries that begin with each entry, itself included: int64[V]. `by_depth` lists parents before children."""
    sizes = np.ones(len(parent), np.int64)
    for i in by_depth[::-1]:
        if parent[i] >= 0:
            sizes[parent[i]] += sizes[i]
    return sizes


def double_array(parent, last, by_depth):
    """Lays a trie out.

    Nodes with many descendants are laid out first and so stand together: they are the ones most often visited.

    Args:
        parent: int32[V], -1 for single bytes.
        last: uint8[V].
        by_depth: int64[V], numbers of the entries, parents before children.

    Returns:
        cells: uint32[C], the byte and the base of the child at each place. A cell without a child holds the one byte
            that would belong to a base which is 255 modulo 256; no node has such a base, so it is never taken for a
            child.
        ids: int32[C], entry number at each base; 0 where there is none.
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
        raise ValueError(
            f"The trie of {len(parent)} entries takes {n_cells} cells; at most {1 << 24} were expected. Build a "
            "smaller dictionary."
        )
    cells = (np.arange(1, n_cells + 1, dtype=np.uint32)) & np.uint32(255)
    places = np.where(parent < 0, 0, bases[parent]) + last
    cells[places] = bases << 8 | last
    ids = np.zeros(n_cells, np.int32)
    ids[bases] = np.arange(len(parent), dtype=np.int32)
    return cells, ids
