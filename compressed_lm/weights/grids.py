"""Levels of scalar grids, and their mean squared error on N(0, 1) in closed form or by quadrature.

All functions use NumPy in float64 and run once per format, not in a training step.
"""

import functools
from collections.abc import Callable

import numpy as np
from jaxtyping import Float64
from scipy.special import ndtr, ndtri

Density = Callable[[np.ndarray], np.ndarray]
"""Probability, for each x, that the grid represents a weight x; an even function."""

DYADIC = 4096
"""Iteratively computed levels are rounded to multiples of 1 / DYADIC.

Sums of 128 such levels are exact in float32, so a Hadamard transform of quantised values gives the same bits in every
order of summation.
"""

NAN = ("none", "one", "ieee")
"""Meaning of the highest codes of each sign of a float format.

none: all codes are numbers. one: the last code is NaN. ieee: all codes with the highest exponent are infinity and NaN.
"""

NAMED = {(3, 4): "ieee", (4, 3): "one", (5, 2): "ieee"}
"""Value of `NAN` in the known 8-bit formats, by bits of exponent and mantissa.

Sources: E4M3 and E5M2 of OCP OFP8, float8_e3m4 of ml_dtypes. In formats of fewer bits (OCP MX) all codes are numbers.
"""

_QUADRATURE = 60_000  # midpoints over +-_TAIL; the relative error of a grid's integral is below 1e-4
_TAIL = 9.0


def integer_levels(bits: int) -> Float64[np.ndarray, " levels"]:
    """Returns the 2**bits odd integers from -(2**bits - 1): a uniform symmetric grid without zero."""
    return np.arange(-(2**bits) + 1, 2**bits, 2, dtype=np.float64)


def ternary_levels() -> Float64[np.ndarray, "3"]:
    """Returns -1, 0, 1."""
    return np.array([-1.0, 0.0, 1.0])


def float_max(exponent_bits: int, mantissa_bits: int, *, nan: str | None = None) -> float:
    """Returns the largest level of `float_levels`."""
    top = 2 ** (exponent_bits + mantissa_bits) - 1 - _special_codes(exponent_bits, mantissa_bits, nan)
    exponent, mantissa = divmod(top, 2**mantissa_bits)
    return (1 + mantissa / 2**mantissa_bits) * 2.0 ** (exponent - (2 ** (exponent_bits - 1) - 1))


def float_levels(exponent_bits: int, mantissa_bits: int, *, nan: str | None = None) -> Float64[np.ndarray, " levels"]:
    """Returns the values of a signed float format with subnormals, sorted; +0 and -0 are one level.

    The bias is 2**(e-1) - 1.

    Args:
        exponent_bits, mantissa_bits: e and m.
        nan: which codes are not numbers, one of `NAN`; by default as in the known format (`NAMED`): the maxima of
            E4M3, E5M2 and E3M4 are 448, 57344 and 15.5.
    """
    e, m = exponent_bits, mantissa_bits
    bias = 2 ** (e - 1) - 1
    fractions = np.arange(2**m) / 2**m
    normal = [(1 + fractions) * 2.0 ** (exponent - bias) for exponent in range(1, 2**e)]
    positive = np.concatenate([fractions * 2.0 ** (1 - bias), *normal])
    positive = positive[: len(positive) - _special_codes(e, m, nan)]
    return np.concatenate([-positive[:0:-1], positive])


def _special_codes(e: int, m: int, nan: str | None) -> int:
    return {"none": 0, "one": 1, "ieee": 2**m}[nan or NAMED.get((e, m), "none")]


@functools.cache
def lloyd_levels(n: int) -> Float64[np.ndarray, " {n}"]:
    """Returns the n levels of least mean squared error for N(0, 1) (Lloyd 1982, Max 1960), to 1 / DYADIC."""
    levels = ndtri((np.arange(n) + 0.5) / n) * np.sqrt(
        3
    )  # the density of the best levels is proportional to pdf**(1/3)
    for _ in range(30):  # Newton's method on "every level is the mean of its cell": tridiagonal, solved as dense
        edges = _edges(levels)
        mass, mean, pdf = np.diff(ndtr(edges)), -np.diff(_pdf(edges)), _pdf(edges)[1:-1]
        centre = mean / mass
        half = (edges[1:-1] - centre[:-1]) / mass[:-1] * pdf / 2, (centre[1:] - edges[1:-1]) / mass[1:] * pdf / 2
        slope = np.zeros((n, n))  # derivatives of cell means by the levels, whose midpoints are the edges
        index = np.arange(n - 1)
        slope[index, index] += half[0]
        slope[index, index + 1] += half[0]
        slope[index + 1, index] += half[1]
        slope[index + 1, index + 1] += half[1]
        levels = np.sort(levels - np.linalg.solve(np.eye(n) - slope, levels - centre))
    return np.round((levels - levels[::-1]) / 2 * DYADIC) / DYADIC


