"""Training of pieces: the unigram language model of Kudo 2018 (arXiv 1804.10959) on counted segments.

Frequent substrings of segments are the candidates. Expectation maximisation gives their probabilities, and the
candidates whose removal costs least are dropped, a quarter per round, until the requested number is left.
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from compressed_lm.coding import folding, parsing, pieces, segments
from compressed_lm.coding.compiled import njit
from compressed_lm.coding.entries import SLOT_BYTES
from compressed_lm.errors import InputError

COST_UNIT = 1 / 1024
"""Bits per cost unit."""

CANDIDATES = 8
"""Candidates per requested piece."""

_MARKS = (folding.CAPITAL, folding.CAPITALS, folding.UNUSUAL)
_KEPT, _STEPS = 0.75, 2  # share of candidates kept per round; steps of expectation maximisation before each round
_LEAST_COUNT = 3  # occurrences of a candidate in the text
_SCALE = 16.0  # factor per byte that cancels out; it keeps products of probabilities within range


@dataclasses.dataclass
class Counts:
    """Training data.

    Attributes:
        segments: count of each folded segment.
        spaced: bool[513], whether words in each context (`folding.CONTEXTS`) mostly have a space before them.
    """

    segments: collections.Counter[bytes]
    spaced: np.ndarray


def count(documents: Sequence[bytes]) -> Counts:
    """Counts the segments of documents."""
    words = np.zeros((folding.CONTEXTS, 2), np.int64)
    for document in documents:
        _count_words(np.frombuffer(document, np.uint8), words)
    spaced = np.where(words.any(1), words[:, 1] > words[:, 0], folding.SPACED)
    found: dict[bool, collections.Counter[bytes]] = {False: collections.Counter(), True: collections.Counter()}
    for document in documents:
        ends, unusual = _segments(np.frombuffer(document, np.uint8), spaced)
        bounds = [0, *ends.tolist()]
        parts = [document[begin:end] for begin, end in zip(bounds, bounds[1:], strict=False)]
        found[False].update(parts)
        found[True].update([parts[i] for i in np.flatnonzero(unusual)])
    found[False].subtract(found[True])
    folded: collections.Counter[bytes] = collections.Counter()
    buffer = np.empty(folding.MAX_BYTES, np.uint8)
    for unusual, counts in found.items():
        for segment, n in counts.items():
            length = folding.fold(np.frombuffer(segment, np.uint8), 0, len(segment), unusual, False, buffer)
            folded[buffer[:length].tobytes()] += n
    return Counts(folded, spaced)


@njit
def _count_words(text, words):
    begin = 0
    while begin < len(text):
        end = segments.segment_end(text, begin, len(text))
        space = np.int64(text[begin] == segments.SPACE and end > begin + 1)
        if folding.is_letter(text[begin + space]):
            words[folding.context(text, 0, begin), space] += 1
        begin = end


@njit
def _segments(text, spaced):
    """Returns the ends of a text's segments, int64[S], and whether their space differs from the default, bool[S]."""
    ends = segments.ends(text)
    unusual, begin = np.empty(len(ends), np.bool_), 0
    for i in range(len(ends)):
        unusual[i] = folding.is_unusual(text, 0, begin, ends[i], spaced)
        begin = ends[i]
    return ends, unusual


def learn(
    counts: Counts,
    n_pieces: int,
    *,
    marks_within: bool = False,
    progress: Callable[[int], None] = lambda n_dropped: None,
) -> pieces.Pieces:
    """Returns the pieces that encode counted segments in the fewest bits.

    Args:
        counts: counts of the text; segments that occur once are ignored.
        n_pieces: V, at most 65,536, `folding.ALPHABET` included.
        marks_within: whether a word and its marker may be one piece. Texts are then shorter, but a model must learn
            each form of a word separately.
        progress: called with the number of candidates dropped so far.

    Returns:
        Pieces in alphabetical order, with costs of -log2 p in units of 1/1024 bit.

    Raises:
        InputError: the text has too few substrings for this number of pieces.
    """
    repeated = {segment: n for segment, n in counts.segments.items() if n > 1}
    strings, first = _candidates(repeated, CANDIDATES * n_pieces, apart=not marks_within)
    if len(strings) < n_pieces:
        raise InputError(
            f"{n_pieces} pieces were requested, and the text has only {len(strings)} substrings that occur at least "
            f"{_LEAST_COUNT} times. Give more text, or request fewer pieces."
        )
    text = _flat(repeated)
    cells, number = pieces.trie(strings)
    lengths = np.array([len(s) for s in strings])
    probability = np.where(lengths == 1, np.maximum(first, 1), first).astype(float)
    while True:
        progress(len(strings) - len(np.unique(number[number >= 0])))
        for _ in range(_STEPS):
            probability /= probability.sum()
            expected = np.zeros(len(strings))
            _expect(*text, cells, number, probability * _SCALE**lengths, expected)
            probability = expected + 0.1
        probability /= probability.sum()
        left = np.unique(number[number >= 0])
        if len(left) == n_pieces:
            break
        use = np.zeros(len(strings), np.int64)
        _use(*text, parsing.steps(cells, number, _costs(probability)), number, use)
        loss = use * _excess(*_flat(dict.fromkeys(strings, 1))[:2], cells, number, _costs(probability))
        loss[lengths == 1] = np.iinfo(np.int64).max
        n_left = max(n_pieces, int(len(left) * _KEPT))
        dropped = left[np.argsort(-loss[left], kind="stable")[n_left:]]
        number[np.isin(number, dropped)] = -1
        probability[dropped] = 0.0
    return pieces.Pieces([strings[i] for i in left], _costs(probability)[left], counts.spaced)


