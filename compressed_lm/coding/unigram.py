"""Pieces learned from text: the unigram language model of Kudo 2018 (arXiv 1804.10959) over counted segments.

Frequent substrings of segments are candidates. Expectation maximisation gives each its probability, and the candidates
whose loss would cost the text least are dropped, a quarter at a time, until as many are left as were asked for.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Mapping

import numba
import numpy as np

from compressed_lm.coding import pieces, segments
from compressed_lm.coding.entries import SLOT_BYTES

COST_UNIT = 1 / 1024
"""Bits in a unit of a cost."""

CANDIDATES = 8
"""Candidates for each piece that is wanted."""

_KEPT, _STEPS = 0.75, 2  # of the candidates in a round; of expectation maximisation before each
_LEAST_COUNT = 3  # of a candidate in the text
_SCALE = 16.0  # a factor for each byte, which cancels and keeps products of probabilities within range


@dataclasses.dataclass
class Counts:
    """What is learned from.

    Attributes:
      segments: how often each segment occurs, as `pieces.fold` writes it.
      words: int64[513, 2], how many words in each context (`pieces.CONTEXTS`) have no space before them, and one.
    """

    segments: collections.Counter
    words: np.ndarray


def count(documents: Iterable[bytes]) -> Counts:
    """Counts the segments of documents."""
    found, words = collections.Counter(), np.zeros((pieces.CONTEXTS, 2), np.int64)
    for document in documents:
        text = np.frombuffer(document, np.uint8)
        ends = segments.ends(text)
        _count_words(text, ends, words)
        bounds = [0, *ends.tolist()]
        found.update([document[begin:end] for begin, end in zip(bounds, bounds[1:], strict=False)])
    folded, small = collections.Counter(), np.empty(segments.MAX_BYTES + 1, np.uint8)
    for segment, n in found.items():
        _, length = pieces.fold(np.frombuffer(segment, np.uint8), 0, len(segment), small)
        folded[small[:length].tobytes()] += n
    return Counts(folded, words)


@numba.njit(cache=True)
def _count_words(text, ends, words):
    begin = 0
    for end in ends:
        space = np.int64(text[begin] == segments.SPACE and end > begin + 1)
        if segments.KINDS[text[begin + space]] <= segments.CAPITAL:
            words[pieces.context(text, 0, begin), space] += 1
        begin = end


def learn(counts: Counts, n_pieces: int, *, progress: Callable[[int], None] = lambda n_dropped: None) -> pieces.Pieces:
    """The pieces that code counted segments in fewest bits.

    Args:
      counts: of the text; segments that occur once are not looked at.
      n_pieces: V, at most 65,536; `pieces.SINGLE` and the marks are among them.
      progress: called with the number of candidates dropped so far.

    Returns:
      Pieces in alphabetical order, with costs of -log2 p in units of 1/1024 bit.

    Raises:
      ValueError: the text has too few substrings for so many pieces.
    """
    spaced = np.where(counts.words.any(1), counts.words[:, 1] > counts.words[:, 0], pieces.SPACED)
    counts = {segment: n for segment, n in counts.segments.items() if n > 1}
    n_strings = n_pieces - pieces.MARKS
    strings, first = _candidates(counts, CANDIDATES * n_strings)
    if len(strings) < n_strings:
        raise ValueError(
            f"{n_pieces} pieces were asked for, and the text has only {len(strings)} substrings that occur "
            f"{_LEAST_COUNT} times or more. Give more text, or ask for fewer pieces."
        )
    text = _flat(counts)
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
        if len(left) == n_strings:
            break
        use = np.zeros(len(strings), np.int64)
        _use(*text, cells, number, _costs(probability), use)
        loss = use * _excess(*_flat(dict.fromkeys(strings, 1))[:2], cells, number, _costs(probability))
        loss[lengths == 1] = np.iinfo(np.int64).max
        n_left = max(n_strings, int(len(left) * _KEPT))
        dropped = left[np.argsort(-loss[left], kind="stable")[n_left:]]
        number[np.isin(number, dropped)] = -1
        probability[dropped] = 0.0
    return pieces.Pieces([strings[i] for i in left], _costs(probability)[left], spaced)


def _candidates(counts: Mapping[bytes, int], n: int) -> tuple[list[bytes], np.ndarray]:
    """Single bytes and the substrings that cover most text, in alphabetical order, and how often each occurs."""
    found = collections.Counter()
    for segment, count in counts.items():
        # Between characters only; bytes that are none stand alone in their segments.
        places = [i for i in range(len(segment) + 1) if i == len(segment) or segment[i] & 0xC0 != 0x80]
        for k, begin in enumerate(places):
            for end in places[k + 1 :]:
                if end - begin > SLOT_BYTES:
                    break
                found[segment[begin:end]] += count
    longer = [(count * len(s), s) for s, count in found.items() if len(s) > 1 and count >= _LEAST_COUNT]
    longer.sort(reverse=True)
    single = {*pieces.SINGLE, *(s for s in found if len(s) == 1)}
    strings = sorted([*single, *(s for _, s in longer[: n - len(single)])])
    return strings, np.array([found[s] for s in strings])


def _flat(counts: Mapping[bytes, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All segments one after another uint8[N], where each lies int64[S + 1], and its count int64[S]."""
    bounds = np.zeros(len(counts) + 1, np.int64)
    np.cumsum([len(s) for s in counts], out=bounds[1:])
    return np.frombuffer(b"".join(counts), np.uint8), bounds, np.array(list(counts.values()), np.int64)


