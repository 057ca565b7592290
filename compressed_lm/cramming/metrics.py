"""Metrics of crammed vectors, in tokens and bits, computed from arrays.

Accuracies are shares of right tokens under teacher forcing. Losses are sums over the tokens of a text, including the
first one, in nats if the name says so and otherwise in bits.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

THRESHOLD = 0.99
"""Smallest mean accuracy at which a length counts as decoded; texts above it are below capacity."""


def longest_exact_prefix(written: Sequence[int], text: Sequence[int]) -> int:
    """Returns the number of generated tokens before the first one that differs from the text."""
    pairs = list(zip(written, text, strict=True))
    return next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))


def token_gain(right_with: int, right_without: int) -> int:
    """Returns the number of right tokens with the vectors minus the number without them."""
    return int(right_with) - int(right_without)


def information_gain_bits(nats_without: float, nats_with: float) -> float:
    """Returns the reduction of a text's code length by vectors, in bits.

    Args:
        nats_without: loss of the text after end-of-document, summed over its tokens.
        nats_with: loss of the text after the vectors.
    """
    return (nats_without - nats_with) / math.log(2)


def decoding_capacity(
    lengths: Sequence[int], accuracies: Sequence[float], *, threshold: float = THRESHOLD, unbroken: bool = False
) -> int:
    """Returns the largest length at which the mean accuracy reaches a threshold; 0 if none does.

    Args:
        lengths: tokens of each text.
        accuracies: accuracy of each text.
        threshold: 0.99 in the paper.
        unbroken: whether all shorter lengths must reach it, too; not required in the paper.
    """
    per_length, shares = np.asarray(lengths), np.asarray(accuracies, float)
    largest = 0
    for length in np.unique(per_length):
        if shares[per_length == length].mean() >= threshold:
            largest = int(length)
        elif unbroken:
            break
    return largest


def capacity_interval(
    lengths: Sequence[int],
    accuracies: np.ndarray,
    *,
    threshold: float = THRESHOLD,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[int, int]:
    """Returns the 95 % bootstrap interval of the decoding capacity (percentiles; texts are resampled).

    Args:
        lengths: int[P].
        accuracies: float[T, P], of each text at each length.
        threshold: as in `decoding_capacity`.
        resamples: number of resamples.
        seed: seed of the resamples.
    """
    shares = np.asarray(accuracies, float)
    draws = np.random.default_rng(seed).integers(0, len(shares), (resamples, len(shares)))
    reached = shares[draws].mean(axis=1) >= threshold
    capacities = np.where(reached, np.asarray(lengths)[None], 0).max(axis=1)
    low, high = np.percentile(capacities, [2.5, 97.5], method="inverted_cdf")
    return int(low), int(high)


@dataclasses.dataclass(frozen=True)
class Mean:
    """Mean over texts.

    Attributes:
        value: the mean; NaN for no texts.
        low, high: its 95 % interval by Student's t; NaN for fewer than two texts.
        n: number of texts.
    """

    value: float
    low: float
    high: float
    n: int


def mean(values: Sequence[float]) -> Mean:
    """Returns the mean of values with its interval."""
    array = np.asarray(values, float)
    n = len(array)
    if n < 2:
        return Mean(float(array[0]) if n else math.nan, math.nan, math.nan, n)
    half = float(stats.t.ppf(0.975, n - 1) * array.std(ddof=1) / math.sqrt(n))
    return Mean(float(array.mean()), float(array.mean()) - half, float(array.mean()) + half, n)


def above_capacity(accuracies: Sequence[float], *, threshold: float = THRESHOLD) -> np.ndarray:
    """Returns bool[N], which texts were not decoded (accuracy at most the threshold).

    Gains are averaged over these texts: the gain of a decoded text is limited by its own code length.
    """
    return np.asarray(accuracies, float) <= threshold


def theoretical_capacity(dimensions: int, bits: float, vocab_size: int) -> float:
    """Returns the tokens that `dimensions` numbers of `bits` each can encode: dimensions * bits / log2(vocab_size).

    Args:
        dimensions: numbers of all vectors, K * D.
        bits: bits per number; 16 in the paper, although its vectors have 32.
        vocab_size: V.
    """
    return dimensions * bits / math.log2(vocab_size)


def utilisation(gain: float, capacity: float) -> float:
    """Returns a token gain as a share of the theoretical capacity."""
    return gain / capacity


def bits_per_dimension(gain_bits: float, dimensions: int) -> float:
    """Returns an information gain divided by the numbers of all vectors."""
    return gain_bits / dimensions