def _candidates(counts: Mapping[bytes, int], n: int, *, apart: bool) -> tuple[list[bytes], np.ndarray]:
    """Returns the single bytes and the substrings that cover most text, in alphabetical order, and their counts."""
    found: collections.Counter[bytes] = collections.Counter()
    for segment, count in counts.items():
        # Only at character boundaries; an invalid byte is a segment of its own.
        begins = [i for i in range(len(segment) + 1) if i == len(segment) or segment[i] & 0xC0 != 0x80]
        for k, begin in enumerate(begins):
            for end in begins[k + 1 :]:
                if end - begin > SLOT_BYTES or (apart and end - begin > 1 and segment[end - 1] in _MARKS):
                    break
                found[segment[begin:end]] += count
                if apart and segment[begin] in _MARKS:
                    break
    longer = [(count * len(s), s) for s, count in found.items() if len(s) > 1 and count >= _LEAST_COUNT]
    longer.sort(reverse=True)
    single = {*folding.ALPHABET, *(s for s in found if len(s) == 1)}
    strings = sorted([*single, *(s for _, s in longer[: n - len(single)])])
    return strings, np.array([found[s] for s in strings])


def _flat(counts: Mapping[bytes, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the concatenated segments uint8[N], their bounds int64[S + 1] and their counts int64[S]."""
    bounds = np.zeros(len(counts) + 1, np.int64)
    np.cumsum([len(s) for s in counts], out=bounds[1:])
    return np.frombuffer(b"".join(counts), np.uint8), bounds, np.array(list(counts.values()), np.int64)


def _costs(probability: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.clip(np.round(-np.log2(probability) / COST_UNIT), 1, np.iinfo(np.uint16).max).astype(np.int64)


@njit
def _matches(data, begin, end, cells, number, firsts, matches):
    """Writes all occurrences of pieces in a segment, ordered by beginning, then by end.

    Args:
        data: uint8[N].
        begin, end: bounds of the segment of L bytes.
        cells, number: from `pieces.trie`; -1 for dropped pieces.
        firsts: int64[L + 1], written: the matches that begin at byte i are matches[firsts[i] : firsts[i + 1]].
        matches: int64[16 L, 2], written: end of each match, relative to the segment, and its piece.
    """
    n = 0
    for i in range(end - begin):
        firsts[i] = n
        base = np.uint32(0)
        for j in range(begin + i, end):
            cell = cells[base + data[j]]
            if cell & np.uint32(255) != data[j]:
                break
            base = cell >> np.uint32(8)
            if number[base] >= 0:
                matches[n, 0], matches[n, 1] = j + 1 - begin, number[base]
                n += 1
    firsts[end - begin] = n


@njit
def _expect(data, bounds, counts, cells, number, weight, expected):
    """Adds the expected counts of pieces over all parses of the segments (forward-backward algorithm).

    Args:
        data, bounds, counts: from `_flat`.
        cells, number: from `pieces.trie`; -1 for dropped pieces.
        weight: float64[V], scaled probabilities.
        expected: float64[V], added to.
    """
    forward, backward = np.empty(folding.MAX_BYTES + 1), np.empty(folding.MAX_BYTES + 1)
    firsts, matches = np.empty(folding.MAX_BYTES + 1, np.int64), np.empty((SLOT_BYTES * folding.MAX_BYTES, 2), np.int64)
    for s in range(len(counts)):
        length = bounds[s + 1] - bounds[s]
        _matches(data, bounds[s], bounds[s + 1], cells, number, firsts, matches)
        forward[: length + 1] = 0.0
        forward[0], backward[length] = 1.0, 1.0
        for i in range(length):
            for end, piece in matches[firsts[i] : firsts[i + 1]]:
                forward[end] += forward[i] * weight[piece]
        total = forward[length]
        if not 1e-250 < total < 1e250:  # out of range; needs dozens of very rare bytes
            continue
        for i in range(length - 1, -1, -1):
            backward[i] = 0.0
            for end, piece in matches[firsts[i] : firsts[i + 1]]:
                share = weight[piece] * backward[end]
                backward[i] += share
                expected[piece] += counts[s] * forward[i] * share / total


@njit
def _use(data, bounds, counts, steps, number, use):
    """Adds the counts of pieces in the best parses of the segments to `use`, int64[V]."""
    best, back = np.empty(folding.MAX_BYTES + 1, np.int64), np.empty((folding.MAX_BYTES + 1, 2), np.int32)
    numbers = np.empty(folding.MAX_BYTES, np.int32)
    for s in range(len(counts)):
        n = parsing.least_cost(data, bounds[s], bounds[s + 1], steps, number, best, back, numbers, 0)
        for k in range(n):
            use[numbers[k]] += counts[s]


@njit
def _excess(data, bounds, cells, number, costs):
    """Returns the extra cost of parsing each piece into other pieces, int64[V]; 0 for single bytes."""
    best = np.empty(SLOT_BYTES + 1, np.int64)
    firsts, matches = np.empty(SLOT_BYTES + 1, np.int64), np.empty((SLOT_BYTES * SLOT_BYTES, 2), np.int64)
    excess = np.zeros(len(bounds) - 1, np.int64)
    for s in range(len(bounds) - 1):
        length = bounds[s + 1] - bounds[s]
        if length == 1:
            continue
        _matches(data, bounds[s], bounds[s + 1], cells, number, firsts, matches)
        best[0] = 0
        best[1 : length + 1] = np.int64(1) << 40
        for i in range(length):
            for end, piece in matches[firsts[i] : firsts[i + 1]]:
                if piece != s:
                    best[end] = min(best[end], best[i] + costs[piece])
        excess[s] = best[length] - costs[s]
    return excess
