"""A prefix-closed dictionary of byte strings with greedy longest match: compiled windows."""

from collections.abc import Callable

import numba
import numpy as np

from compressed_lm.coding import windows


class Dictionary:
    """Byte strings numbered 0..V-1 such that every prefix of an entry is an entry and all 256 single bytes are there.

    Such a set is a trie. `encode` walks it and emits the number of the last node whenever the next byte has no child,
    which is the longest match; `decode` concatenates. Any byte string encodes, any sequence of numbers decodes, and
    decode(encode(x)) == x.

    Attributes:
      parent: int32[V], number of the entry without its last byte; -1 for single bytes.
      last: uint8[V], last byte.
      depth: int32[V], bytes in the entry.
    """

    def __init__(self, parent, last):
        self.parent = np.asarray(parent, np.int32)
        self.last = np.asarray(last, np.uint8)
        if self.parent.shape != self.last.shape or self.parent.ndim != 1:
            raise ValueError(
                f"Parents of shape {self.parent.shape} and bytes of shape {self.last.shape} were given; two "
                "lists of equal length were expected."
            )
        self.depth = _depths(self.parent)
        if self.depth.min(initial=1) < 1:
            raise ValueError(
                "The parents hold a cycle or a number outside the dictionary. The dictionary was corrupted; "
                "build or fetch it again."
            )
        self._first, self._keys, self._children = _child_table(self.parent, self.last)
        self._offsets = np.concatenate([[0], np.cumsum(self.depth, dtype=np.int64)])
        self._text = _spell(self.parent, self.last, self._offsets)

    def __len__(self) -> int:
        return len(self.parent)

    def entry(self, number: int) -> bytes:
        """The byte string of one number."""
        return self._text[self._offsets[number] : self._offsets[number + 1]].tobytes()

    def encode(self, data: bytes) -> np.ndarray:
        """Numbers of the greedy longest-match parse: int32[T]."""
        data = np.frombuffer(data, np.uint8)
        out = np.empty(len(data), np.int32)
        return out[: _parse(data, self._first, self._keys, self._children, out)].copy()

    def decode(self, numbers) -> bytes:
        """Concatenation of the entries. Raises ValueError for a number outside the dictionary."""
        numbers = np.asarray(numbers, np.int64)
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < len(self):
            raise ValueError(
                f"Numbers from {numbers.min()} to {numbers.max()} were given to a dictionary of {len(self)} "
                f"entries (0 to {len(self) - 1})."
            )
        out = np.empty(int(self.depth[numbers].sum()), np.uint8)
        _concatenate(numbers, self._offsets, self._text, out)
        return out.tobytes()


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


@numba.njit(cache=True, nogil=True)
def _depths(parent):
    """Depth of each entry; 0 marks a broken one."""
    depth = np.zeros(len(parent), np.int32)
    for i in range(len(parent)):
        steps, node = 1, parent[i]
        while 0 <= node < len(parent) and steps <= len(parent) and depth[node] == 0:
            steps, node = steps + 1, parent[node]
        if node == -1:
            base = 0
        elif 0 <= node < len(parent) and depth[node] > 0:
            base = depth[node]
        else:
            return depth
        node = i
        while node != -1 and depth[node] == 0:
            depth[node] = base + steps
            steps, node = steps - 1, parent[node]
    return depth


@numba.njit(cache=True, nogil=True)
def _spell(parent, last, offsets):
    text = np.empty(offsets[-1], np.uint8)
    for i in range(len(parent)):
        node, position = i, offsets[i + 1] - 1
        while node != -1:
            text[position] = last[node]
            node, position = parent[node], position - 1
    return text


def _child_table(parent, last):
    """Open-addressing hash table from (parent, byte) to entry, and the entries of the 256 single bytes."""
    first = np.full(256, -1, np.int32)
    roots = np.flatnonzero(parent == -1)
    first[last[roots]] = roots
    if (first < 0).any():
        raise ValueError(
            f"{(first < 0).sum()} single bytes are missing from the dictionary; all 256 were expected. Build "
            "or fetch it again."
        )
    n_slots = 1 << max(4, int(2 * len(parent) - 1).bit_length())
    keys, children = np.full(n_slots, -1, np.int64), np.full(n_slots, -1, np.int32)
    _fill(parent, last, keys, children)
    return first, keys, children


@numba.njit(cache=True, nogil=True, inline="always")
def _slot(key, mask):
    return ((np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)) & mask


@numba.njit(cache=True, nogil=True)
def _fill(parent, last, keys, children):
    mask = np.uint64(len(keys) - 1)
    for i in range(len(parent)):
        if parent[i] < 0:
            continue
        key = np.int64(parent[i]) * 256 + last[i]
        slot = _slot(key, mask)
        while keys[slot] >= 0:
            slot = (slot + np.uint64(1)) & mask
        keys[slot] = key
        children[slot] = i


@numba.njit(cache=True, nogil=True)
def _parse(data, first, keys, children, out):
    mask = np.uint64(len(keys) - 1)
    n, node = 0, -1
    for i in range(len(data)):
        byte = data[i]
        if node >= 0:
            key = np.int64(node) * 256 + byte
            slot = _slot(key, mask)
            while keys[slot] >= 0 and keys[slot] != key:
                slot = (slot + np.uint64(1)) & mask
            if keys[slot] == key:
                node = children[slot]
                continue
            out[n] = node
            n += 1
        node = first[byte]
    if node >= 0:
        out[n] = node
        n += 1
    return n


@numba.njit(cache=True, nogil=True)
def _concatenate(numbers, offsets, text, out):
    position = 0
    for i in range(len(numbers)):
        for j in range(offsets[numbers[i]], offsets[numbers[i] + 1]):
            out[position] = text[j]
            position += 1
