"""Strings with costs, and the parse of a text into those of least total cost.

The text is cut into segments (`coding.segments`) and these are folded (`coding.folding`), so that a word is the same
string however it is written. Each segment is parsed by itself. A language repeats its words, so what a segment was
parsed into is remembered: most of a text is then a lookup for each word. Costs are integers, so a parse depends on
nothing but the pieces.
"""

import re
import threading
from collections.abc import Sequence

import numba
import numpy as np

from compressed_lm.coding import folding, longest_match, segments
from compressed_lm.coding.batches import BLOCK, SCRATCH, in_threads, read_only, runs_of
from compressed_lm.coding.entries import SLOT_BYTES, copy_slot
from compressed_lm.coding.machine import load, prefetch

MAX_PIECES = 1 << 16
"""Numbers are remembered in 16 bits."""

MEMO_BITS = 17
_WORD = re.compile(rb"(?P<unusual>C?)(?P<capital>A?) (?P<letters>[a-z][^ A-Z]*)", re.DOTALL)
_REMEMBERED = 7  # pieces of a segment that have room beside its bytes
_AHEAD = 64  # segments that are cut before the first of them is looked up, since memory takes its time
_PIECES_AHEAD = 16  # of the one that is written: what is known of it is asked for
_MULTIPLIERS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], np.uint64)


