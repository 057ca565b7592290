"""Prefix-closed dictionary of byte strings with greedy longest match; compiled windows use it."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from compressed_lm.coding import greedy, longest_match
from compressed_lm.coding.batches import BLOCK, SCRATCH, in_threads, read_only, runs_of
from compressed_lm.coding.compiled import njit
from compressed_lm.coding.entries import SLOT_BYTES, Entries
from compressed_lm.errors import InputError


class Dictionary:
    """Byte strings numbered 0..V-1. Every prefix of an entry is an entry, and all 256 single bytes are entries.

    Such a set is a trie. `encode` traverses it and emits the number of the last node when the next byte has no child,
    which is the longest match; `decode` concatenates. Any byte string encodes, any sequence of numbers decodes, and
    decode(encode(x)) == x.

    Attributes:
        parent: int32[V], number of the entry without its last byte; -1 for single bytes.
        last: uint8[V], last byte.
        depth: int32[V], bytes in the entry.
        cells: uint32[C], the trie as a double array; see `coding.longest_match`.
        ids: int32[C], entry number at each base of the double array.
        tails: uint8[V, 16], the entry, zero-padded; the last 16 bytes of longer ones.
        heads: int32[V], the longest proper prefix of 16, 32, 48, ... bytes; -1 if there is none.
    """

    def __init__(self, parent: npt.ArrayLike, last: npt.ArrayLike) -> None:
        """Builds the lookup arrays, in tens of milliseconds.

        Args:
            parent: int[V], V at most 1,048,576.
            last: int[V].

        Raises:
            InputError: the lists have different lengths, there are too many entries, a cycle, a missing single byte, or
                a duplicate entry.
        """
        self.parent = np.ascontiguousarray(parent, np.int32)
        self.last = np.ascontiguousarray(last, np.uint8)
        if self.parent.shape != self.last.shape or self.parent.ndim != 1:
            raise InputError(
                f"Parents of shape {self.parent.shape} and bytes of shape {self.last.shape} were given; two "
                "lists of equal length were expected."
            )
        if len(self) > longest_match.MAX_ENTRIES:
            raise InputError(
                f"{len(self)} entries were given; at most {longest_match.MAX_ENTRIES} were expected. Build a smaller "
                "dictionary."
            )
        self.depth = _depths(self.parent)
        _check_entries(self.parent, self.last)
        by_depth = np.argsort(self.depth, kind="stable")
        self.cells, self.ids = longest_match.double_array(self.parent, self.last, by_depth)
        self._table = greedy.with_roots(self.cells)
        self.tails, self.heads = _tails(self.parent, self.last, self.depth, by_depth)
        self._entries = Entries(self.depth, self.tails, self.heads)

    def __len__(self) -> int:
        return len(self.parent)

    def entry(self, number: int) -> bytes:
        """Returns the byte string of one number."""
        return self.decode([number])

    def encode(self, data: bytes) -> np.ndarray:
        """Returns the numbers of the greedy longest-match parse, int32[T]."""
        if len(data) > BLOCK:
            return self._encode_long(data)
        return self._encode_short([data], np.array([0, len(data)]))[0]

    def decode(self, numbers: Sequence[int] | np.ndarray) -> bytes:
        """Returns the concatenation of entries. Raises ValueError for a number outside the dictionary."""
        return self._entries.decode(numbers)

    def encode_batch(self, documents: Sequence[bytes], *, threads: int = 1) -> list[np.ndarray]:
        """Returns `encode` of each document; several times faster than single calls if documents are short.

        Args:
            documents: byte strings.
            threads: number of threads; each document is encoded by one thread.

        Returns:
            int32[T] for each document.
        """

        def encode(run: Sequence[bytes], bounds: np.ndarray) -> list[np.ndarray]:
            return [self._encode_long(run[0])] if bounds[-1] > BLOCK else self._encode_short(run, bounds)

        return in_threads(encode, runs_of(documents, BLOCK), threads)

    def decode_batch(self, sequences: Sequence, *, threads: int = 1) -> list[bytes]:
        """Returns `decode` of each sequence; faster than single calls.

        Raises:
            InputError: a number is outside the dictionary.
        """
        return self._entries.decode_batch(sequences, threads=threads)

    def _encode_short(self, documents: Sequence[bytes], bounds: np.ndarray) -> list[np.ndarray]:
        numbers, token_bounds, _ = self._parse(_padded(*documents), bounds)
        ends = token_bounds.tolist()
        return [numbers[a:b].copy() for a, b in zip(ends, ends[1:], strict=False)]

    def _encode_long(self, document: bytes) -> np.ndarray:
        """Encodes block by block, with the parser state carried over, so that memory is bounded."""
        data, state, parts = read_only(document), 0, []
        for start in range(0, len(data), BLOCK):
            end = min(start + BLOCK, len(data))
            block = data[start:end] if end + greedy.PADDING <= len(data) else _padded(data[start:end].data)
            bounds = np.array([0, end - start])
            numbers, token_bounds, state = self._parse(block, bounds, state, unfinished=end < len(data))
            parts.append(numbers[: token_bounds[1]].copy())
        return np.concatenate(parts)

    def _parse(
        self, data: np.ndarray, bounds: np.ndarray, state: int = 0, *, unfinished: bool = False
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Returns the numbers of all texts (valid until the next call), each text's bounds, and the last state.

        `data` is followed by `greedy.PADDING` readable bytes.
        """
        states = SCRATCH.array("states", greedy.STATES, np.uint32)
        numbers, token_bounds = SCRATCH.array("ids", int(bounds[-1]) + greedy.SPARE, np.int32), np.empty_like(bounds)
        state = greedy.parse(
            data, bounds, self._table, self.ids, np.uint32(state), unfinished, states, numbers, token_bounds
        )
        return numbers, token_bounds, state

    def checked(self, numbers: npt.ArrayLike) -> np.ndarray:
        """Returns numbers as int32[T]. Raises ValueError for a number outside the dictionary."""
        return self._entries.checked(numbers)


