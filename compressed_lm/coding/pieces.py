"""Subword units with costs; a text is encoded as the pieces of lowest total cost.

The text is split into segments (`coding.segments`), which are folded (`coding.folding`), so that a word is the same
string in lower and upper case. Each segment is parsed independently. Words repeat, so the pieces of a segment are
cached (`coding.memo`), and most words take one lookup. Costs are integers, so a parse depends only on the pieces.

If folded text needs many pieces per byte, a shorter encoding is used (`coding.literal`), so that any n bytes are at
most 1.05 n + 20 pieces: see `coding.parsing`.
"""

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from compressed_lm.coding import boundaries, folding, longest_match, memo, parsing
from compressed_lm.coding.batches import BLOCK, SCRATCH, in_threads, read_only, runs_of
from compressed_lm.coding.compiled import njit
from compressed_lm.coding.entries import SLOT_BYTES, copy_slot
from compressed_lm.coding.machine import borrowed, prefetch
from compressed_lm.errors import InputError

MAX_PIECES = 1 << 16
"""Largest vocabulary: the cache has 16 bits per number."""

_WORD = re.compile(rb"(?P<unusual>C?)(?P<capital>A?) (?P<letters>[a-z][^ A-Z]*)", re.DOTALL)
_MOST_BYTES = 8  # of text per byte of folded text: 8 in a packed span of two distinct bytes, otherwise 1
_PIECES_AHEAD = 16  # the table row of this later piece is prefetched


