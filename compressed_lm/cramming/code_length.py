"""Code length of a text under a model, measured by arithmetic coding: a check of its loss.

The range coder has 16-bit tables, which are too small for a vocabulary of 100,000 ids and for probabilities below
2**-16. So a token is encoded as a path: the vocabulary, ordered by probability, is repeatedly split into two parts with
probabilities as equal as possible, until one token is left. Each split is a binary symbol, whose outcomes are both
likely unless one token has nearly all of the probability.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from compressed_lm.coding import range_coder
from compressed_lm.coding.tables import TABLE_TOTAL
from compressed_lm.cramming.frozen import FrozenModel, probabilities


def encode(distributions: np.ndarray, ids: np.ndarray) -> bytes:
    """Returns the stream of tokens under their distributions.

    Args:
        distributions: float64[N, V].
        ids: int[N].
    """
    return range_coder.encode(*entries(distributions, ids))


def entries(distributions: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (below, freq), uint32[T] each: the table entries of all splits on the paths of tokens."""
    splits = [split for row, i in zip(distributions, ids, strict=True) for split in _path(row, i)]
    below, freq = np.array(splits, np.uint32).reshape(-1, 2).T
    return below, freq


def decode(stream: bytes, distributions: np.ndarray) -> np.ndarray:
    """Returns int32[N], the tokens of a stream, by the plain Python decoder; undoes `encode`."""
    decoder, ids = range_coder.Decoder(stream), []
    for row in distributions:
        order, sums = _ordered(row)
        low, high = 0, len(order)
        while high - low > 1:
            middle, freq = _split(sums, low, high)
            upper = decoder.symbol(np.array([0, freq, TABLE_TOTAL], np.uint32))
            low, high = (middle, high) if upper else (low, middle)
        ids.append(order[low])
    return np.array(ids, np.int32)


def coded_bits(model: FrozenModel, vectors: Sequence, texts: Sequence[np.ndarray], *, times: int = 1) -> float:
    """Returns the bits of texts in one stream, each encoded with the model's probabilities after its vectors.

    Args:
        model: the model.
        vectors: float[K, D] of each text.
        texts: int32[N] each.
        times: number of repetitions of all texts in the stream; the result is divided by it. This reduces the rounding
            to whole bytes.
    """
    each = [entries(probabilities(model, v, ids), ids) for v, ids in zip(vectors, texts, strict=True)]
    below, freq = (np.tile(np.concatenate(arrays), times) for arrays in zip(*each, strict=True))
    return 8 * len(range_coder.encode(below, freq)) / times


def coded_bits_alone(model: FrozenModel, texts: Sequence[np.ndarray], *, times: int = 1) -> float:
    """Returns the bits of texts in one stream, each encoded with the model's probabilities after end-of-document.

    This is their size after arithmetic coding with this model. `times` is as in `coded_bits`.
    """
    return coded_bits(model, [model.alone] * len(texts), texts, times=times)


def _path(row: np.ndarray, token: int) -> Iterator[tuple[int, int]]:
    """Yields (below, freq) of each split on the path to a token."""
    order, sums = _ordered(row)
    place, low, high = int(np.flatnonzero(order == token)[0]), 0, len(order)
    while high - low > 1:
        middle, freq = _split(sums, low, high)
        if place < middle:
            high = middle
            yield 0, freq
        else:
            low = middle
            yield freq, TABLE_TOTAL - freq


def _ordered(row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the tokens in increasing order of probability, int[V], and their cumulative probability, float64[V + 1].

    Unlikely tokens come first so that their sums are exact.
    """
    order = np.argsort(row, kind="stable")
    return order, np.concatenate([[0.0], np.cumsum(row[order])])


def _split(sums: np.ndarray, low: int, high: int) -> tuple[int, int]:
    """Returns (middle, freq) of the split of tokens low to high - 1; freq is the frequency of the lower part."""
    half = (sums[low] + sums[high]) / 2
    middle = int(np.clip(np.searchsorted(sums, half), low + 1, high - 1))
    if middle - 1 > low and half - sums[middle - 1] < sums[middle] - half:
        middle -= 1
    whole = sums[high] - sums[low]
    share = (sums[middle] - sums[low]) / whole if whole > 0 else 0.5
    return middle, int(np.clip(np.rint(share * TABLE_TOTAL), 1, TABLE_TOTAL - 1))
