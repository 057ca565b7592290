"""DeepShape: weights reshaped to a generalized Gaussian of another shape and scale, in the order of their ranks.

papers/002 section 4 (arXiv 2506.00486 v1-v3). Histogram specification, without loss or gradient: weights are fitted,
and each becomes the quantile of its rank in the target distribution, on a grid of 2**-13. A narrower target has a lower
entropy on that grid, as plainly scaled-down weights have. NumPy, on the host.

What differs from the authors' program:

- `adj_minnum=0` remaps all weights; there it leaves a single level.
- Ranks are those of the weights before rounding, and equal weights stay equal: the result of a weight depends on its
  value alone. There, weights of one level are told apart by where they stand in the model.
- A level takes the weights between its cumulative probabilities, and none is left over. There the level counts are
  rounded down, and the largest weights, as many as are then missing, keep their old values.
- Levels end where the remapped weights end, so they do not overtake the tails, whatever the mean.
"""

from collections.abc import Mapping

import numpy as np

from compressed_lm.errors import InputError
from compressed_lm.weights.gennorm import GeneralizedGaussian, fit_moments

METHODS = ("histogram", "smooth")
_RAREST = 1e-300  # tail probabilities below it count as it: the quantile of 0 is infinite


def reshape_weights(
    w,
    *,
    shape_factor: float = 0.8,
    scale_factor: float = 0.6,
    method: str = "histogram",
    fractional_bits: int = 13,
    adj_minnum: int = 0,
) -> np.ndarray:
    """Returns float32 of w's shape: weights of the same rank order with a target distribution.

    The fit is by moments around the mean; the target has the same mean, `shape_factor` times the shape and
    `scale_factor` times the scale alpha. The standard deviation changes with the shape, too: by the default factors it
    grows for weights of shape 0.91 or less, and so does the entropy for 0.80 or less.

    Args:
        w: float array, at least two different weights.
        shape_factor: the authors' `shape_scale`.
        scale_factor: the authors' `std_scale`.
        method: histogram: the authors' procedure, to multiples of 2**-fractional_bits; the levels are probable as the
            target's density at them. smooth: `smooth_map`, without rounding and for all weights.
        fractional_bits: for histogram, of the grid.
        adj_minnum: for histogram, the tail rule: weights beyond the smallest positive level that at most so many
            weights round to are rounded alone, and left out of the fit; 0 remaps all. 1,000 in the authors' program,
            for all weights of a model: in single matrices hardly a level has more.

    Raises:
        InputError: factors that are not above 0, another method, weights that are not finite, do not differ, or all
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
            f"All of {x.size:,} weights round to 0 with fractional_bits={fractional_bits}: the largest is "
            f"{np.abs(x).max():g}. Use more fractional_bits, or method=smooth."
        )
    levels[inner] = _specified(x[inner], target, steps, limit)
    return (levels / steps).astype(np.float32).reshape(w.shape)


def reshape_tensors(tensors: Mapping[str, np.ndarray], *, pooled: bool = False, **settings) -> dict[str, np.ndarray]:
    """Returns the tensors reshaped by name, each with a fit of its own or all with one.

    Give matrices only: in one fit norms at 1 pass for tails. Tensors of different widths together look like weights of
    a small shape, which the default factors make wider (see `reshape_weights`), each tensor by a factor of its own.

    Args:
        tensors: name -> float array.
        pooled: one fit for all, as the authors have it.
        settings: of `reshape_weights`.

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


def smooth_map(x, source: GeneralizedGaussian, target: GeneralizedGaussian) -> np.ndarray:
    """Returns float64 of x's shape, F'^-1(F(x)) for the cdfs F of the source and F' of the target; it never falls.

    A weight that the source makes rarer than 1e-300 becomes the quantile of that; with a smaller shape in the target,
    weights far out in the tail move further out.
    """
    distance = np.asarray(x, np.float64) - source.loc
    # Both are symmetric, and cdf and ppf are exact in the lower tail.
    tail = np.maximum(source.cdf(source.loc - np.abs(distance)), _RAREST)
    return target.loc + np.sign(distance) * (target.loc - target.ppf(tail))


def _check(shape_factor, scale_factor, method):
    for name, value in (("shape_factor", shape_factor), ("scale_factor", scale_factor)):
        if not 0 < value < np.inf:
            raise InputError(f"{name}={value} was given to DeepShape; expected a number above 0, such as 0.8.")
    if method not in METHODS:
        raise InputError(f"method={method} was given to DeepShape; expected {' or '.join(METHODS)}.")


def _fits(x, shape_factor, scale_factor):
    """Returns (source, target): the distribution of the weights and the one asked for."""
    source = fit_moments(x, loc=float(x.mean()) if x.size else 0.0)
    return source, GeneralizedGaussian(shape_factor * source.shape, scale_factor * source.scale, source.loc)


def _limit(levels, adj_minnum):
    """Returns the largest level to remap: the first of 1, 2, ... with at most `adj_minnum` weights."""
    largest = np.abs(levels).max(initial=0.0)
    if not adj_minnum:
        return largest
    positive, counts = np.unique(levels[levels > 0], return_counts=True)
    many = positive[counts > adj_minnum]
    common = np.arange(1, len(many) + 1)
    return min(largest, 1.0 + np.sum(many == common))


def _specified(x, target, steps, limit):
    """Returns float64, the level of each weight: the quantile of its rank among levels -limit to limit."""
    places = np.arange(-limit, limit + 1)
    cumulative = np.cumsum(target.pdf(places / steps))
    _, which, counts = np.unique(x, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2  # equal weights take the middle of their ranks
    chosen = np.searchsorted(cumulative / cumulative[-1], middle / x.size)
    return places[np.minimum(chosen, len(places) - 1)][which]
