"""Parser: texts to pieces of lowest total cost, segment by segment, as folded text or literal spans."""

import numpy as np

from compressed_lm.coding import boundaries, folding, literal, memo, recall, segments
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
        begin, end: bounds of the folded segment.
        steps: from `steps`.
        number: from `pieces.trie`.
        best: int64[L + 1] for L bytes, work space.
        back: int32[L + 1, 2], work space.
        numbers: int32[...], written.
        n: index of the next piece.
    """
    length = end - begin
    best[0] = 0
    for j in range(1, length + 1):
        best[j] = 1 << 30
    for i in range(length):
        base, so_far = np.uint64(0), best[i]
        for j in range(i, length):
            byte = np.uint64(data[begin + j])
            step = steps[base + byte]
            if step & np.uint64(255) != byte:
                break
            base = step >> np.uint64(8) & np.uint64(0xFFFFFF)
            cost = np.int64(step >> np.uint64(32))
            if cost and so_far + cost < best[j + 1]:
                best[j + 1] = so_far + cost
                back[j + 1, 0], back[j + 1, 1] = i, base
    count, j = 0, length
    while j > 0:
        count, j = count + 1, back[j, 0]
    place, j = n + count, length
    while j > 0:
        place -= 1
        numbers[place] = number[back[j, 1]]
        j = back[j, 0]
    return n + count


@njit(nogil=True)
def parse(data, bounds, d, i, n, tables, memory, rules, numbers, places):
    """Parses concatenated texts, up to the first position from which `with_spans` has to continue.

    Args:
        data: uint8[N + 65], the texts and as many more bytes as `boundaries` reads.
        bounds: int64[D + 1], bounds of each text.
        d, i, n: text and position to start from, and the number of pieces before it.
        tables: steps, number, the number of each single byte int32[256], spaced.
        memory: slots, key and parsed of `memo.Memo`.
        rules: see `RULES`.
        numbers: int32[4 N], written from index n.
        places: int64[D + 1], written except the first: bounds of each text's pieces.

    Returns:
        The text (D if all are finished) and position to continue from, and the number of pieces before it.
    """
    begins, keys = np.empty(_AHEAD + 1 + boundaries.SPARE, np.int64), np.empty((_AHEAD, 4), np.uint64)
    work, ends = _work(), np.empty(_AHEAD, np.int64)
    data, numbers, tables, memory = borrowed(data), borrowed(numbers), borrowed_all(tables), borrowed_all(memory)
    while d < len(bounds) - 1:
        stop = bounds[d + 1]
        while i < stop:
            begin, first = i, n
            n_cut = _cut(data, bounds[d], i, stop, stop, tables[3], memory[0], memory[1], begins, keys)
            i, n = begins[n_cut], _write(data, begins, keys, n_cut, tables, memory, rules, work, numbers, n, ends)
            if rules > 1 and 20 * (n - first) > 13 * (i - begin):
                return d, begin, first
        d += 1
        places[d] = n
    return d, i, n


@njit(nogil=True)
def _work():
    """Returns work space: a folded segment, and `best` and `back` of `least_cost`."""
    size = folding.MAX_BYTES
    return np.empty(size, np.uint8), np.empty(size + 1, np.int64), np.empty((size + 1, 2), np.int32)


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
def _write(data, begins, keys, n_cut, tables, memory, rules, work, numbers, n, ends):
    """Writes the pieces of the segments from `_cut` to `numbers[n:]`; returns the index after them.

    Args:
        data, begins, keys, n_cut: from `_cut`.
        tables, memory, rules: as in `parse`.
        work: from `_work`.
        numbers: int32[...], written.
        n: index of the next piece.
        ends: int64[...], written: the index after the pieces of each segment.
    """
    (steps, number, _, _), (slots, _, parsed), (folded, best, back) = tables, memory, work
    to = np.uint64(slots.ctypes.data), np.uint64(keys.ctypes.data), np.uint64(numbers.ctypes.data)
    k = np.int64(0)
    while True:
        k, n = recall.recall(to[0], to[1], k, n_cut, to[2], n, np.uint64(ends.ctypes.data))
        if k == n_cut:
            return n
        begin, end, tag, first = begins[k], begins[k + 1], keys[k, 2], n
        n_folded = folding.fold(data, begin, end, tag >= recall.UNUSUAL, rules == 1, folded)
        n = least_cost(folded, 0, n_folded, steps, number, best, back, numbers, n)
        parsed[0] += 1
        if end - begin <= memo.BYTES and n - first <= memo.PIECES:
            memo.remember(slots, keys[k, 3], keys[k, 0], keys[k, 1], tag, numbers, first, n, parsed[0])
        ends[k] = n
        k += 1


@njit(nogil=True)
def with_spans(data, text, begin, stop, tables, memory, numbers, n):
    """Writes a window of a text as folded segments and literal spans; returns the index after it and the window's end.

    Why n bytes of text are at most 1.05 n + 20 pieces: `parse` keeps segments folded only if they take at most 0.65
    pieces per byte; all others are written here. A window can be one packed span of 1.036 pieces per byte and 6 more,
    and the chosen encoding is longer than that by at most `literal.BIAS`. All windows of a text except the last have
    4 kB, of which these 18 pieces are less than 0.5 %.

    Args:
        data, tables, memory: as in `parse`.
        text: beginning of the text.
        begin, stop: beginning of the window, and end of the text.
        numbers: int32[...], written.
        n: index of the next piece.
    """
    data, numbers, tables, memory = borrowed(data), borrowed(numbers), borrowed_all(tables), borrowed_all(memory)
    most, limit = min(_WINDOW + segments.MAX_BYTES, stop - begin), min(begin + _WINDOW, stop)
    begins, keys, costs = (
        np.empty(most + 1 + boundaries.SPARE, np.int64),
        np.empty((_AHEAD, 4), np.uint64),
        np.empty((most, 4), np.int32),
    )
    come_from, ways, modes = np.empty((most, 4), np.uint8), np.empty(most, np.uint8), np.empty(most, np.uint8)
    folded, folded_ends = np.empty(4 * most + 4, np.int32), np.zeros(most + 1, np.int64)
    spelled, spelled_ends = np.empty(2 * most, np.int32), np.zeros(most + 1, np.int64)  # the better of two encodings
    spare = np.empty(most + 1, np.int64)
    work, count, i, filled = _work(), np.int64(0), begin, np.int64(0)
    while i < limit:
        cut, ends = begins[count:], folded_ends[count + 1 :]
        n_cut = _cut(data, text, i, limit, stop, tables[3], memory[0], memory[1], cut, keys)
        filled = _write(data, cut, keys, n_cut, tables, memory, np.int64(RULES), work, folded, filled, ends)
        count, i = count + n_cut, cut[n_cut]
    _spell(data, begins, np.int64(0), count, literal.FOLDED, ways, tables, work, spelled, np.int64(0), spelled_ends)
    base = literal.alphabet(data, begin, i, np.empty(literal.MAX_ALPHABET, np.uint8))
    _price(data, begins, folded_ends, spelled_ends, ways, count, literal.byte_cost(base), costs)
    literal.choose(costs, literal.passing(base), count, come_from, modes)
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
            n = _spell(data, begins, k, k + 1, mode, ways, tables, work, numbers, n, spare)
        k += 1
    return n, i


@njit(nogil=True)
def _spell(data, begins, first, last, mode, ways, tables, work, numbers, n, ends):
    """Writes the pieces of unfolded segments to `numbers[n:]`; returns the index after them.

    They are not cached: they seldom repeat, and most are short.

    Args:
        data, tables: as in `parse`.
        begins: bounds of all segments.
        first, last: range of the segments to write.
        mode: `literal.AS_IT_IS` or `SWAPPED`; `literal.FOLDED` for the better one of each segment.
        ways: uint8[S], written: the better encoding, see `literal.best_mode`.
        work: from `_work`.
        numbers: int32[...], written.
        n: index of the next piece.
        ends: int64[S + 1], written: ends[k + 1] is the index after the pieces of segment k.
    """
    (steps, number, _, _), (spelled, best, back) = tables, work
    for k in range(first, last):
        begin, end = begins[k], begins[k + 1]
        ways[k] = literal.best_mode(data, begin, end)
        better = literal.SWAPPED if ways[k] == literal.SWAPPED else literal.AS_IT_IS
        length = literal.spell(data, begin, end, mode if mode else better, spelled)
        n = least_cost(spelled, 0, length, steps, number, best, back, numbers, n)
        ends[k + 1] = n
    return n


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