class Pieces:
    """Strings of 1 to 16 bytes of folded text, numbered 0..V-1. Each byte of `folding.ALPHABET` is one of them.

    Any byte string encodes, any sequence of numbers decodes, and decode(encode(x)) == x.

    Attributes:
        strings: the strings by number.
        costs: uint16[V], cost of each piece in a parse.
        spaced: bool[513], whether words in each context (`folding.CONTEXTS`) have a space before them by default.
        rules: version of the encoding rules (`parsing.RULES`).
    """

    def __init__(
        self,
        strings: Sequence[bytes],
        costs: npt.ArrayLike,
        spaced: npt.ArrayLike = folding.SPACED,
        *,
        rules: int = parsing.RULES,
    ) -> None:
        """Builds the lookup tables.

        Args:
            strings: at most 65,536 distinct strings.
            costs: integers from 1 to 65,535; the parse with the lowest sum is chosen.
            spaced: bool[513].
            rules: 1 or 2.

        Raises:
            InputError: the rules are unknown, a string is too long or a duplicate, a byte is missing, there are too
                many strings, or a cost is invalid.
        """
        self.strings, given = list(strings), np.asarray(costs)
        _check(self.strings, given, rules)
        self.costs, self.spaced, self.rules = given.astype(np.uint16), np.asarray(spaced, bool), rules
        cells, number = trie(self.strings)
        single = np.zeros(256, np.int32)
        single[[s[0] for s in folding.ALPHABET]] = [number[cells[s[0]] >> np.uint32(8)] for s in folding.ALPHABET]
        self._tables = parsing.steps(cells, number, self.costs), number, single, self.spaced
        self._layout = _layout(self.strings, self.spaced)
        self._n_bytes = np.array([len(s) for s in self.strings], np.uint8)
        self._memo, self._space = memo.Memo(), parsing.Space()

    def __len__(self) -> int:
        return len(self.strings)

    def encode(self, data: bytes) -> np.ndarray:
        """Returns the numbers of a text's pieces, int32[T]."""
        return self.encode_batch([data])[0]

    def encode_batch(self, documents: Sequence[bytes], *, threads: int = 1) -> list[np.ndarray]:
        """Returns `encode` of each document; faster than single calls if documents are short.

        Args:
            documents: byte strings.
            threads: number of threads; each has its own cache.
        """
        return in_threads(self._encode_run, runs_of(documents, BLOCK), threads)

    def _encode_run(self, documents: Sequence[bytes], bounds: np.ndarray) -> list[np.ndarray]:
        data = read_only(b"".join([*documents, bytes(boundaries.PADDING)]))  # text is loaded 64 bytes at a time
        numbers, places = SCRATCH.array("pieces", 4 * len(data), np.int32), np.empty(len(bounds), np.int64)
        memory, space = (self._memo.slots, self._memo.key, self._memo.parsed), self._space.arrays
        parsing.parse(data, bounds, self._tables, memory, self.rules, space, numbers, places)
        bounds_of = places.tolist()
        return [numbers[a:b].copy() for a, b in zip(bounds_of, bounds_of[1:], strict=False)]

    def decode(self, numbers: Sequence[int] | np.ndarray, *, unfinished: bool = False) -> bytes:
        """Returns the text of a sequence of numbers.

        Args:
            numbers: int[T].
            unfinished: whether more numbers may follow; only the text that they cannot change is returned.

        Raises:
            InputError: a number is outside 0..V-1.
        """
        return self._decode_run([numbers], np.array([0, len(numbers)]), unfinished=unfinished)[0]

    def decode_batch(self, sequences: Sequence, *, threads: int = 1) -> list[bytes]:
        """Returns `decode` of each sequence. Raises ValueError for a number outside 0..V-1."""
        return in_threads(self._decode_run, runs_of(sequences, BLOCK // 4), threads)

    def _decode_run(self, sequences: Sequence, bounds: np.ndarray, *, unfinished: bool = False) -> list[bytes]:
        numbers = np.concatenate([np.asarray(s) for s in sequences]) if len(sequences) > 1 else np.asarray(sequences[0])
        if numbers.size and (
            numbers.view(np.uint32).max() >= len(self)
            if numbers.dtype == np.int32
            else not 0 <= numbers.min() <= numbers.max() < len(self)
        ):
            raise InputError(
                f"Numbers from {numbers.min()} to {numbers.max()} were given to {len(self)} pieces (0 to "
                f"{len(self) - 1})."
            )
        numbers, places = numbers.astype(np.int32, copy=False), np.empty(len(bounds), np.int64)
        n_folded = _folded_bytes(numbers, self._n_bytes)
        text = SCRATCH.array("joined", _MOST_BYTES * n_folded + 2 * SLOT_BYTES, np.uint8)
        _join(numbers, bounds, self._layout, self.spaced, unfinished, text, places)
        view, ends = text.data, places.tolist()
        return [view[begin:end].tobytes() for begin, end in zip(ends, ends[1:], strict=False)]


def _check(strings: list[bytes], costs: np.ndarray, rules: int) -> None:
    if rules not in (1, parsing.RULES):
        raise InputError(f"Rules of version {rules} were requested; 1 or {parsing.RULES} were expected.")
    if not len(strings) == len(costs) <= MAX_PIECES:
        raise InputError(
            f"{len(strings)} pieces with {len(costs)} costs were given; at most {MAX_PIECES} with as many costs were "
            "expected."
        )
    if wrong := [s for s in strings if not 1 <= len(s) <= SLOT_BYTES]:
        raise InputError(f"A piece of {len(wrong[0])} bytes was given; pieces of 1 to {SLOT_BYTES} were expected.")
    if twice := len(strings) - len(set(strings)):
        raise InputError(f"{twice} pieces were given twice; distinct pieces were expected.")
    if missing := set(folding.ALPHABET).difference(strings):
        raise InputError(
            f"{len(missing)} single bytes are missing in the pieces; all {len(folding.ALPHABET)} of folded text were "
            "expected."
        )
    if costs.min() < 1 or costs.max() > np.iinfo(np.uint16).max:
        raise InputError(f"Costs from {costs.min()} to {costs.max()} were given; 1 to 65535 were expected.")


def trie(strings: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the trie of all prefixes of strings.

    Returns:
        cells: uint32[C], see `longest_match.double_array`.
        number: int32[C], number of the string at each base; -1 if there is none.
    """
    prefixes = sorted({s[:n] for s in strings for n in range(1, len(s) + 1)})
    node = {prefix: i for i, prefix in enumerate(prefixes)}
    parent = np.array([node[p[:-1]] if len(p) > 1 else -1 for p in prefixes], np.int32)
    last = np.array([p[-1] for p in prefixes], np.uint8)
    cells, ids = longest_match.double_array(parent, last, np.argsort([len(p) for p in prefixes], kind="stable"))
    number = np.full(len(prefixes), -1, np.int32)
    number[[node[s] for s in strings]] = np.arange(len(strings), dtype=np.int32)
    return cells, number[ids]


def _layout(strings: Sequence[bytes], spaced: np.ndarray) -> tuple[np.ndarray, ...]:
    """Returns the tables for decoding.

    Returns:
        slots: uint8[V + 1, 16], the strings, and one more row for reading beyond the last.
        rows: uint64[V + 1, 4], all data of a string, contiguous in memory for speed. The first 16 bytes are its text if
            no marker is pending and the text is then fixed except for the space before a word. The third word has, from
            its lowest byte: the length of this text, or 0 if it is not fixed; 1 if it begins with the space of a word,
            2 if that space differs from the default, otherwise 0; the end of the string's markers and spaces and of the
            letter after them (later bytes represent themselves); the string's length; in 16 bits, the context
            (`folding.context`) after it plus one, or 0 if its last two bytes do not determine it.
        left_out: uint8[513, 3], for each context, 1 if a space of each of the three kinds is omitted.
    """
    slots, rows = np.zeros((len(strings) + 1, SLOT_BYTES), np.uint8), np.zeros((len(strings) + 1, 4), np.uint64)
    for i, string in enumerate(strings):
        slots[i, : len(string)], space = np.frombuffer(string, np.uint8), 0
        special = [place + 1 for place, byte in enumerate(string) if byte in b" ABC"]
        row = len(string) << 24 | (min(special[-1] + 1, len(string)) << 16 if special else 0)
        if word := _WORD.fullmatch(string):
            space = 2 if word["unusual"] else 1
            string = b" " + (word["letters"].capitalize() if word["capital"] else word["letters"])
        if word or not special:
            rows[i, :2] = np.frombuffer(string.ljust(SLOT_BYTES, b"\0"), np.uint64)
            row |= len(string) | space << 8
            if len(string) > (2 if space else 1):
                row |= (folding.context(np.frombuffer(string, np.uint8), -1, len(string)) + 1) << 32
        rows[i, 2] = row
    left_out = np.stack([np.zeros_like(spaced), ~spaced, spaced], axis=1).astype(np.uint8)
    return slots, rows, left_out


@njit
def _folded_bytes(numbers: np.ndarray, n_bytes: np.ndarray) -> int:
    """Returns the total length of pieces (bytes)."""
    total = 0
    for number in numbers:
        total += n_bytes[number]
    return total


@njit(nogil=True)
def _join(numbers, bounds, layout, spaced, unfinished, text, places):
    """Writes the unfolded strings of pieces one after another, 16 bytes at a time if no marker is pending.

    Args:
        numbers: int32[T], of all texts.
        bounds: int64[D + 1], bounds of each text's numbers.
        layout: from `_layout`.
        spaced: bool[513], see `Pieces`.
        unfinished: whether a last space is omitted, since it may belong to a later word.
        text: uint8[...], written; 8 bytes for each byte of the pieces and 32 more.
        places: int64[D + 1], written: bounds of each text.
    """
    slots, rows, left_out = layout
    to, plain, folded = np.uint64(text.ctypes.data), np.uint64(rows.ctypes.data), np.uint64(slots.ctypes.data)
    known, filled, last = np.zeros(folding.STATE, np.int64), np.int64(0), len(numbers) - 1
    state, output, strings, usual = borrowed(known), borrowed(text), borrowed(slots), borrowed(spaced)
    places[0] = 0
    for d in range(len(bounds) - 1):
        begin, clean, context = places[d], True, np.int64(-1)
        for t in range(bounds[d], bounds[d + 1]):
            number, done = np.uint64(numbers[t]), 0
            prefetch(plain + np.uint64(32) * np.uint64(numbers[min(t + _PIECES_AHEAD, last)]))
            row = rows[number, 2]
            n_written = np.int64(row & np.uint64(255))
            if clean and n_written:
                if context < 0:  # read the written text only if the context is unknown, since this is slow
                    context = folding.context(output, begin, filled)
                done = np.int64(left_out[context, (row >> np.uint64(8)) & np.uint64(255)])
                copy_slot(to + np.uint64(filled), plain + np.uint64(32) * number + np.uint64(done))
                filled += n_written - done
                context = np.int64(row >> np.uint64(32)) - 1
                continue
            context = np.int64(-1)
            tail, length = (
                np.int64((row >> np.uint64(16)) & np.uint64(255)),
                np.int64((row >> np.uint64(24)) & np.uint64(255)),
            )
            while done < length and not (clean and done >= tail):
                filled = folding.unfold(strings[number, done], state, usual, output, begin, filled)
                done, clean = done + 1, folding.is_clean(state)
            copy_slot(to + np.uint64(filled), folded + np.uint64(SLOT_BYTES) * number + np.uint64(done))
            filled += length - done
        filled = filled if unfinished else folding.finish(state, output, filled)
        state[:] = 0
        places[d + 1] = filled
