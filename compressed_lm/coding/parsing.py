"""Parser: texts to pieces of lowest total cost, segment by segment, as folded text or literal spans."""

import threading

import numpy as np

from compressed_lm.coding import boundaries, cheapest, choice, folding, literal, memo, recall, segments
from compressed_lm.coding.compiled import njit
from compressed_lm.coding.machine import borrowed, borrowed_all

RULES = 2
"""Version of the encoding rules. In version 1, which old vocabularies use, there are no literal spans, and each of 64
consecutive capitals has its own marker. The decoder reads both versions."""

_AHEAD = 128  # segments whose cache slots are prefetched before the first is looked up
_WINDOW = 4096  # bytes of text for which spans are chosen together


def steps(cells: np.ndarray, number: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Returns the trie for `least_cost`, uint64[C]: a cell, and above it the cost of its piece; 0 if it is not a piece.

    Args:
        cells, number: from `pieces.trie`; -1 for strings that must not be used.
        costs: integers[V], from 1 to 65,535.
    """
    found = number[cells >> np.uint32(8)]
    return np.where(found < 0, 0, costs[found].astype(np.uint64)) << np.uint64(32) | cells


@njit(nogil=True)
def least_cost(data, begin, end, steps, number, best, back, numbers, n):
    """Writes the lowest-cost parse of a segment to `numbers[n:]`; returns the index after it.

    Of parses with equal cost, the one whose last piece begins first is chosen, and so on backwards.

    Args:
        data: uint8[N].
        begin, end: bounds of the folded segment, of L bytes.
        steps: from `steps`.
        number: from `pieces.trie`.
        best: int64[L + 1], work space.
        back: int32[L + 1, 2], work space.
        numbers: int32[...], written.
        n: index of the next piece.
    """
    text, to = np.uint64(data.ctypes.data + begin), np.uint64(numbers.ctypes.data) + np.uint64(4) * np.uint64(n)
    tables = np.uint64(steps.ctypes.data), np.uint64(number.ctypes.data)
    return n + cheapest.write(
        text, end - begin, tables[0], tables[1], np.uint64(best.ctypes.data), np.uint64(back.ctypes.data), to
    )


class Space(threading.local):
    """Work space of `parse`; each thread has its own.

    Attributes:
        arrays: beginnings of segments, their keys, ends of their pieces; a folded segment, and two arrays for
            `cheapest`; for the segments of a window their cost in each encoding, where it came from, the better of two
            encodings, and the encoding chosen; the pieces of the folded ones and their ends; those of the unfolded ones
            and their ends.
    """

    def __init__(self) -> None:
        most, segment = _WINDOW + segments.MAX_BYTES, folding.MAX_BYTES + 1
        self.arrays = (
            *(np.empty(most + 1 + boundaries.SPARE, np.int64), np.empty((_AHEAD, 4), np.uint64)),
            *(np.empty(_AHEAD, np.int64), np.empty(segment, np.uint8)),
            *(np.empty(segment, np.uint64), np.empty(segment, np.uint64)),
            *(np.empty((most, 4), np.int32), np.empty((most, 4), np.uint8)),
            *(np.empty(most, np.uint8), np.empty(most, np.uint8)),
            *(np.empty(4 * most + 8, np.int32), np.zeros(most + 1, np.int64)),
            *(np.empty(2 * most + 8, np.int32), np.zeros(most + 1, np.int64)),
        )


@njit(nogil=True)
def parse(data, bounds, tables, memory, rules, space, numbers, places):
    """Parses concatenated texts.

    Args:
        data: uint8[N + 65], the texts and as many more bytes as `boundaries` reads.
        bounds: int64[D + 1], bounds of each text.
        tables: steps, number, the number of each single byte int32[256], spaced.
        memory: slots, key and parsed of `memo.Memo`.
        rules: see `RULES`.
        space: arrays of `Space`.
        numbers: int32[4 N + 8], written.
        places: int64[D + 1], written: bounds of each text's pieces.
    """
    data, numbers, tables, memory = borrowed(data), borrowed(numbers), borrowed_all(tables), borrowed_all(memory)
    space, d, i, n = borrowed_all(space), np.int64(0), np.int64(0), np.int64(0)
    places[0] = 0
    while True:
        d, i, n = _until_spans(data, bounds, d, i, n, tables, memory, rules, space, numbers, places)
        if d == len(bounds) - 1:
            return
        n, i = _with_spans(data, bounds[d], i, bounds[d + 1], tables, memory, space, numbers, n)


@njit(nogil=True)
def _until_spans(data, bounds, d, i, n, tables, memory, rules, space, numbers, places):
    """Parses texts up to the first position from which `_with_spans` has to continue.

    Args:
        d, i, n: text and position to start from, and the number of pieces before it. The others are of `parse`.

    Returns:
        The text (D if all are finished) and position to continue from, and the number of pieces before it.
    """
    begins, keys, ends = space[0], space[1], space[2]
    while d < len(bounds) - 1:
        stop = bounds[d + 1]
        while i < stop:
            begin, first = i, n
            n_cut = _cut(data, bounds[d], i, stop, stop, tables[3], memory[0], memory[1], begins, keys)
            i, n = begins[n_cut], _write(data, begins, keys, n_cut, tables, memory, rules, space, numbers, n, ends)
            if rules > 1 and 20 * (n - first) > 13 * (i - begin):
                return d, begin, first
        d += 1
        places[d] = n
    return d, i, n


@njit(nogil=True)
def _cut(data, text, i, limit, stop, spaced, slots, hash_key, begins, keys):
    """Splits off the next segments of a text and prefetches their cache slots; returns their number, at most 128.

    Args:
        data: uint8[N + 65].
        text, i, limit, stop: beginning of the text, position to start from, end of the segments' beginnings, end of
            the text.
        spaced, slots, hash_key: of the pieces and their `Memo`.
        begins: int64[225], written: beginning of each segment, and the end of the last.
        keys: uint64[128, 4], written, see `recall.find_keys`.
    """
    n, address = boundaries.find(data, i, limit, stop, _AHEAD, begins), np.uint64(data.ctypes.data)
    places = np.uint64(slots.ctypes.data), np.uint64(begins.ctypes.data), np.uint64(keys.ctypes.data)
    recall.find_keys(address, places[1], n, np.uint64(text), spaced, places[0], hash_key, places[2])
    return n


@njit(nogil=True)
def _write(data, begins, keys, n_cut, tables, memory, rules, space, numbers, n, ends):
    """Writes the pieces of the segments from `_cut` to `numbers[n:]`; returns the index after them.

    Args:
        data, begins, keys, n_cut: from `_cut`.
        tables, memory, rules, space: as in `parse`.
        numbers: int32[...], written.
        n: index of the next piece.
        ends: int64[...], written: the index after the pieces of each segment.
    """
    slots, key_at, to = np.uint64(memory[0].ctypes.data), np.uint64(keys.ctypes.data), np.uint64(numbers.ctypes.data)
    text, folded = np.uint64(data.ctypes.data), np.uint64(space[3].ctypes.data)
    steps, number = np.uint64(tables[0].ctypes.data), np.uint64(tables[1].ctypes.data)
    best, bases = np.uint64(space[4].ctypes.data), np.uint64(space[5].ctypes.data)
    k, parsed = np.int64(0), memory[2]
    while True:
        k, n = recall.recall(slots, key_at, k, n_cut, to, n, np.uint64(ends.ctypes.data))
        if k == n_cut:
            return n
        begin, length, tag = begins[k], begins[k + 1] - begins[k], keys[k, 2]
        n_folded = folding.fold_at(text + np.uint64(begin), length, tag >= recall.UNUSUAL, rules == 1, folded)
        at = to + np.uint64(4) * np.uint64(n)
        count = cheapest.write(folded, n_folded, steps, number, best, bases, at)
        parsed[0] += 1
        if length <= memo.BYTES and count <= memo.PIECES:
            memo.remember(slots, keys[k, 3], keys[k, 0], keys[k, 1], tag, at, count, np.uint64(parsed[0]))
        n += count
        ends[k] = n
        k += 1


@njit(nogil=True)
def _with_spans(data, text, begin, stop, tables, memory, space, numbers, n):
    """Writes a window of a text as folded segments and literal spans; returns the index after it and the window's end.

    Why n bytes of text are at most 1.05 n + 20 pieces: `_until_spans` keeps segments folded only if they take at most
    0.65 pieces per byte; all others are written here. A window can be one packed span of 1.036 pieces per byte and 6
    more, and the chosen encoding is longer than that by at most `literal.BIAS`. All windows of a text except the last
    have 4 kB, of which these 18 pieces are less than 0.5 %.

    Args:
        data, tables, memory, space: as in `parse`.
        text: beginning of the text.
        begin, stop: beginning of the window, and end of the text.
        numbers: int32[...], written.
        n: index of the next piece.
    """
    begins, keys, _, _, _, _, costs, come_from, ways, modes, folded, folded_ends, spelled, spelled_ends = space
    limit = min(begin + _WINDOW, stop)
    count, i, filled = np.int64(0), begin, np.int64(0)
    while i < limit:
        cut, ends = begins[count:], folded_ends[count + 1 :]
        n_cut = _cut(data, text, i, limit, stop, tables[3], memory[0], memory[1], cut, keys)
        filled = _write(data, cut, keys, n_cut, tables, memory, np.int64(RULES), space, folded, filled, ends)
        count, i = count + n_cut, cut[n_cut]
    _spell_all(data, begins, count, ways, tables, space, folded, folded_ends, spelled, spelled_ends)
    base = literal.alphabet(data, begin, i, np.empty(literal.MAX_ALPHABET, np.uint8))
    _price(data, begins, folded_ends, spelled_ends, ways, count, literal.byte_cost(base), costs)
    choice.choose(costs, literal.passing(base), count, come_from, modes)
    k, mode, single = np.int64(0), literal.FOLDED, tables[2]
    while k <= count:
        new = np.int64(modes[k]) if k < count else literal.FOLDED
        if new != mode:
            n, mode = _write_marks(mode, new, single, numbers, n), new
        if k == count:
            break
        if mode == literal.PACKED:
            first = begins[k]
            while k + 1 < count and modes[k + 1] == mode:
                k += 1
            digits = np.empty(2 * (begins[k + 1] - first) + 64, np.uint8)
            for digit in range(literal.pack(data, first, begins[k + 1], digits)):
                numbers[n] = single[digits[digit]]
                n += 1
        elif mode == literal.FOLDED:
            n = _copy(folded, folded_ends[k], folded_ends[k + 1], numbers, n)
        elif ways[k] == mode or ways[k] == literal.PACKED:
            n = _copy(spelled, spelled_ends[k], spelled_ends[k + 1], numbers, n)
        else:
            n = _spell(data, begins[k], begins[k + 1], mode, tables, space, numbers, n)
        k += 1
    return n, i


@njit(nogil=True)
def _spell(data, begin, end, mode, tables, space, numbers, n):
    """Writes the pieces of one unfolded segment to `numbers[n:]`; returns the index after them.

    They are not cached: they seldom repeat, and most are short.

    Args:
        data, tables, space: as in `parse`.
        begin, end: bounds of the segment.
        mode: `literal.AS_IT_IS` or `SWAPPED`.
        numbers: int32[...], written.
        n: index of the next piece.
    """
    steps, number = np.uint64(tables[0].ctypes.data), np.uint64(tables[1].ctypes.data)
    text, best = np.uint64(space[3].ctypes.data), np.uint64(space[4].ctypes.data)
    bases = np.uint64(space[5].ctypes.data)
    length = literal.spell(data, begin, end, mode, space[3])
    to = np.uint64(numbers.ctypes.data) + np.uint64(4) * np.uint64(n)
    return n + cheapest.write(text, length, steps, number, best, bases, to)


@njit(nogil=True)
def _spell_all(data, begins, count, ways, tables, space, folded, folded_ends, spelled, spelled_ends):
    """Writes the pieces of all segments of a window in the better unfolded encoding.

    Args:
        data, tables, space: as in `parse`.
        begins, count: bounds of the segments, and their number S.
        ways: uint8[S], written: the better encoding, see `literal.best_mode`.
        folded, folded_ends: the pieces of the folded segments, and the index after those of each.
        spelled, spelled_ends: the same, written.
    """
    n = np.int64(0)
    for k in range(count):
        begin, end = begins[k], begins[k + 1]
        ways[k] = literal.best_mode(data, begin, end)
        if ways[k] == literal.PACKED and not literal.has_control(data, begin, end):  # folding changes nothing
            n = _copy(folded, folded_ends[k], folded_ends[k + 1], spelled, n)
        else:
            mode = literal.SWAPPED if ways[k] == literal.SWAPPED else literal.AS_IT_IS
            n = _spell(data, begin, end, mode, tables, space, spelled, n)
        spelled_ends[k + 1] = n


@njit(nogil=True)
def _copy(draft, begin, end, numbers, n):
    """Copies `draft[begin:end]` to `numbers[n:]`; returns the index after them."""
    for place in range(begin, end):
        numbers[n] = draft[place]
        n += 1
    return n


@njit(nogil=True)
def _price(data, begins, folded_ends, spelled_ends, ways, count, packed_byte, costs):
    """Writes the cost of each segment in each encoding.

    The cost is an upper bound for the encoding that was not tried, and for a packed span, which may have fewer distinct
    bytes than the window.
    """
    for k in range(count):
        longest = length = begins[k + 1] - begins[k]
        for j in range(begins[k], begins[k + 1]):
            longest += literal.IS_CONTROL[data[j]]
        spelled = spelled_ends[k + 1] - spelled_ends[k]
        costs[k, literal.FOLDED] = (folded_ends[k + 1] - folded_ends[k]) * literal.UNIT
        costs[k, literal.AS_IT_IS] = (longest if ways[k] == literal.SWAPPED else spelled) * literal.UNIT
        costs[k, literal.SWAPPED] = (longest if ways[k] == literal.AS_IT_IS else spelled) * literal.UNIT
        costs[k, literal.PACKED] = length * packed_byte


@njit(nogil=True)
def _write_marks(mode, new, single, numbers, n):
    """Writes the markers that switch between two encodings to `numbers[n:]`; returns the index after them."""
    spelled = mode == literal.AS_IT_IS or mode == literal.SWAPPED
    if spelled and (new == literal.AS_IT_IS or new == literal.SWAPPED):
        numbers[n] = single[literal.CHANGE]
        return n + 1
    if spelled:
        numbers[n] = single[literal.END]
        n += 1
    if new != literal.FOLDED:
        numbers[n], numbers[n + 1] = single[literal.MARKS[new, 0]], single[literal.MARKS[new, 1]]
        n += 2
    return n
