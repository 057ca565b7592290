"""The code length of a text under a model, by coding it: a second measure of what its loss says.

The range coder has tables of 16 bits, which hold neither a vocabulary of 100,000 ids nor a probability below 2**-16. So
a token is coded as a path: the vocabulary, ordered by probability, is split where each half has as near half of the
probability as can be, again and again, until one token is left. Each turn is a symbol with two outcomes, both likely
unless one token has nearly all of the probability.
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
    """Returns (below, freq), uint32[T] each: the table entries of all turns on the paths of tokens."""
    turns = [turn for row, i in zip(distributions, ids, strict=True) for turn in _path(row, i)]
    below, freq = np.array(turns, np.uint32).reshape(-1, 2).T
    return below, freq


def decode(stream: bytes, distributions: np.ndarray) -> np.ndarray:
    """Returns int32[N], the tokens of a stream, by the readable decoder; undoes `encode`."""
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
    """Returns the bits of texts in one stream, each coded with what the model gives it after its vectors.

    Args:
        model: the model.
        vectors: float[K, D] of each text.
        texts: int32[N] each.
        times: how often the stream has all texts; the bits are of one time. A stream is whole bytes, which then
            matters so much less.
    """
    each = [entries(probabilities(model, v, ids), ids) for v, ids in zip(vectors, texts, strict=True)]
    below, freq = (np.tile(np.concatenate(arrays), times) for arrays in zip(*each, strict=True))
    return 8 * len(range_coder.encode(below, freq)) / times


def coded_bits_alone(model: FrozenModel, texts: Sequence[np.ndarray], *, times: int = 1) -> float:
    """Returns the bits of texts in one stream, each coded with what the model gives it after end-of-document: the size
    that arithmetic coding with this model compresses them to. `times` is as in `coded_bits`."""
    return coded_bits(model, [model.alone] * len(texts), texts, times=times)


def _path(row: np.ndarray, token: int) -> Iterator[tuple[int, int]]:
    """Yields (below, freq) of each turn on the way to a token."""
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
    """Returns (int[V], float64[V + 1]): the tokens, unlikely ones first so that their sums are exact, and the sums of
    their probabilities up to each."""
    order = np.argsort(row, kind="stable")
    return order, np.concatenate([[0.0], np.cumsum(row[order])])


def _split(sums: np.ndarray, low: int, high: int) -> tuple[int, int]:
    """Returns (middle, freq): where tokens low to high - 1 are split, and the frequency of the lower part."""
    half = (sums[low] + sums[high]) / 2
    middle = int(np.clip(np.searchsorted(sums, half), low + 1, high - 1))
    if middle - 1 > low and half - sums[middle - 1] < sums[middle] - half:
        middle -= 1
    whole = sums[high] - sums[low]
    share = (sums[middle] - sums[low]) / whole if whole > 0 else 0.5
    return middle, int(np.clip(np.rint(share * TABLE_TOTAL), 1, TABLE_TOTAL - 1))
