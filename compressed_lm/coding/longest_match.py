"""Trie of a dictionary as a double array, for greedy longest match (`coding.greedy`).

The trie is one array of cells. A cell has a byte in its low 8 bits and the `base` of this byte's node above. The child
of the node at base `b` for byte `c` is cell `b + c`, if the byte in that cell is `c`; otherwise there is no child.
Bases are unique, so no other check is needed and a base identifies its node. The root has base 0, so `cells[c]` is the
node of the single byte `c`.
"""

import numpy as np

from compressed_lm.coding.compiled import njit
from compressed_lm.errors import InputError

MAX_ENTRIES = 1 << 20
"""A base has 24 bits: 16 times the number of entries, which leaves space for gaps."""


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
