"""Byte strings with costs, and the parse of a text into those of least total cost; marks tell how words are written.

The text is cut into segments (`coding.segments`). A word is the same strings wherever it stands and however it is
written: it is spelled in small letters with a space before it, behind a mark if it begins with a capital or has
capitals only, and behind another if there is no space where there usually is one, or the other way round. What is usual
is known for each byte before a word, apart for those that have white space before them, as an opening quote has. Words
here begin with one of the letters a to z.

Each segment is parsed by itself. A language repeats its words, so what a segment was parsed into is remembered: most of
a text is then a lookup for each word. Costs are integers, so a parse depends on nothing but the pieces.
"""

import threading
from collections.abc import Sequence

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from compressed_lm.coding import longest_match, segments
from compressed_lm.coding.entries import BLOCK, SCRATCH, SLOT_BYTES, copy_slot, in_threads, read_only, runs_of

MAX_PIECES = 1 << 16
"""Numbers are remembered in 16 bits."""

MARKS = 3
"""After the strings come numbers that stand for no bytes: a capital follows; a word of capitals follows; the space
before the word that follows is not as usual."""

SINGLE = tuple(bytes([b]) for b in range(256) if not 65 <= b <= 90)
"""The single bytes that pieces must have: all but capitals, which are small letters behind marks."""

CONTEXTS = 513
"""What may stand before a word: a byte; a byte after white space, or with which a text begins (256 more); nothing."""

MEMO_BITS = 17
_REMEMBERED = 7  # pieces of a segment that have room beside its bytes
_MULTIPLIERS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], np.uint64)

SPACED = np.arange(CONTEXTS) < CONTEXTS - 1

# What capitals a segment has: none, its first letter, all letters, all letters of a segment that was cut (see `fold`).
PLAIN, CAPITAL, CAPITALS, CUT_CAPITALS = range(4)


class Pieces:
    """Byte strings of 1 to 16 bytes, numbered 0..S-1, `SINGLE` among them, and the marks, S to S + 2.

    Any byte string encodes, any sequence of numbers decodes, and decode(encode(x)) == x.

    Attributes:
      strings: the strings by number.
      costs: uint16[S], what each adds to the cost of a parse.
      spaced: bool[513], whether words in each context (see `CONTEXTS`) usually have a space before them.
    """

    def __init__(self, strings: Sequence[bytes], costs, spaced=None):
        """Lays the pieces out for use.

        Args:
          strings: at most 65,533, all different.
          costs: integers from 1 to 65,535; a parse with the least sum is taken.
          spaced: bool[513]; by default everywhere but at the beginning.

        Raises:
          ValueError: too many, too long or equal strings, a missing single byte, or costs that are none.
        """
        self.strings, given = list(strings), np.asarray(costs)
        _check(self.strings, given)
        self.costs = given.astype(np.uint16)
        self.spaced = SPACED if spaced is None else np.asarray(spaced, bool)
        self._tables = *trie(self.strings), self.costs.astype(np.int32), self.spaced
        self._lengths = np.array([*map(len, self.strings), *[0] * MARKS], np.int32)
        self._slots = np.zeros((len(self) + 1, SLOT_BYTES), np.uint8)  # one more, for reading past the last
        for slot, string in zip(self._slots, self.strings, strict=False):
            slot[: len(string)] = np.frombuffer(string, np.uint8)
        self._memo = _Memo()

    def __len__(self) -> int:
        return len(self.strings) + MARKS

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
        numbers, places = SCRATCH.array("pieces", 2 * len(data), np.int32), np.empty(len(bounds), np.int64)
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
        text = SCRATCH.array("joined", SLOT_BYTES * (len(numbers) + 1), np.uint8)
        numbers, places = numbers.astype(np.int32, copy=False), np.empty(len(bounds), np.int64)
        _join(numbers, bounds, self._slots, self._lengths, self.spaced, unfinished, text, places)
        view, places = memoryview(text), places.tolist()
        return [view[begin:end].tobytes() for begin, end in zip(places, places[1:], strict=False)]


class _Memo(threading.local):
    """What segments were parsed into; each thread has its own. It holds what came first and forgets nothing.

    A slot is four words: the 16 bytes of a segment; then, from the lowest bits on, the number of its pieces (0 for an
    empty slot) and of its bytes, 8 bits each, and up to seven pieces of 16 bits.
    """

    def __init__(self):
        self.slots, self.used = np.zeros((1 << MEMO_BITS, 4), np.uint64), np.zeros(1, np.int64)


