"""What crammed vectors are measured by: numbers of tokens and bits, from arrays. Nothing here knows a model.

Accuracies are shares of tokens that are right when the true ones before them are shown (teacher forcing). Losses are
sums over the tokens of a text, the first one included, in nats where a name says so and in bits otherwise.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

THRESHOLD = 0.99
"""Mean accuracy from which on a length counts as decoded, and an accuracy as that of a text below capacity."""


def longest_exact_prefix(written: Sequence[int], text: Sequence[int]) -> int:
    """Returns how many tokens were written as in the text before the first other one."""
    pairs = list(zip(written, text, strict=True))
    return next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))


def token_gain(right_with: int, right_without: int) -> int:
    """Returns the tokens that are right with the vectors less those that are right without them."""
    return int(right_with) - int(right_without)


def information_gain_bits(nats_without: float, nats_with: float) -> float:
    """Returns the bits that vectors save of a text's code length.

    Args:
        nats_without: loss of the text after end-of-document, summed over its tokens.
        nats_with: after the vectors.
    """
    return (nats_without - nats_with) / math.log(2)


def decoding_capacity(
    lengths: Sequence[int], accuracies: Sequence[float], *, threshold: float = THRESHOLD, unbroken: bool = False
) -> int:
    """Returns the largest length at which the mean accuracy reaches a threshold; 0 if none does.

    Args:
        lengths: tokens of each text.
        accuracies: of each text.
        threshold: 0.99 in the paper.
        unbroken: whether all shorter lengths have to reach it, too. The paper does not ask for that.
    """
    lengths, accuracies = np.asarray(lengths), np.asarray(accuracies, float)
    largest = 0
    for length in np.unique(lengths):
        if accuracies[lengths == length].mean() >= threshold:
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
    """Returns the 95 % interval of the decoding capacity: percentiles over texts drawn anew with replacement.

    Args:
        lengths: int[P].
        accuracies: float[T, P], of each text at each length.
        threshold: as of `decoding_capacity`.
        resamples: draws.
        seed: of the draws.
    """
    lengths, accuracies = np.asarray(lengths), np.asarray(accuracies, float)
    draws = np.random.default_rng(seed).integers(0, len(accuracies), (resamples, len(accuracies)))
    reached = accuracies[draws].mean(axis=1) >= threshold
    capacities = np.where(reached, lengths[None], 0).max(axis=1)
    low, high = np.percentile(capacities, [2.5, 97.5], method="inverted_cdf")
    return int(low), int(high)


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean over texts.

    Attributes:
        value: NaN of none.
        low, high: its 95 % interval by Student's t; NaN of fewer than two.
        n: texts.
    """

    value: float
    low: float
    high: float
    n: int


def mean(values: Sequence[float]) -> Mean:
    """Returns the mean of values with its interval."""
    values = np.asarray(values, float)
    n = len(values)
    if n < 2:
        return Mean(float(values[0]) if n else math.nan, math.nan, math.nan, n)
    half = float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / math.sqrt(n))
    return Mean(float(values.mean()), float(values.mean()) - half, float(values.mean()) + half, n)


def above_capacity(accuracies: Sequence[float], *, threshold: float = THRESHOLD) -> np.ndarray:
    """Returns bool[N], which texts were not decoded (accuracy of the threshold or less). Gains are averaged over these:
    of others the gain is all that there was to gain."""
    return np.asarray(accuracies, float) <= threshold


def slope_one_fit(bits_without: Sequence[float], bits_with: Sequence[float], accuracies: Sequence[float]) -> Mean:
    """Returns C of bits_with = bits_without - C, fitted by least squares to the texts above capacity: what vectors
    remove of any text, in bits."""
    chosen = above_capacity(accuracies)
    return mean((np.asarray(bits_without, float) - np.asarray(bits_with, float))[chosen])


def theoretical_capacity(dimensions: int, bits: float, vocab_size: int) -> float:
    """Returns the tokens that `dimensions` numbers of `bits` each can tell apart: dimensions * bits / log2(vocab_size).

    Args:
        dimensions: of all vectors together, K * D.
        bits: of a number; 16 in the paper, though its vectors have 32.
        vocab_size: ids that a token may have.
    """
    return dimensions * bits / math.log2(vocab_size)


def utilisation(gain: float, capacity: float) -> float:
    """Returns a token gain as a share of the theoretical capacity."""
    return gain / capacity


def bits_per_dimension(gain_bits: float, dimensions: int) -> float:
    """Returns an information gain over the numbers of all vectors."""
    return gain_bits / dimensions
