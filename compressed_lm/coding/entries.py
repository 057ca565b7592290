"""Byte strings by number and their concatenation: the decoder of codecs whose tokens are strings."""

from collections.abc import Sequence

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.extending import intrinsic

from compressed_lm.coding.batches import BLOCK, SCRATCH, in_threads, runs_of
from compressed_lm.coding.compiled import njit

SLOT_BYTES = 16
"""Bytes that decoding copies per entry, independent of the entry's length."""


class Entries:
    """Byte strings numbered 0..V-1, in a layout for fast concatenation.

    Attributes:
        depth: int32[V], bytes in the entry.
        tails: uint8[V, 16], the entry, zero-padded; the last 16 bytes of longer ones.
        heads: int32[V], the entry that is the longest proper prefix of 16, 32, 48, ... bytes; -1 if there is none.
    """

    def __init__(self, depth: np.ndarray, tails: np.ndarray, heads: np.ndarray) -> None:
        self.depth, self.tails, self.heads = depth, tails, heads
        # One byte per entry keeps this in the fastest cache; 0 marks a length above 16.
        self._lengths = np.where(depth > SLOT_BYTES, 0, depth).astype(np.uint8)
        self._max_depth = int(depth.max())

    def __len__(self) -> int:
        return len(self.depth)

    def decode(self, numbers: Sequence[int] | np.ndarray) -> bytes:
        """Returns the concatenation of entries. Raises ValueError for a number outside 0..V-1."""
        return self._decode_run([numbers], np.array([0, len(numbers)]))[0]

    def decode_batch(self, sequences: Sequence, *, threads: int = 1) -> list[bytes]:
        """Returns `decode` of each sequence; faster than single calls.

        Raises:
            ValueError: a number is outside 0..V-1.
        """
        return in_threads(self._decode_run, runs_of(sequences, BLOCK // 4), threads)

    def checked(self, numbers: npt.ArrayLike) -> np.ndarray:
        """Returns numbers as int32[T]. Raises ValueError for a number outside 0..V-1."""
        numbers = np.asarray(numbers).astype(np.int64)
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < len(self):
            raise self._outside(numbers)
        return numbers.astype(np.int32)

    def _joined(self, sequences: Sequence, total: int) -> np.ndarray:
        """Returns all numbers as int32. Arrays that already are int32 are checked later, during decoding."""
        if len(sequences) == 1:
            return sequences[0] if getattr(sequences[0], "dtype", None) == np.int32 else self.checked(sequences[0])
        buffer = SCRATCH.array("numbers", total, np.int32)[:total]
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
        """Fills a buffer repeatedly and copies the documents out of it."""
        numbers = self._joined(sequences, int(bounds[-1]))
        text = SCRATCH.array("text", BLOCK + self._max_depth + SLOT_BYTES, np.uint8)
        text_bounds = np.empty(len(bounds), np.int64)
        view = text.data
        tables = self.tails, self._lengths, self.depth, self.heads
        documents: list[bytes] = []
        begun: list[bytes] = []
        document, token = 0, 0
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


@intrinsic
def copy_slot(typing_context, destination, source):
    """Copies 16 bytes between two addresses, which need not be aligned."""

    def generate(context, builder, signature, arguments):
        slot = ir.VectorType(ir.IntType(8), SLOT_BYTES)
        to, come_from = (builder.inttoptr(address, slot.as_pointer()) for address in arguments)
        builder.store(builder.load(come_from, align=1), to, align=1)
        return context.get_dummy_value()

    return numba.void(numba.uintp, numba.uintp), generate


@njit(nogil=True)
def _copy_long(to, slots, number, depth, heads):
    """Writes an entry of more than 16 bytes in overlapping 16-byte parts, last part first; returns its length."""
    node = number
    while node >= 0:
        copy_slot(to + np.uint64(depth[node] - SLOT_BYTES), slots + np.uint64(SLOT_BYTES) * np.uint64(node))
        node = np.int64(heads[node])
    return np.uint64(depth[number])


@njit(nogil=True)
def _concatenate(numbers, bounds, document, token, tables, full, text, text_bounds):
    """Writes entries one after another until `full` bytes are filled or none is left.

    16 bytes are copied for every entry of up to 16 bytes; the next entry overwrites the excess.

    Args:
        numbers: int32[T], of all documents.
        bounds: int64[D + 1], bounds of each document's numbers.
        document, token: position to start from.
        tables: tails, lengths, depth and heads of the dictionary.
        text: uint8[...], with space for the longest entry and 16 more bytes after `full`.
        text_bounds: int64[D + 1], written: document d is text[text_bounds[d] : text_bounds[d + 1]].

    Returns:
        The document and token to continue from, and the bytes filled; -1 if that token is outside the dictionary.
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
                    copy_slot(to + filled, slots + np.uint64(SLOT_BYTES) * number)
                else:
                    length, stop = _copy_long(to + filled, slots, np.int64(number), depth, heads), t + 1
                filled += length
                t += 1
        text_bounds[d + 1] = filled
    return len(bounds) - 1, bounds[-1], np.int64(filled)
