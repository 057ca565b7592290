"""Dictionary construction from a byte model, which is evaluated once per text of the trie."""

from collections.abc import Callable, Iterator

import numpy as np

from compressed_lm.coding import limbs, tables, windows
from compressed_lm.coding.dictionary import Dictionary

Tables = Callable[[np.ndarray], np.ndarray]
"""Function from texts uint8[N, D] to the frequencies uint32[N, 256] of the byte after each."""

EXPANDED_AT_ONCE = 2048
"""Texts that `compile_best_first` extends per call of M1, so that M1 runs on full batches."""


def compile_windows(
    frequencies: Tables,
    *,
    bits: int,
    align: str,
    max_bytes: int,
    progress: Callable[[int], None] = lambda n_codes: None,
) -> Dictionary:
    """Returns the dictionary of all 2**bits windows under the node rule; entry number = window code.

    Traverses the trie of window texts level by level, with one call of `frequencies` per level.

    Args:
        frequencies: the byte model.
        bits: window size b, at most 20.
        align: "none" or "word".
        max_bytes: after this many bytes the table is uniform instead of M1's, so that intervals shrink 256-fold per
            byte and windows end soon.
        progress: called with the number of codes found so far.

    Returns:
        A dictionary of exactly 2**bits entries.
    """
    rule = windows.NodeRule(bits)
    n_codes = 1 << bits
    parent, last = np.full(n_codes, -1, np.int32), np.zeros(n_codes, np.uint8)
    symbols = np.arange(256, dtype=np.uint32)

    cdf = tables.cumulative(np.asarray(frequencies(np.zeros((1, 0), np.uint8)), np.uint32))[0]
    lo, size = rule.root(symbols, cdf[:-1], cdf[1:], xp=np)
    last[_integers(lo)] = symbols
    texts, found = symbols.astype(np.uint8)[:, None], 256
    while True:
        progress(found)
        open_ = _integers(size) > 1
        if not open_.any():
            break
        texts, lo, size = texts[open_], *(tuple(limb[open_, None] for limb in x) for x in (lo, size))
        freqs, total = _continuations(frequencies, texts, align=align, max_bytes=max_bytes)
        cdf = tables.cumulative(freqs)
        child_lo, child_size = rule.child(lo, size, cdf[:, :-1], cdf[:, 1:], total)
        row, byte = np.nonzero(rule.exists(child_lo, child_size))
        code = _integers(tuple(limb[row, byte] for limb in child_lo))
        parent[code], last[code] = _integers(lo)[row, 0], byte
        texts = np.concatenate([texts[row], byte[:, None].astype(np.uint8)], axis=1)
        lo, size = (tuple(limb[row, byte] for limb in x) for x in (child_lo, child_size))
        found += len(row)
    return Dictionary(parent, last)


def compile_best_first(
    frequencies: Tables,
    *,
    n_entries: int,
    align: str,
    max_bytes: int,
    progress: Callable[[int], None] = lambda n_entries: None,
) -> Dictionary:
    """Returns the dictionary of the `n_entries` most likely strings; it always has the 256 single bytes.

    The expected length of a longest match is the sum of the probabilities of all entries. So no prefix-closed
    dictionary of this size has longer matches on text that follows the model.

    Args:
        frequencies: the byte model.
        n_entries: size of the dictionary, at least 256.
        align: "none" or "word".
        max_bytes: largest length of an entry in bytes.
        progress: called with the number of entries settled so far.

    Returns:
        A dictionary with entries numbered in depth-first order: entries with a common prefix are neighbours.
    """
    cost = 16 - np.log2(np.asarray(frequencies(np.zeros((1, 0), np.uint8)), np.float64)[0])
    texts = [bytes([s]) for s in range(256)]
    parent, costs = np.full(256, -1, np.int64), cost
    expanded = np.zeros(256, bool)
    while True:
        # An entry among the cheapest stays there unless cheaper continuations are found.
        best = np.argsort(np.where(parent < 0, -1.0, costs), kind="stable")[:n_entries]
        todo = best[~expanded[best]]
        progress(len(best) - len(todo))
        if not len(todo):
            break
        todo = todo[np.argsort(costs[todo], kind="stable")][:EXPANDED_AT_ONCE]
        expanded[todo] = True
        bar = costs[best[-1]] if len(best) == n_entries else np.inf
        for length, group in _by_length(texts, todo):
            if length >= max_bytes:
                continue
            rows = np.frombuffer(b"".join(texts[i] for i in group), np.uint8).reshape(-1, length)
            freqs, _ = _continuations(frequencies, rows, align=align, max_bytes=max_bytes)
            with np.errstate(divide="ignore"):
                child_costs = costs[group, None] + 16 - np.log2(freqs)
            row, byte = np.nonzero((child_costs < bar) & (freqs > 0))
            texts += [texts[group[r]] + bytes([b]) for r, b in zip(row, byte, strict=True)]
            parent = np.concatenate([parent, group[row]])
            costs = np.concatenate([costs, child_costs[row, byte]])
            expanded = np.concatenate([expanded, np.zeros(len(row), bool)])
    entries = sorted(best, key=lambda i: texts[i])
    number = np.full(len(texts), -1, np.int32)
    number[entries] = np.arange(len(entries))
    return Dictionary([-1 if parent[i] < 0 else number[parent[i]] for i in entries], [texts[i][-1] for i in entries])


def _continuations(
    frequencies: Tables, texts: np.ndarray, *, align: str, max_bytes: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns frequencies uint32[N, 256] after each text, 0 if forbidden, and their sums uint32[N, 1] (None: 2**16)."""
    freqs = (
        np.asarray(frequencies(texts), np.uint32)
        if texts.shape[1] < max_bytes
        else np.full((len(texts), 256), 256, np.uint32)
    )
    if align == "none":
        return freqs, None
    freqs = np.where(windows.allowed_continuations(texts[:, -1]), freqs, np.uint32(0))
    return freqs, freqs.sum(-1, keepdims=True, dtype=np.uint32)


def _by_length(texts: list[bytes], chosen: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    lengths = np.array([len(texts[i]) for i in chosen])
    for length in np.unique(lengths):
        yield int(length), chosen[lengths == length]


def _integers(x: limbs.Limbs) -> np.ndarray:
    value = np.zeros(np.shape(x[0]), np.int64)
    for limb in x:
        value = value << limbs.LIMB_BITS | limb
    return value