def _padded(*documents: bytes | memoryview) -> np.ndarray:
    """Returns the concatenation of texts and the bytes that `greedy.parse` reads after them."""
    return read_only(b"".join([*documents, bytes(greedy.PADDING)]))


def _check_entries(parent: np.ndarray, last: np.ndarray) -> None:
    missing = 256 - len(np.unique(last[parent == -1]))
    if missing:
        raise InputError(
            f"{missing} single bytes are missing in the dictionary; all 256 were expected. Build or fetch it again."
        )
    n_entries = len(np.unique(parent.astype(np.int64) * 256 + last))
    if n_entries < len(parent):
        raise InputError(
            f"{len(parent) - n_entries} of {len(parent)} entries are duplicates; distinct entries were expected. Build "
            "or fetch the dictionary again."
        )


def _depths(parent: np.ndarray) -> np.ndarray:
    """Returns the length of each entry in bytes, by pointer doubling."""
    depth, above = np.ones(len(parent), np.int32), parent.copy()
    if parent.min(initial=-1) >= -1 and parent.max(initial=-1) < len(parent):
        for _ in range(len(parent).bit_length() + 1):
            inner = np.flatnonzero(above >= 0)
            if not inner.size:
                return depth
            depth[inner] += depth[above[inner]]
            above[inner] = above[above[inner]]
    raise InputError(
        "The parents contain a cycle or a number outside the dictionary. The dictionary was corrupted; build or fetch "
        "it again."
    )


@njit(nogil=True)
def _tails(parent, last, depth, by_depth):
    """Returns tails and heads; see `Dictionary`. Their size does not depend on the length of entries."""
    tails, heads = np.zeros((len(parent), SLOT_BYTES), np.uint8), np.full(len(parent), -1, np.int32)
    for i in by_depth:
        above = parent[i]
        if above >= 0:
            tails[i] = tails[above]
            heads[i] = heads[above] if depth[above] % SLOT_BYTES else above
        if depth[i] > SLOT_BYTES:
            tails[i, :-1] = tails[above, 1:]
        tails[i, min(depth[i], SLOT_BYTES) - 1] = last[i]
    return tails, heads
