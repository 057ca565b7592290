"""Compiling windows: M1 is asked once for every text of the trie, and never again."""

from collections.abc import Callable

import numpy as np

from compressed_lm.coding import windows
from compressed_lm.coding.dictionary import Dictionary


def compile_windows(
    tables: Callable[[np.ndarray, np.ndarray], np.ndarray],
    *,
    bits: int,
    align: str,
    max_bytes: int,
    progress: Callable[[int], None] = lambda n_codes: None,
) -> Dictionary:
    """The dictionary of all 2**bits windows under the node rule, entry number = window code.

    Walks the trie of window texts level by level; each level asks for the frequency tables of all its texts at once.

    Args:
      tables: maps (texts: uint8[N, D], where D is the common length) to frequencies uint32[N, 256] of the next byte.
      bits: window size b, at most 20.
      align: "none" or "word".
      max_bytes: after this many bytes M1 is not asked and the table is flat, so that shares shrink 256-fold and
        windows end soon.
      progress: called with the number of codes found so far.

    Returns:
      A dictionary of exactly 2**bits entries.
    """
    n_codes = 1 << bits
    parent, last = np.full(n_codes, -1, np.int32), np.zeros(n_codes, np.uint8)
    symbols = np.arange(256, dtype=np.uint32)

    freqs = np.asarray(tables(np.zeros((1, 0), np.uint8)), np.uint32)
    cdf = np.concatenate([[0], np.cumsum(freqs[0])]).astype(np.uint32)
    lo, size = windows.root_child(symbols, cdf[:-1], cdf[1:], cdf[-1], bits=bits)
    last[lo] = symbols
    texts, found = symbols.astype(np.uint8)[:, None], 256
    while True:
        progress(found)
        open_ = size > 1
        if not open_.any():
            break
        texts, lo, size = texts[open_], lo[open_], size[open_]
        freqs = (
            np.asarray(tables(texts), np.uint32)
            if texts.shape[1] < max_bytes
            else np.full((len(texts), 256), 256, np.uint32)
        )
        if align == "word":
            freqs = np.where(windows.allowed_continuations(texts[:, -1]), freqs, np.uint32(0))
        cdf = np.concatenate([np.zeros((len(freqs), 1), np.uint32), np.cumsum(freqs, axis=1, dtype=np.uint32)], axis=1)
        child_lo, child_size = windows.child(lo[:, None], size[:, None], cdf[:, :-1], cdf[:, 1:], cdf[:, -1:])
        row, byte = np.nonzero(child_size)
        parent[child_lo[row, byte]] = lo[row]
        last[child_lo[row, byte]] = byte
        texts = np.concatenate([texts[row], byte[:, None].astype(np.uint8)], axis=1)
        lo, size, found = child_lo[row, byte], child_size[row, byte], found + len(row)
    return Dictionary(parent, last)