def _costs(probability: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.clip(np.round(-np.log2(probability) / COST_UNIT), 1, np.iinfo(np.uint16).max).astype(np.int64)


@numba.njit(cache=True)
def _expect(data, bounds, counts, cells, number, weight, expected):
    """Adds up how often each piece is expected in all parses of the segments.

    Args:
      data, bounds, counts: from `_flat`.
      cells, number: from `pieces.trie`; -1 for what was dropped.
      weight: float64[V], probabilities, scaled.
      expected: float64[V], added to.
    """
    forward, backward = np.empty(segments.MAX_BYTES + 2), np.empty(segments.MAX_BYTES + 2)
    for s in range(len(counts)):
        begin, length = bounds[s], bounds[s + 1] - bounds[s]
        forward[: length + 1] = 0.0
        forward[0], backward[length] = 1.0, 1.0
        for i in range(length):
            base = np.uint32(0)
            for j in range(i, length):
                cell = cells[base + data[begin + j]]
                if cell & np.uint32(255) != data[begin + j]:
                    break
                base = cell >> np.uint32(8)
                if number[base] >= 0:
                    forward[j + 1] += forward[i] * weight[number[base]]
        total = forward[length]
        if not 1e-250 < total < 1e250:  # out of range, which takes dozens of bytes that hardly occur
            continue
        for i in range(length - 1, -1, -1):
            backward[i] = 0.0
            base = np.uint32(0)
            for j in range(i, length):
                cell = cells[base + data[begin + j]]
                if cell & np.uint32(255) != data[begin + j]:
                    break
                base = cell >> np.uint32(8)
                found = number[base]
                if found >= 0:
                    share = weight[found] * backward[j + 1]
                    backward[i] += share
                    expected[found] += counts[s] * forward[i] * share / total


@numba.njit(cache=True)
def _use(data, bounds, counts, cells, number, costs, use):
    """Adds up how often each piece stands in the best parses of the segments: int64[V]."""
    best, back = np.empty(segments.MAX_BYTES + 2, np.int64), np.empty((segments.MAX_BYTES + 2, 2), np.int32)
    numbers = np.empty(segments.MAX_BYTES + 1, np.int32)
    for s in range(len(counts)):
        n = pieces.least_cost(data, bounds[s], bounds[s + 1], cells, number, costs, best, back, numbers, 0)
        for k in range(n):
            use[numbers[k]] += counts[s]


@numba.njit(cache=True)
def _excess(data, bounds, cells, number, costs):
    """What each piece would cost more, were it parsed into others: int64[V]; 0 for single bytes."""
    best = np.empty(SLOT_BYTES + 1, np.int64)
    excess = np.zeros(len(bounds) - 1, np.int64)
    for s in range(len(bounds) - 1):
        begin, length = bounds[s], bounds[s + 1] - bounds[s]
        if length == 1:
            continue
        best[0] = 0
        best[1 : length + 1] = np.int64(1) << 40
        for i in range(length):
            base = np.uint32(0)
            for j in range(i, length):
                cell = cells[base + data[begin + j]]
                if cell & np.uint32(255) != data[begin + j]:
                    break
                base = cell >> np.uint32(8)
                found = number[base]
                if found >= 0 and found != s:
                    best[j + 1] = min(best[j + 1], best[i] + costs[found])
        excess[s] = best[length] - costs[s]
    return excess