class Pieces:
    """Strings of 1 to 16 bytes of folded text, numbered 0..V-1; each byte of `folding.ALPHABET` is among them.

    Any byte string encodes, any sequence of numbers decodes, and decode(encode(x)) == x.

    Attributes:
      strings: the strings by number.
      costs: uint16[V], what each adds to the cost of a parse.
      spaced: bool[513], whether words in each context (`folding.CONTEXTS`) usually have a space before them.
    """

    def __init__(self, strings: Sequence[bytes], costs, spaced=folding.SPACED):
        """Lays the pieces out for use.

        Args:
          strings: at most 65,536, all different.
          costs: integers from 1 to 65,535; a parse with the least sum is taken.
          spaced: bool[513].

        Raises:
          ValueError: too many, too long or equal strings, a missing byte, or costs that are none.
        """
        self.strings, given = list(strings), np.asarray(costs)
        _check(self.strings, given)
        self.costs, self.spaced = given.astype(np.uint16), np.asarray(spaced, bool)
        self._tables = *trie(self.strings), self.costs.astype(np.int32), self.spaced
        self._layout = _layout(self.strings, self.spaced)
        self._memo = _Memo()

    def __len__(self) -> int:
        return len(self.strings)

    def encode(self, data: bytes) -> np.ndarray:
        """Numbers of the parse of a text: int32[T]."""
        return self.encode_batch([data])[0]

    def encode_batch(self, documents: Sequence[bytes], *, threads: int = 1) -> list[np.ndarray]:
        """`encode` of each document, faster than one by one where documents are short.

        Args:
          documents: byte strings.
          threads: how many work at a time, each with a memory of its own.
        """
        return in_threads(self._encode_run, runs_of(documents, BLOCK), threads)

    def _encode_run(self, documents: Sequence[bytes], bounds: np.ndarray) -> list[np.ndarray]:
        data = read_only(b"".join([*documents, bytes(SLOT_BYTES)]))  # keys are loaded 16 bytes at a time
        numbers, places = SCRATCH.array("pieces", 4 * len(data), np.int32), np.empty(len(bounds), np.int64)
        _parse(data, bounds, *self._tables, self._memo.slots, self._memo.used, numbers, places)
        places = places.tolist()
        return [numbers[a:b].copy() for a, b in zip(places, places[1:], strict=False)]

    def decode(self, numbers, *, unfinished: bool = False) -> bytes:
        """The text of a sequence of numbers, or what is certain of it where others may follow (`unfinished`).

        Raises:
          ValueError: a number outside 0..V-1.
        """
        return self._decode_run([numbers], np.array([0, len(numbers)]), unfinished=unfinished)[0]

    def decode_batch(self, sequences: Sequence, *, threads: int = 1) -> list[bytes]:
        """`decode` of each sequence. Raises ValueError for a number outside 0..V-1."""
        return in_threads(self._decode_run, runs_of(sequences, BLOCK // 4), threads)

    def _decode_run(self, sequences: Sequence, bounds: np.ndarray, *, unfinished: bool = False) -> list[bytes]:
        numbers = np.concatenate([np.asarray(s) for s in sequences]) if len(sequences) > 1 else np.asarray(sequences[0])
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < len(self):
            raise ValueError(
                f"Numbers from {numbers.min()} to {numbers.max()} were given to {len(self)} pieces (0 to "
                f"{len(self) - 1})."
            )
        text = SCRATCH.array("joined", (SLOT_BYTES + 1) * (len(numbers) + 1), np.uint8)
        numbers, places = numbers.astype(np.int32, copy=False), np.empty(len(bounds), np.int64)
        _join(numbers, bounds, self._layout, self.spaced, unfinished, text, places)
        view, places = memoryview(text), places.tolist()
        return [view[begin:end].tobytes() for begin, end in zip(places, places[1:], strict=False)]


class _Memo(threading.local):
    """What segments were parsed into; each thread has its own. It holds what came first and forgets nothing.

    A slot is four words: the 16 bytes of a segment; then, from the lowest bits on, the number of its pieces (0 for an
    empty slot) and a tag, its length and whether its space is unusual, 8 bits each, and up to seven pieces of 16 bits.
    """

    def __init__(self):
        self.slots, self.used = np.zeros((1 << MEMO_BITS, 4), np.uint64), np.zeros(1, np.int64)


def _check(strings: list[bytes], costs: np.ndarray) -> None:
    if not len(strings) == len(costs) <= MAX_PIECES:
        raise ValueError(
            f"{len(strings)} pieces with {len(costs)} costs were given; at most {MAX_PIECES} with as many costs were "
            "expected."
        )
    if wrong := [s for s in strings if not 1 <= len(s) <= SLOT_BYTES]:
        raise ValueError(f"A piece of {len(wrong[0])} bytes was given; pieces of 1 to {SLOT_BYTES} were expected.")
    if twice := len(strings) - len(set(strings)):
        raise ValueError(f"{twice} pieces were given twice; all different ones were expected.")
    if missing := set(folding.ALPHABET).difference(strings):
        raise ValueError(
            f"{len(missing)} single bytes are missing from the pieces; all {len(folding.ALPHABET)} of folded text were "
            "expected."
        )
    if costs.min() < 1 or costs.max() > np.iinfo(np.uint16).max:
        raise ValueError(f"Costs from {costs.min()} to {costs.max()} were given; 1 to 65535 were expected.")


def trie(strings: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """The trie of all prefixes as a double array, and the number of the string at each of its bases; -1 where none is.

    See `longest_match.double_array`.
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
    """What decoding looks up for each string, and for each context.

    Returns:
      slots: uint8[V + 1, 16], the strings, and one row more for reading past the last.
      rows: uint64[V + 1, 4], all that is known of a string side by side, as each place in memory costs time. 16 bytes
        are what it stands for where nothing is known from before, if that is certain but for the space before a word.
        The third word has, from its lowest byte on: the length of that, or 0 where it is not certain; 1 where it begins
        with the space of a word, 2 where that is not as usual, 0 elsewhere; where the string's marks and spaces, and
        the letter after them, end (what follows stands for itself); the string's length; in 16 bits, one more than the
        context (`folding.context`) after it, 0 where its last two bytes do not tell.
      left_out: uint8[513, 3], 1 where, in a context, a space of each of the three kinds is left out.
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


@numba.njit(cache=True, nogil=True)
def least_cost(data, begin, end, cells, number, costs, best, back, numbers, n):
    """Writes the parse of a segment from index n; returns the index after it.

    Of parses of equal cost the one is taken that has its last piece from the earliest place, and so on backwards.

    Args:
      data: uint8[N].
      begin, end: where the folded segment lies.
      cells, number: from `trie`.
      costs: integers[V].
      best: integers[L + 1]; back: int32[L + 1, 2] for L bytes; both for the loop's own use.
      numbers: int32[...], written.
    """
    length = end - begin
    best[0] = 0
    for j in range(1, length + 1):
        best[j] = 1 << 30
    for i in range(length):
        base = np.uint32(0)
        for j in range(i, length):
            byte = data[begin + j]
            cell = cells[base + byte]
            if cell & np.uint32(255) != byte:
                break
            base = cell >> np.uint32(8)
            found = number[base]
            if found >= 0 and best[i] + costs[found] < best[j + 1]:
                best[j + 1] = best[i] + costs[found]
                back[j + 1, 0], back[j + 1, 1] = i, found
    count, j = 0, length
    while j > 0:
        count, j = count + 1, back[j, 0]
    place, j = n + count, length
    while j > 0:
        place -= 1
        numbers[place] = back[j, 1]
        j = back[j, 0]
    return n + count


@numba.njit(cache=True, nogil=True)
def _parse(data, bounds, cells, number, costs, spaced, slots, used, numbers, places):
    """Parses texts that stand one after another.

    Args:
      data: uint8[N + 16], the texts and 16 bytes more.
      bounds: int64[D + 1], where each text lies.
      cells, number, costs, spaced: the pieces.
      slots, used: the memory, see `_Memo`.
      numbers: int32[4 N], written.
      places: int64[D + 1], written: where the pieces of each text lie.
    """
    folded, best = np.empty(folding.MAX_BYTES, np.uint8), np.empty(folding.MAX_BYTES + 1, np.int32)
    back = np.empty((folding.MAX_BYTES + 1, 2), np.int32)
    begins, keys = np.empty(_AHEAD + 1, np.int64), np.empty((_AHEAD, 4), np.uint64)
    address, memory, ones = np.uint64(data.ctypes.data), np.uint64(slots.ctypes.data), ~np.uint64(0)
    n = 0
    places[0] = 0
    for d in range(len(bounds) - 1):
        i, stop = bounds[d], bounds[d + 1]
        while i < stop:
            n_cut = 0
            while n_cut < _AHEAD and i < stop:
                end = segments.segment_end(data, i, stop)
                length = end - i
                n_low, n_all = min(length, 8), min(length, SLOT_BYTES)
                low = load(address + np.uint64(i)) & (ones >> np.uint64(64 - 8 * n_low))
                half = np.uint64(32 - 4 * (n_all - n_low))  # in two steps, as no shift is by 64
                high = load(address + np.uint64(i + 8)) & (ones >> half >> half)
                tag = np.uint64(n_all + 32 * folding.is_unusual(data, bounds[d], i, end, spaced))
                slot = _first_slot(low, high, tag)
                prefetch(memory + np.uint64(32) * slot)
                begins[n_cut] = i
                keys[n_cut, 0], keys[n_cut, 1], keys[n_cut, 2], keys[n_cut, 3] = low, high, tag, slot
                n_cut, i = n_cut + 1, end
            begins[n_cut] = i
            for k in range(n_cut):
                low, high, tag, slot = keys[k, 0], keys[k, 1], keys[k, 2], keys[k, 3]
                length, found = begins[k + 1] - begins[k], False
                if length <= SLOT_BYTES:
                    slot, found = _find(slots, slot, low, high, tag)
                if found:
                    third = slots[slot, 2]
                    count = np.int64(third & np.uint64(255))
                    for m in range(3):  # all three, since a branch for each would cost more
                        numbers[n + m] = np.int32((third >> np.uint64(16 * (m + 1))) & np.uint64(0xFFFF))
                    if count > 3:
                        fourth = slots[slot, 3]
                        for m in range(3, count):
                            numbers[n + m] = np.int32(fourth & np.uint64(0xFFFF))
                            fourth >>= np.uint64(16)
                    n += count
                else:
                    begin = n
                    n_folded = folding.fold(data, begins[k], begins[k + 1], tag >> np.uint64(5) != 0, folded)
                    n = least_cost(folded, 0, n_folded, cells, number, costs, best, back, numbers, n)
                    if length <= SLOT_BYTES and n - begin <= _REMEMBERED and used[0] < len(slots) // 2:
                        used[0] += 1
                        _remember(slots[slot], low, high, tag, numbers[begin:n])
        places[d + 1] = n


@numba.njit(cache=True, nogil=True, inline="always")
def _first_slot(low, high, tag):
    """Where to look for a segment first."""
    mixed = (low ^ tag) * _MULTIPLIERS[0] + high * _MULTIPLIERS[1]
    return (mixed ^ (mixed >> np.uint64(29))) * _MULTIPLIERS[0] >> np.uint64(64 - MEMO_BITS)


@numba.njit(cache=True, nogil=True, inline="always")
def _find(slots, slot, low, high, tag):
    """The slot of a segment, from the first one on, and whether it is filled; else the free one that it may take."""
    while True:
        third = slots[slot, 2]
        if third == 0:
            return slot, False
        if slots[slot, 0] == low and slots[slot, 1] == high and (third >> np.uint64(8)) & np.uint64(255) == tag:
            return slot, True
        slot = (slot + np.uint64(1)) & np.uint64(len(slots) - 1)


@numba.njit(cache=True, nogil=True)
def _remember(slot, low, high, tag, numbers):
    third, fourth = np.uint64(len(numbers)) | tag << np.uint64(8), np.uint64(0)
    for k in range(len(numbers)):
        if k < 3:
            third |= np.uint64(numbers[k]) << np.uint64(16 * (k + 1))
        else:
            fourth |= np.uint64(numbers[k]) << np.uint64(16 * (k - 3))
    slot[0], slot[1], slot[2], slot[3] = low, high, third, fourth


@numba.njit(cache=True, nogil=True)
def _join(numbers, bounds, layout, spaced, unfinished, text, places):
    """Writes the unfolded strings of pieces one after another, 16 bytes at a time where they stand for themselves.

    Args:
      numbers: int32[T], of all texts.
      bounds: int64[D + 1], where each text's numbers lie.
      layout: from `_layout`.
      spaced: bool[513], see `Pieces`.
      unfinished: whether a last space, which may turn out to be that of a word, is left out.
      text: uint8[...], written, with 17 bytes of room for each piece and 17 more.
      places: int64[D + 1], written: where each text lies.
    """
    slots, rows, left_out = layout
    to, plain, folded = np.uint64(text.ctypes.data), np.uint64(rows.ctypes.data), np.uint64(slots.ctypes.data)
    state, filled, last = np.zeros(folding.STATE, np.bool_), 0, len(numbers) - 1
    places[0] = 0
    for d in range(len(bounds) - 1):
        begin, clean, context = places[d], True, np.int64(-1)
        for t in range(bounds[d], bounds[d + 1]):
            number, done = np.uint64(numbers[t]), 0
            prefetch(plain + np.uint64(32) * np.uint64(numbers[min(t + _PIECES_AHEAD, last)]))
            row = rows[number, 2]
            n_written = np.int64(row & np.uint64(255))
            if clean and n_written:
                if context < 0:  # what was written last is read again only where it has to be: that takes time
                    context = folding.context(text, begin, filled)
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
                filled = folding.unfold(slots[number, done], state, spaced, text, begin, filled)
                done, clean = done + 1, folding.is_clean(state)
            copy_slot(to + np.uint64(filled), folded + np.uint64(SLOT_BYTES) * number + np.uint64(done))
            filled += length - done
        filled = filled if unfinished else folding.finish(state, text, filled)
        state[:] = False
        places[d + 1] = filled
