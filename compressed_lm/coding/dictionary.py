"""A prefix-closed dictionary of byte strings with greedy longest match: what windows compile to."""

import numba
import numpy as np


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