def grid_error(
    levels: np.ndarray, scale: float, density: Density | None = None, *, edges: np.ndarray | None = None
) -> float:
    """Returns the mean over N(0, 1) of `density(x) * (x - nearest scale * level)**2`; in closed form without density.

    Args:
        levels: float64[n], sorted.
        scale: multiplier of the levels and edges.
        density: the share of the weights x that the grid represents; None for all.
        edges: float64[n - 1], boundaries between neighbouring levels; None for their midpoints.
    """
    levels = levels * scale
    edges = None if edges is None else edges * scale
    if density is None:
        return float(truncated_error(levels, np.inf, edges=edges))
    x, weight = _midpoints()
    nearest = levels[np.searchsorted(_edges(levels)[1:-1] if edges is None else edges, x)]
    return float(np.sum(weight * density(x) * (x - nearest) ** 2))


def truncated_error(levels: np.ndarray, bound: float, *, edges: np.ndarray | None = None) -> float:
    """Returns the integral over |x| < bound of pdf(x) * (x - nearest level)**2 for N(0, 1), in closed form.

    Its absolute error is that of float64 cancellation, about 1e-15. `edges` are those of `grid_error`.
    """
    edges = _edges(levels) if edges is None else np.concatenate([[-np.inf], edges, [np.inf]])
    edges = np.clip(edges, -bound, bound)
    tails = np.where(np.isfinite(edges), edges, 0.0) * _pdf(edges)
    mass, mean, square = np.diff(ndtr(edges)), -np.diff(_pdf(edges)), np.diff(ndtr(edges) - tails)
    return float(np.sum(square - 2 * levels * mean + levels**2 * mass))


@functools.cache
def _optimum(content: bytes, density: Density | None) -> float:
    levels = np.frombuffer(content)
    error = lambda scale: grid_error(levels, scale, density)  # noqa: E731
    # The error of a float grid has many local minima, one per power of two: search everywhere, then refine the best.
    candidates = np.geomspace(0.3, 60.0, 160 if density else 1200) / levels[-1]
    best = candidates[np.argmin([error(scale) for scale in candidates])]
    width = candidates[1] / candidates[0] - 1
    for _ in range(5):
        candidates = best * (1 + np.linspace(-width, width, 11))
        best = candidates[np.argmin([error(scale) for scale in candidates])]
        width /= 4
    return float(best)


def optimal_scale(levels: np.ndarray, density: Density | None = None) -> float:
    """Returns the multiplier of the levels with the least mean squared error on N(0, 1).

    alpha* of the QuEST paper, where the grid spans [-1, 1], is this number times the largest level.

    Args:
        levels: float64[n], sorted.
        density: as for `grid_error`; it must be hashable, and equal only if it computes the same.
    """
    return _optimum(np.asarray(levels, np.float64).tobytes(), density)


def blockwise_error(
    levels: np.ndarray, scale_of: Callable[[float], float], size: int, *, outliers: float = 0.0
) -> float:
    """Returns the mean squared error on N(0, 1) of blocks whose scale is a function of their largest magnitude.

    It is one integral over this magnitude M: the weight of magnitude M, and the others, which are normal within +-M.

    Args:
        levels: float64[n], sorted.
        scale_of: returns the multiplier of the levels for a block with largest magnitude M.
        size: weights in a block.
        outliers: share of the weights, the largest ones, that are stored exactly outside the blocks.
    """
    bound = ndtri(1 - outliers / 2) if outliers else _TAIL
    nodes = (np.arange(4000) + 0.5) / 4000 * bound
    # M is the largest magnitude: the other weights are below it, or outliers.
    below = ndtr(nodes) - ndtr(-nodes) + outliers
    total = 0.0
    for m, share in zip(nodes, below, strict=True):
        grid = levels * scale_of(m)
        own = np.min((m - grid) ** 2)
        others = truncated_error(grid, m) if size > 1 else 0.0
        # The factor `size` (places of the maximum) cancels with the mean over `size` weights.
        total += 2 * _pdf(m) * (own * share + (size - 1) * others) * share ** (size - 2)
    return float(total * bound / len(nodes))


def _edges(levels: np.ndarray) -> np.ndarray:
    """Returns float64[n + 1], the boundaries of the cells of n levels."""
    return np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])


def _pdf(x: np.ndarray | float) -> np.ndarray:
    """Returns the density of N(0, 1)."""
    return np.exp(-(np.asarray(x) ** 2) / 2) / np.sqrt(2 * np.pi)


@functools.cache
def _midpoints() -> tuple[np.ndarray, np.ndarray]:
    """Returns (x, weight), float64: a midpoint rule for integrals over N(0, 1)."""
    x = ((np.arange(_QUADRATURE) + 0.5) / _QUADRATURE * 2 - 1) * _TAIL
    return x, _pdf(x) * (2 * _TAIL / _QUADRATURE)


def gaussian_mean(f: Density) -> float:
    """Returns the mean of f(x) over N(0, 1) by quadrature."""
    x, weight = _midpoints()
    return float(np.sum(weight * f(x)))
