"""A prefix-closed dictionary of byte strings with greedy longest match: what windows compile to."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from compressed_lm.coding import longest_match

BLOCK = 1 << 19
"""Bytes of text, or tokens, that a thread works on at a time; bounds its buffers to a few MB."""

SLOT_BYTES = 16
"""Bytes of an entry that decoding copies at once, whatever the entry's length."""


class Dictionary:
    """Byte strings numbered 0..V-1 such that every prefix of an entry is an entry and all 256 single bytes are there.

    Such a set is a trie. `encode` walks it and emits the number of the last node whenever the next byte has no child,
    which is the longest match; `decode` concatenates. Any byte string encodes, any sequence of numbers decodes, and
    decode(encode(x)) == x.

    Attributes:
      parent: int32[V], number of the entry without its last byte; -1 for single bytes.
      last: uint8[V], last byte.
      depth: int32[V], bytes in the entry.
      cells: uint32[C], the trie as a double array; see `coding.longest_match`.
      ids: int32[C], entry number at each base of the double array.
      tails: uint8[V, 16], the entry, padded with zeros; its last 16 bytes where it is longer.
      heads: int32[V], the longest proper prefix of 16, 32, 48, ... bytes; -1 where there is none.
    """

    def __init__(self, parent, last):
        """Lays the dictionary out for use, in tens of milliseconds.

        Args:
          parent: int[V], V at most 1,048,576.
          last: int[V].

        Raises:
          ValueError: lists of different lengths, too many entries, a cycle, a missing single byte, or an entry that
            stands there twice.
        """
        self.parent = np.ascontiguousarray(parent, np.int32)
        self.last = np.ascontiguousarray(last, np.uint8)
        if self.parent.shape != self.last.shape or self.parent.ndim != 1:
            raise ValueError(
                f"Parents of shape {self.parent.shape} and bytes of shape {self.last.shape} were given; two "
                "lists of equal length were expected."
            )
        if len(self) > longest_match.MAX_ENTRIES:
            raise ValueError(
                f"{len(self)} entries were given; at most {longest_match.MAX_ENTRIES} were expected. Build a smaller "
                "dictionary."
            )
        self.depth = _depths(self.parent)
        _check_entries(self.parent, self.last)
        by_depth = np.argsort(self.depth, kind="stable")
        self.cells, self.ids = longest_match.double_array(self.parent, self.last, by_depth)
        self.tails, self.heads = _tails(self.parent, self.last, self.depth, by_depth)
        # One byte for each entry keeps this in the fastest cache; 0 stands for a length above 16.
        self._lengths = np.where(self.depth > SLOT_BYTES, 0, self.depth).astype(np.uint8)
        self._max_depth = int(self.depth.max())

    def __len__(self) -> int:
        return len(self.parent)

    def entry(self, number: int) -> bytes:
        """The byte string of one number."""
        return self.decode([number])

    def encode(self, data: bytes) -> np.ndarray:
        """Numbers of the greedy longest-match parse: int32[T]."""
        if len(data) > BLOCK:
            return self._encode_long(data)
        return self._encode_short([data], np.array([0, len(data)]))[0]

    def decode(self, numbers) -> bytes:
        """Concatenation of the entries. Raises ValueError for a number outside the dictionary."""
        return self._decode_run([numbers], np.array([0, len(numbers)]))[0]

    def encode_batch(self, documents: Sequence[bytes], *, threads: int = 1) -> list[np.ndarray]:
        """`encode` of each document, several times faster than one by one where documents are short.

        Args:
          documents: byte strings.
          threads: how many work at a time; documents are shared out among them, one document stays with one.

        Returns:
          int32[T] for each document.
        """

        def encode(run, bounds):
            return [self._encode_long(run[0])] if bounds[-1] > BLOCK else self._encode_short(run, bounds)

        return _in_threads(encode, _runs(documents, BLOCK), threads)

    def decode_batch(self, sequences: Sequence, *, threads: int = 1) -> list[bytes]:
        """`decode` of each sequence, faster than one by one.

        Raises:
          ValueError: a number outside the dictionary.
        """
        return _in_threads(self._decode_run, _runs(sequences, BLOCK // 4), threads)

    def _encode_short(self, documents: Sequence[bytes], bounds: np.ndarray) -> list[np.ndarray]:
        numbers, token_bounds, _ = self._parse(_read_only(b"".join(documents)), bounds)
        ends = token_bounds.tolist()
        return [numbers[a:b].copy() for a, b in zip(ends, ends[1:], strict=False)]

    def _encode_long(self, document: bytes) -> np.ndarray:
        """Block by block, the state of the parse being carried over, so that memory stays bounded."""
        data, state, parts = _read_only(document), 0, []
        for start in range(0, len(data), BLOCK):
            block = data[start : start + BLOCK]
            bounds, last_block = np.array([0, len(block)]), start + BLOCK >= len(data)
            numbers, token_bounds, state = self._parse(block, bounds, state, unfinished=not last_block)
            parts.append(numbers[: token_bounds[1]].copy())
        return np.concatenate(parts)

    def _parse(self, data: np.ndarray, bounds: np.ndarray, state: int = 0, *, unfinished: bool = False):
        """Numbers of all texts, good until the next call; where each text's lie; and the state of the last text."""
        states, numbers = _SCRATCH.array("states", len(data), np.uint32), _SCRATCH.array("ids", len(data) + 1, np.int32)
        token_bounds = np.empty(len(bounds), np.int64)
        state = longest_match.parse(
            data, bounds, self.cells, self.ids, self.depth, np.uint32(state), unfinished, states, numbers, token_bounds
        )
        return numbers, token_bounds, state

    def checked(self, numbers) -> np.ndarray:
        """As int32[T]. Raises ValueError for a number outside the dictionary."""
        numbers = np.asarray(numbers).astype(np.int64)
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < len(self):
            raise self._outside(numbers)
        return numbers.astype(np.int32)

    def _joined(self, sequences: Sequence, total: int) -> np.ndarray:
        """All numbers as int32; what is of this width already is checked only while it is decoded."""
        if len(sequences) == 1:
            return sequences[0] if getattr(sequences[0], "dtype", None) == np.int32 else self.checked(sequences[0])
        buffer = _SCRATCH.array("numbers", total, np.int32)[:total]
        try:
            return np.concatenate(sequences, out=buffer, casting="no")
        except TypeError:
            return np.concatenate([self.checked(numbers) for numbers in sequences], out=buffer)

    def _outside(self, numbers: np.ndarray) -> ValueError:
        return ValueError(
            f"Numbers from {numbers.min()} to {numbers.max()} were given to a dictionary of {len(self)} "
            f"entries (0 to {len(self) - 1})."
        )

    def _decode_run(self, sequences: Sequence, bounds: np.ndarray) -> list[bytes]:
        """Fills one buffer after another and takes the documents out of it."""
        numbers = self._joined(sequences, int(bounds[-1]))
        text = _SCRATCH.array("text", BLOCK + self._max_depth + SLOT_BYTES, np.uint8)
        text_bounds = np.empty(len(bounds), np.int64)
        view = memoryview(text)
        tables = self.tails, self._lengths, self.depth, self.heads
        documents, begun, document, token = [], [], 0, 0
        while document < len(sequences):
            next_document, token, filled = _concatenate(
                numbers, bounds, document, token, tables, BLOCK, text, text_bounds
            )
            if filled < 0:
                raise self._outside(np.asarray(sequences[next_document]))
            ends = text_bounds[document : next_document + 1].tolist()
            texts = [view[begin:end].tobytes() for begin, end in zip(ends, ends[1:], strict=False)]
            if begun and texts:
                texts[0], begun = b"".join([*begun, texts[0]]), []
            documents += texts
            if next_document < len(sequences):
                begun.append(view[ends[-1] : filled].tobytes())
            document = next_document
        return documents


class _Scratch(threading.local):
    """Buffers that each thread uses again and again: memory fresh from the system costs more than filling it."""

    def __init__(self):
        self._arrays = {}

    def array(self, name: str, size: int, dtype) -> np.ndarray:
        """At least `size` elements of any content, good until the thread asks for the same name again."""
        if name not in self._arrays or len(self._arrays[name]) < size:
            self._arrays[name] = np.empty(size, dtype)
        return self._arrays[name]


_SCRATCH = _Scratch()


def _read_only(data: bytes) -> np.ndarray:
    array = np.frombuffer(data, np.uint8)
    array.flags.writeable = False  # bytes and bytearrays are one type to numba, so the loops are compiled once
    return array


def _runs(items: Sequence, size: int) -> Iterator[tuple[Sequence, np.ndarray]]:
    """Groups items in order: as many as fit into `size` together, or one that is longer.

    Yields:
      The items; where each lies in their concatenation, int64[D + 1].
    """
    bounds, begin = np.zeros(len(items) + 1, np.int64), 0
    np.cumsum(list(map(len, items)), out=bounds[1:])
    while begin < len(items):
        end = max(begin + 1, int(np.searchsorted(bounds, bounds[begin] + size, "right")) - 1)
        yield items[begin:end], bounds[begin : end + 1] - bounds[begin]
        begin = end


def _in_threads(work: Callable[[Sequence, np.ndarray], list], runs: Iterator[tuple], threads: int) -> list:
    if threads <= 1:
        return [result for run in runs for result in work(*run)]
    with ThreadPoolExecutor(threads) as pool:
        return [result for results in pool.map(lambda run: work(*run), runs) for result in results]


def _check_entries(parent: np.ndarray, last: np.ndarray) -> None:
    missing = 256 - len(np.unique(last[parent == -1]))
    if missing:
        raise ValueError(
            f"{missing} single bytes are missing from the dictionary; all 256 were expected. Build or fetch it again."
        )
    n_entries = len(np.unique(parent.astype(np.int64) * 256 + last))
    if n_entries < len(parent):
        raise ValueError(
            f"{len(parent) - n_entries} of {len(parent)} entries stand there twice; all different ones were expected. "
            "Build or fetch it again."
        )


def _depths(parent: np.ndarray) -> np.ndarray:
    """Bytes in each entry, by jumps towards the root that double in length."""
    depth, above = np.ones(len(parent), np.int32), parent.copy()
    if parent.min(initial=-1) >= -1 and parent.max(initial=-1) < len(parent):
        for _ in range(len(parent).bit_length() + 1):
            inner = np.flatnonzero(above >= 0)
            if not inner.size:
                return depth
            depth[inner] += depth[above[inner]]
            above[inner] = above[above[inner]]
    raise ValueError(
        "The parents hold a cycle or a number outside the dictionary. The dictionary was corrupted; build or fetch it "
        "again."
    )


@numba.njit(cache=True, nogil=True)
def _tails(parent, last, depth, by_depth):
    """Tails and heads; see `Dictionary`. Their size does not depend on how long the entries are."""
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


@intrinsic
def _copy_slot(typing_context, destination, source):
    """Copies 16 bytes from one address to another, neither of which need be aligned."""

    def generate(context, builder, signature, arguments):
        slot = ir.VectorType(ir.IntType(8), SLOT_BYTES)
        to, come_from = (builder.inttoptr(address, slot.as_pointer()) for address in arguments)
        builder.store(builder.load(come_from, align=1), to, align=1)
        return context.get_dummy_value()

    return numba.void(numba.uintp, numba.uintp), generate


@numba.njit(cache=True, nogil=True)
def _copy_long(to, slots, number, depth, heads):
    """Writes an entry of more than 16 bytes from its end, each piece overlapping the one before; returns its length."""
    node = number
    while node >= 0:
        _copy_slot(to + np.uint64(depth[node] - SLOT_BYTES), slots + np.uint64(SLOT_BYTES) * np.uint64(node))
        node = np.int64(heads[node])
    return np.uint64(depth[number])


@numba.njit(cache=True, nogil=True)
def _concatenate(numbers, bounds, document, token, tables, full, text, text_bounds):
    """Writes entries one after another until `full` bytes are filled or nothing is left.

    16 bytes are copied whatever the entry's length, unless it is longer; the next one overwrites what is too much.

    Args:
      numbers: int32[T], of all documents.
      bounds: int64[D + 1], where each document's numbers lie.
      document, token: where to begin.
      tables: tails, lengths, depth and heads of the dictionary.
      text: uint8[...], with room for the longest entry and 16 bytes above `full`.
      text_bounds: int64[D + 1], written: [d] to [d + 1] is where document d lies in `text`.

    Returns:
      The document and token to go on with, and the bytes filled; -1 if that token is outside the dictionary.
    """
    tails, lengths, depth, heads = tables
    to, slots = np.uint64(text.ctypes.data), np.uint64(tails.ctypes.data)
    n_entries, filled = np.uint64(len(depth)), np.uint64(0)
    text_bounds[document] = 0
    for d in range(document, len(bounds) - 1):
        t, end = max(token, bounds[d]), bounds[d + 1]
        while t < end:
            if filled >= np.uint64(full):
                return d, t, np.int64(filled)
            stop = min(end, t + 1 + np.int64(np.uint64(full) - filled) // SLOT_BYTES)  # so many short ones fit
            while t < stop:
                number = np.uint64(np.uint32(numbers[np.uint64(t)]))
                if number >= n_entries:
                    return d, t, -1
                length = np.uint64(lengths[number])
                if length:
                    _copy_slot(to + filled, slots + np.uint64(SLOT_BYTES) * number)
                else:
                    length, stop = _copy_long(to + filled, slots, np.int64(number), depth, heads), t + 1
                filled += length
                t += 1
        text_bounds[d + 1] = filled
    return len(bounds) - 1, bounds[-1], np.int64(filled)