def _check(strings: list[bytes], costs: np.ndarray) -> None:
    if not len(strings) == len(costs) <= MAX_PIECES - MARKS:
        raise ValueError(
            f"{len(strings)} pieces with {len(costs)} costs were given; at most {MAX_PIECES - MARKS} with as many "
            "costs were expected."
        )
    if wrong := [s for s in strings if not 1 <= len(s) <= SLOT_BYTES]:
        raise ValueError(f"A piece of {len(wrong[0])} bytes was given; pieces of 1 to {SLOT_BYTES} were expected.")
    if twice := len(strings) - len(set(strings)):
        raise ValueError(f"{twice} pieces were given twice; all different ones were expected.")
    if missing := set(SINGLE).difference(strings):
        raise ValueError(
            f"{len(missing)} single bytes are missing from the pieces; all {len(SINGLE)} but capitals were expected."
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


@intrinsic
def _load(typing_context, address):
    """The 8 bytes at an address, which need not be aligned, as a little-endian uint64."""

    def generate(context, builder, signature, arguments):
        return builder.load(builder.inttoptr(arguments[0], ir.IntType(64).as_pointer()), align=1)

    return numba.uint64(numba.uintp), generate


@numba.njit(cache=True, nogil=True, inline="always")
def _is_letter(byte):
    return segments.KINDS[byte] <= segments.CAPITAL


@numba.njit(cache=True, nogil=True, inline="always")
def context(text, begin, i):
    """What stands before place i of a text that begins at `begin`; see `CONTEXTS`."""
    if i == begin:
        return CONTEXTS - 1
    after_white = i == begin + 1 or segments.KINDS[text[i - 2]] == segments.WHITE
    return np.int64(text[i - 1]) + 256 * after_white


@numba.njit(cache=True, nogil=True)
def fold(data, begin, end, small):
    """Writes a segment in small letters, a word with a space before it.

    A word of capitals that was cut because it is too long is told apart: the letters after it might be small.

    Args:
      data: uint8[N].
      begin, end: where the segment lies, as `segments.segment_end` has it.
      small: uint8[MAX_BYTES + 1], written.

    Returns:
      What capitals it has, and the number of bytes written.
    """
    n, letters, capitals, first = 0, 0, 0, False
    if _is_letter(data[begin]):
        small[0] = segments.SPACE
        n = 1
    for i in range(begin, end):
        byte = data[i]
        capital = segments.KINDS[byte] == segments.CAPITAL
        if letters or (byte != segments.SPACE and byte != segments.APOSTROPHE):
            first |= capital and not letters
            letters += 1
        capitals += capital
        small[n] = byte + 32 if capital else byte
        n += 1
    if not first:
        return PLAIN, n
    if capitals == 1:
        return CAPITAL, n
    return (CUT_CAPITALS if end - begin == segments.MAX_BYTES else CAPITALS), n


@numba.njit(cache=True, nogil=True)
def least_cost(data, begin, end, cells, number, costs, best, back, numbers, n):
    """Writes the parse of a segment from index n; returns the index after it.

    Of parses of equal cost the one is taken that has its last piece from the earliest place, and so on backwards.

    Args:
      data: uint8[N].
      begin, end: where the segment lies.
      cells, number: from `trie`.
      costs: integers[S].
      best: integers[MAX_BYTES + 2]; back: int32[MAX_BYTES + 2, 2]; both for the loop's own use.
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
def _parse_segment(data, begin, end, cells, number, costs, small, best, back, numbers, n):
    """Writes the pieces of a segment, those for capitals among them, from index n; returns the index after them."""
    capitals, length = fold(data, begin, end, small)
    if capitals == CUT_CAPITALS:
        for i in range(length):
            if segments.KINDS[small[i]] == segments.SMALL:
                numbers[n] = len(costs)
                n += 1
            n = least_cost(small, i, i + 1, cells, number, costs, best, back, numbers, n)
        return n
    if capitals != PLAIN:
        numbers[n] = len(costs) + capitals - CAPITAL
        n += 1
    return least_cost(small, 0, length, cells, number, costs, best, back, numbers, n)


@numba.njit(cache=True, nogil=True)
def _parse(data, bounds, cells, number, costs, spaced, slots, used, numbers, places):
    """Parses texts that stand one after another.

    Args:
      data: uint8[N + 16], the texts and 16 bytes more.
      bounds: int64[D + 1], where each text lies.
      cells, number, costs, spaced: the pieces.
      slots, used: the memory, see `_Memo`.
      numbers: int32[2 N], written.
      places: int64[D + 1], written: where the pieces of each text lie.
    """
    small, best = np.empty(segments.MAX_BYTES + 1, np.uint8), np.empty(segments.MAX_BYTES + 2, np.int32)
    back = np.empty((segments.MAX_BYTES + 2, 2), np.int32)
    address, ones = np.uint64(data.ctypes.data), ~np.uint64(0)
    n = 0
    places[0] = 0
    for d in range(len(bounds) - 1):
        i, stop = bounds[d], bounds[d + 1]
        while i < stop:
            end = segments.segment_end(data, i, stop)
            length = end - i
            space = data[i] == segments.SPACE
            if _is_letter(data[i + 1] if space and length > 1 else data[i]):
                if space != spaced[context(data, bounds[d], i)]:
                    numbers[n] = len(costs) + MARKS - 1
                    n += 1
            if length > SLOT_BYTES:
                n = _parse_segment(data, i, end, cells, number, costs, small, best, back, numbers, n)
                i = end
                continue
            low, high = _load(address + np.uint64(i)), _load(address + np.uint64(i + 8))
            if length <= 8:
                low, high = low & (ones >> np.uint64(64 - 8 * length)), np.uint64(0)
            elif length < SLOT_BYTES:
                high &= ones >> np.uint64(128 - 8 * length)
            slot, found = _find(slots, low, high, np.uint64(length))
            if found:
                third = slots[slot, 2]
                count = np.int64(third & np.uint64(255))
                numbers[n] = np.int32((third >> np.uint64(16)) & np.uint64(0xFFFF))
                if count > 1:
                    numbers[n + 1] = np.int32((third >> np.uint64(32)) & np.uint64(0xFFFF))
                if count > 2:
                    numbers[n + 2] = np.int32(third >> np.uint64(48))
                    fourth = slots[slot, 3]
                    for k in range(3, count):
                        numbers[n + k] = np.int32(fourth & np.uint64(0xFFFF))
                        fourth >>= np.uint64(16)
                n += count
            else:
                begin = n
                n = _parse_segment(data, i, end, cells, number, costs, small, best, back, numbers, n)
                if n - begin <= _REMEMBERED and used[0] < len(slots) // 2:
                    used[0] += 1
                    _remember(slots[slot], low, high, np.uint64(length), numbers[begin:n])
            i = end
        places[d + 1] = n


@numba.njit(cache=True, nogil=True, inline="always")
def _find(slots, low, high, length):
    """The slot of a segment and whether it is filled; else the free one that it may take."""
    mixed = (low ^ length) * _MULTIPLIERS[0] + high * _MULTIPLIERS[1]
    slot = (mixed ^ (mixed >> np.uint64(29))) * _MULTIPLIERS[0] >> np.uint64(64 - MEMO_BITS)
    while True:
        third = slots[slot, 2]
        if third == 0:
            return slot, False
        if slots[slot, 0] == low and slots[slot, 1] == high and (third >> np.uint64(8)) & np.uint64(255) == length:
            return slot, True
        slot = (slot + np.uint64(1)) & np.uint64(len(slots) - 1)


@numba.njit(cache=True, nogil=True)
def _remember(slot, low, high, length, numbers):
    third, fourth = np.uint64(len(numbers)) | length << np.uint64(8), np.uint64(0)
    for k in range(len(numbers)):
        if k < 3:
            third |= np.uint64(numbers[k]) << np.uint64(16 * (k + 1))
        else:
            fourth |= np.uint64(numbers[k]) << np.uint64(16 * (k - 3))
    slot[0], slot[1], slot[2], slot[3] = low, high, third, fourth


@numba.njit(cache=True, nogil=True)
def _join(numbers, bounds, slots, lengths, spaced, unfinished, text, places):
    """Writes the strings of pieces one after another, 16 bytes at a time, as the marks ask for.

    A space before a letter is that of a word, which stands there or not. A mark of capitals looks past spaces and
    apostrophes for the first letter; words of capitals end where small letters do.

    Args:
      numbers: int32[T], of all texts.
      bounds: int64[D + 1], where each text's numbers lie.
      slots: uint8[V + 1, 16], the strings; lengths: int32[V].
      spaced: bool[513], see `Pieces`.
      unfinished: whether a last space, which may turn out to be that of a word, is left out.
      text: uint8[...], written, with 16 bytes of room for each piece and 16 more.
      places: int64[D + 1], written: where each text lies.
    """
    to, source = np.uint64(text.ctypes.data), np.uint64(slots.ctypes.data)
    first_mark = len(lengths) - MARKS
    filled = 0
    places[0] = 0
    for d in range(len(bounds) - 1):
        awaited = running = whole = False  # a letter to be made a capital; those after it as well; whether they will
        unusual = held = False  # the space before the next word; a space whose follower is not known yet
        for t in range(bounds[d], bounds[d + 1]):
            number = np.int64(numbers[t])
            if number == first_mark + MARKS - 1:
                unusual = True
                continue
            if number >= first_mark:
                awaited, running, whole = True, False, number > first_mark
                continue
            length, skip = np.int64(lengths[number]), 0
            byte = slots[number, 0]
            begins = held and _is_letter(byte)
            if held and not begins:
                text[filled] = segments.SPACE
                filled += 1
            held = False
            if byte == segments.SPACE and length > 1 and _is_letter(slots[number, 1]):
                begins, skip = True, 1
            begin = filled
            if begins:
                if spaced[context(text, places[d], filled)] != unusual:
                    text[filled] = segments.SPACE
                    filled += 1
                unusual = False
            copy_slot(to + np.uint64(filled), source + np.uint64(SLOT_BYTES * number + skip))
            filled += length - skip
            if text[filled - 1] == segments.SPACE:
                held = True
                filled -= 1
            if awaited or running:
                for i in range(begin, filled):
                    byte = text[i]
                    if awaited and (byte == segments.SPACE or byte == segments.APOSTROPHE):
                        continue
                    is_small = segments.KINDS[byte] == segments.SMALL
                    if is_small:
                        text[i] = byte - 32
                    awaited, running = False, is_small and whole
                    if not running:
                        break
        if held and not unfinished:
            text[filled] = segments.SPACE
            filled += 1
        places[d + 1] = filled
