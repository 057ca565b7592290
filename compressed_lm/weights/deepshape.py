"""DeepShape: remaps weights, in rank order, to a generalized Gaussian of another shape and scale.

papers/002 section 4 (arXiv 2506.00486 v1-v3). Histogram specification, without loss or gradient: a distribution is
fitted to the weights, and each weight becomes the quantile of its rank in the target distribution, on a grid of
2**-13. A narrower target has a lower entropy on that grid; scaling the weights down has the same effect. NumPy, on the
host.

Differences from the authors' program:

- `adj_minnum=0` remaps all weights; in their program it leaves a single level.
- Ranks are those of the weights before rounding, and equal weights stay equal: a result depends only on the weight's
  value. In their program, weights of one level are ranked by their place in the model.
- A level takes all weights between its cumulative probabilities. In their program the level counts are rounded down,
  and as many of the largest weights as are then missing keep their old values.
- The range of levels is that of the remapped weights, so they never exceed the tails, for any mean.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float32, Float64

from compressed_lm.errors import InputError
from compressed_lm.weights.gennorm import GeneralizedGaussian, fit_moments

METHODS = ("histogram", "smooth")
_RAREST = 1e-300  # smaller tail probabilities are raised to it, because the quantile of 0 is infinite


def reshape_weights(
    w: ArrayLike,
    *,
    shape_factor: float = 0.8,
    scale_factor: float = 0.6,
    method: str = "histogram",
    fractional_bits: int = 13,
    adj_minnum: int = 0,
) -> Float32[np.ndarray, "..."]:
    """Returns weights of w's shape and rank order with the target distribution.

    The fit is by moments around the mean. The target has the same mean, `shape_factor` times the shape and
    `scale_factor` times the scale alpha. The standard deviation also changes with the shape: with the default factors
    it grows for weights of shape at most 0.91, and the entropy grows for shape at most 0.80.

    Args:
        w: float array with at least two different weights.
        shape_factor: the authors' `shape_scale`.
        scale_factor: the authors' `std_scale`.
        method: histogram: the authors' procedure, to multiples of 2**-fractional_bits; levels have probabilities in
            proportion to the target's density. smooth: `smooth_map`, without rounding, for all weights.
        fractional_bits: for histogram, fractional bits of the grid.
        adj_minnum: for histogram, the tail rule. The limit is the smallest positive level with at most `adj_minnum`
            weights. Weights beyond it are only rounded, and are not part of the fit. 0 remaps all weights. The authors'
            program uses 1,000 for all weights of a model; in single matrices, few levels have more weights.

    Raises:
        InputError: a factor is not above 0, the method is unknown, or the weights are not finite, are all equal, or all
            round to 0.
    """
    _check(shape_factor, scale_factor, method)
    w = np.asarray(w)
    x = w.astype(np.float64).reshape(-1)
    if method == "smooth":
        return smooth_map(x, *_fits(x, shape_factor, scale_factor)).astype(np.float32).reshape(w.shape)
    steps = 2.0**fractional_bits
    levels = np.round(x * steps)
    limit = _limit(levels, adj_minnum)
    inner = ~(np.abs(levels) > limit)
    _, target = _fits(x[inner], shape_factor, scale_factor)
    if limit < 1:
        raise InputError(
            f"All of {x.size:,} weights round to 0 with fractional_bits={fractional_bits}; the largest is "
            f"{np.abs(x).max():g}. Use more fractional_bits, or method=smooth."
        )
    levels[inner] = _specified(x[inner], target, steps, limit)
    return (levels / steps).astype(np.float32).reshape(w.shape)


def reshape_tensors(
    tensors: Mapping[str, np.ndarray], *, pooled: bool = False, **settings: Any
) -> dict[str, np.ndarray]:
    """Returns the tensors after `reshape_weights`, with one fit per tensor or one for all.

    Give matrices only: in a pooled fit, norm scales around 1 count as tails. Pooled tensors of different widths look
    like weights of a small shape, which the default factors widen (see `reshape_weights`), each tensor by a different
    factor.

    Args:
        tensors: float arrays by name.
        pooled: whether one fit is used for all, as by the authors.
        settings: arguments of `reshape_weights`.

    Raises:
        InputError: as `reshape_weights`, with the tensor's name.
    """
    if not pooled:
        reshaped = {}
        for name, w in tensors.items():
            try:
                reshaped[name] = reshape_weights(w, **settings)
            except InputError as error:
                raise InputError(f"{name}: {error}") from error
        return reshaped
    if not tensors:
        return {}
    arrays = [np.asarray(w) for w in tensors.values()]
    flat = reshape_weights(np.concatenate([w.reshape(-1).astype(np.float32) for w in arrays]), **settings)
    parts = np.split(flat, np.cumsum([w.size for w in arrays])[:-1])
    return {name: part.reshape(w.shape) for name, part, w in zip(tensors, parts, arrays, strict=True)}


def smooth_map(x: ArrayLike, source: GeneralizedGaussian, target: GeneralizedGaussian) -> Float64[np.ndarray, "..."]:
    """Returns F'^-1(F(x)), of x's shape, for the CDFs F of the source and F' of the target; it never decreases.

    Tail probabilities of the source below 1e-300 are raised to 1e-300. If the target has a smaller shape, weights far
    out in the tails move further out.
    """
    distance = np.asarray(x, np.float64) - source.loc
    # Both are symmetric, and cdf and ppf are exact in the lower tail.
    tail = np.maximum(source.cdf(source.loc - np.abs(distance)), _RAREST)
    return target.loc + np.sign(distance) * (target.loc - target.ppf(tail))


def _check(shape_factor: float, scale_factor: float, method: str) -> None:
    for name, value in (("shape_factor", shape_factor), ("scale_factor", scale_factor)):
        if not 0 < value < np.inf:
            raise InputError(f"{name}={value} was given to DeepShape; expected a number above 0, such as 0.8.")
    if method not in METHODS:
        raise InputError(f"method={method} was given to DeepShape; expected {' or '.join(METHODS)}.")


def _fits(x: np.ndarray, shape_factor: float, scale_factor: float) -> tuple[GeneralizedGaussian, GeneralizedGaussian]:
    """Returns (source, target): the distribution of the weights and the target distribution."""
    source = fit_moments(x, loc=float(x.mean()) if x.size else 0.0)
    return source, GeneralizedGaussian(shape_factor * source.shape, scale_factor * source.scale, source.loc)


def _limit(levels: np.ndarray, adj_minnum: int) -> float:
    """Returns the largest level to remap: the first of 1, 2, ... with at most `adj_minnum` weights."""
    largest = np.abs(levels).max(initial=0.0)
    if not adj_minnum:
        return largest
    positive, counts = np.unique(levels[levels > 0], return_counts=True)
    many = positive[counts > adj_minnum]
    common = np.arange(1, len(many) + 1)
    return min(largest, 1.0 + np.sum(many == common))


def _specified(x: np.ndarray, target: GeneralizedGaussian, steps: float, limit: float) -> np.ndarray:
    """Returns the level of each weight, float64: the quantile of its rank among the levels -limit to limit."""
    places = np.arange(-limit, limit + 1)
    cumulative = np.cumsum(target.pdf(places / steps))
    _, which, counts = np.unique(x, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2  # equal weights get the middle of their ranks
    chosen = np.searchsorted(cumulative / cumulative[-1], middle / x.size)
    return places[np.minimum(chosen, len(places) - 1)][which]
