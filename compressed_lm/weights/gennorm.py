"""Generalized Gaussian distribution: density, sampling, estimation from weights, and initialisation of weights.

p(x) = shape / (2 scale Gamma(1/shape)) exp(-|(x - loc) / scale|^shape): Laplace for shape 1, Gaussian for shape 2,
uniform in the limit of large shapes (papers/002 section 1, where the shape is nu and the scale alpha). Functions use
NumPy in float64 unless they mention JAX.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Float64
from scipy import special

from compressed_lm.errors import InputError

BOUNDS = (0.1, 3.0)
"""Default bounds of estimated shapes: the range of the authors' table."""

_LOG_UNIFORM = math.log(4 / 3)  # log moment ratio in the limit of large shapes
_NEWTON_STEPS = 6  # 4 are exact to rounding from shape 1, for shapes of 0.02 to 50
_CHUNK = 1 << 16  # float64 numbers that fit in the processor's cache


@dataclasses.dataclass(frozen=True)
class GeneralizedGaussian:
    """A generalized Gaussian distribution.

    Attributes:
        shape: nu, above 0; a smaller shape has a sharper peak and heavier tails.
        scale: alpha, above 0; sqrt(2) standard deviations for shape 2.
        loc: mean and median.
    """

    shape: float
    scale: float
    loc: float = 0.0

    def __post_init__(self) -> None:
        for field in ("shape", "scale"):
            if not 0 < getattr(self, field) < math.inf:
                raise InputError(
                    f"{field}={getattr(self, field)} was given to a generalized Gaussian; expected a number above 0."
                )

    @classmethod
    def from_std(cls, shape: float, std: float, *, loc: float = 0.0) -> "GeneralizedGaussian":
        """Returns the distribution with a shape and a standard deviation."""
        return cls(shape, std * unit_scale(shape), loc)

    @property
    def std(self) -> float:
        """Standard deviation."""
        return self.scale / unit_scale(self.shape)

    @property
    def entropy(self) -> float:
        """Differential entropy in nats."""
        inverse = 1 / self.shape
        return inverse + math.log(2 * self.scale * inverse) + math.lgamma(inverse)

    def logpdf(self, x: ArrayLike) -> Float64[np.ndarray, "..."]:
        """Returns the log density in nats at x, of x's shape."""
        return 1 / self.shape - self.entropy - np.abs(self._standard(x)) ** self.shape

    def pdf(self, x: ArrayLike) -> Float64[np.ndarray, "..."]:
        """Returns the density at x, of x's shape."""
        return np.exp(self.logpdf(x))

    def cdf(self, x: ArrayLike) -> Float64[np.ndarray, "..."]:
        """Returns the probability of at most x, of x's shape; exact to rounding also in the lower tail."""
        z = self._standard(x)
        tail = special.gammaincc(1 / self.shape, np.abs(z) ** self.shape) / 2
        return np.where(z < 0, tail, 1 - tail)

    def ppf(self, u: ArrayLike) -> Float64[np.ndarray, "..."]:
        """Returns the quantiles of probabilities u, of u's shape; NaN outside [0, 1]."""
        u, a = np.asarray(u, np.float64), 1 / self.shape
        inner = np.abs(2 * u - 1)
        # Two functions: each is exact if its argument is small, one near the middle, the other in the tails.
        power = np.where(inner < 0.5, special.gammaincinv(a, inner), special.gammainccinv(a, 2 * np.minimum(u, 1 - u)))
        return self.loc + self.scale * np.sign(2 * u - 1) * power**a

    def sample(
        self, key: jax.Array | np.random.Generator, shape: tuple[int, ...] = (), *, dtype: DTypeLike = "float32"
    ) -> jax.Array | np.ndarray:
        """Returns independent draws: loc + scale G^(1/shape) with a random sign, G ~ Gamma(1/shape, 1).

        Args:
            key: a JAX random key, for a jax.Array of `dtype` (traceable), or a NumPy Generator, for a float64 array.
            shape: shape of the result.
            dtype: type of the JAX result; draws are computed in float32.
        """
        if isinstance(key, np.random.Generator):
            magnitude = key.standard_gamma(1 / self.shape, shape) ** (1 / self.shape)
            return self.loc + self.scale * magnitude * (2.0 * key.integers(0, 2, shape) - 1)
        return (self.loc + _draw(key, shape, self.shape, self.scale)).astype(dtype)

    def _standard(self, x: ArrayLike) -> np.ndarray:
        return (np.asarray(x, np.float64) - self.loc) / self.scale


def unit_scale(shape: float) -> float:
    """Returns the scale for a shape and standard deviation 1: sqrt(Gamma(1/nu) / Gamma(3/nu))."""
    return math.exp((math.lgamma(1 / shape) - math.lgamma(3 / shape)) / 2)


def moment_ratio(shape: ArrayLike) -> Any:
    """Returns rho = E[x^2] / E[|x|]^2 of a shape: Gamma(1/nu) Gamma(3/nu) / Gamma(2/nu)^2.

    It falls with the shape, from infinity to 4/3. papers/002 section 1.

    Args:
        shape: float or array (the result is float64), or jax.Array, possibly traced (the result is float32).
    """
    if isinstance(shape, jax.Array):
        return jnp.exp(_log_ratio(shape.astype(jnp.float32), jax.scipy.special.gammaln))
    return np.exp(_log_ratio(np.asarray(shape, np.float64), special.gammaln))[()]


def shape_from_ratio(ratio: ArrayLike, *, bounds: tuple[float, float] = BOUNDS, table: bool = False) -> Any:
    """Returns the shape with a given moment ratio: the inverse of `moment_ratio`.

    Args:
        ratio: E[x^2] / E[|x|]^2. A float or array gives float64 with a relative error of 1e-10. A jax.Array, possibly
            traced, gives float32 with a relative error of 1e-4 for bounds of 0.1 to 10; NaN (from weights that are all
            zero) gives NaN.
        bounds: least and largest shape; the result is clamped to them.
        table: whether to return the nearest entry of the authors' table (`shape_table`) and ignore `bounds`.

    Raises:
        InputError: a ratio below 1, which is impossible, or NaN, unless it is a jax.Array.
    """
    traced = isinstance(ratio, jax.Array)
    if isinstance(ratio, jax.Array):
        ratio = ratio.astype(jnp.float32)
    else:
        ratio = np.asarray(ratio, np.float64)
        if not np.all(ratio > 1 - 1e-6):
            raise InputError(
                f"A moment ratio of {np.min(ratio)} was given; expected n sum(w^2) / sum(|w|)^2, which is at least 1 "
                "unless all weights are zero. Leave out arrays of zeros."
            )
    xp: Any = jnp if traced else np
    if table:
        shapes, ratios = shape_table()
        nearest = xp.argmin(xp.abs(ratio[..., None] - ratios.astype(ratio.dtype).reshape(*[1] * ratio.ndim, -1)), -1)
        shapes = xp.asarray(shapes, ratio.dtype)[nearest]
        return shapes if traced else shapes[()]
    low, high = bounds
    if not 0 < low < high < math.inf:
        raise InputError(f"bounds={bounds} was given; expected the least and the largest shape, both above 0.")
    return _newton(ratio, low, high, jnp) if traced else _newton(ratio, low, high, np)[()]


@functools.cache
def shape_table() -> tuple[np.ndarray, np.ndarray]:
    """Returns the authors' table, (shapes, moment ratios), float64[290] each: shapes 0.10, 0.11, ..., 2.99.

    papers/002 section 1.
    """
    shapes = np.arange(10, 300) / 100
    return shapes, moment_ratio(shapes)


def fit_moments(
    w: ArrayLike, *, loc: float = 0.0, bounds: tuple[float, float] = BOUNDS, table: bool = False
) -> GeneralizedGaussian:
    """Returns the distribution with the mean magnitude and the mean square of the weights.

    If the shape is clamped to `bounds`, only the mean square is matched. Standard errors of the shape: 0.014, 0.020,
    0.031 and 0.046 for 10,000 draws of shapes 0.5, 1, 1.5 and 2 (papers/002 section 1), proportional to
    1/sqrt(number of draws).

    Args:
        w: weights, an array of any shape; converted to float64.
        loc: location of the distribution.
        bounds, table: as for `shape_from_ratio`.

    Raises:
        InputError: no weights, or weights that are all equal or not finite.
    """
    magnitude, unit = _magnitudes(w, loc)
    square = np.mean(np.square(magnitude))
    shape = shape_from_ratio(square / np.mean(magnitude) ** 2, bounds=bounds, table=table)
    return GeneralizedGaussian.from_std(float(shape), unit * math.sqrt(square), loc=loc)


def fit_mle(w: ArrayLike, *, loc: float = 0.0, bounds: tuple[float, float] = (0.1, 10.0)) -> GeneralizedGaussian:
    """Returns the maximum-likelihood distribution of weights; `shape_error` is the standard error of its shape.

    The best scale of a shape has a closed form, so this is a one-dimensional search: to 1e-6 of the shape, in about
    twenty passes. Exact zeros count as draws; many of them move the shape to its lower bound.

    Args:
        w: weights, an array of any shape; converted to float64.
        loc: location of the distribution.
        bounds: least and largest shape.

    Raises:
        InputError: no weights, or weights that are all equal or not finite.
    """
    from scipy import optimize  # training does not need this import

    magnitude, unit = _magnitudes(w, loc)
    logs = np.log(magnitude[magnitude > 0])

    def fitted(log_shape: float) -> GeneralizedGaussian:
        shape = math.exp(log_shape)
        return GeneralizedGaussian(shape, unit * _best_scale(logs, shape, len(magnitude)), loc)

    # At the best scale, the mean log-likelihood is minus the entropy. A coarse search comes first, because with many
    # zeros there are two maxima.
    grid = np.linspace(np.log(bounds[0]), np.log(bounds[1]), 8)
    coarse = [fitted(t) for t in grid]
    i = int(np.argmin([d.entropy for d in coarse]))
    around = grid[max(i - 1, 0)], grid[min(i + 1, len(grid) - 1)]
    found = optimize.minimize_scalar(
        lambda t: fitted(t).entropy, bounds=around, method="bounded", options={"xatol": 1e-6}
    )
    return min(fitted(found.x), coarse[i], key=lambda d: d.entropy)


def fit_scale(w: ArrayLike, shape: float, *, loc: float = 0.0) -> GeneralizedGaussian:
    """Returns the maximum-likelihood distribution of a given shape, such as 1 for Laplace.

    The mean log-likelihood of the weights is minus its entropy. Arguments and errors as for `fit_mle`.
    """
    magnitude, unit = _magnitudes(w, loc)
    return GeneralizedGaussian(shape, unit * _best_scale(np.log(magnitude[magnitude > 0]), shape, len(magnitude)), loc)


def shape_error(shape: float, n: int) -> float:
    """Returns the standard error of `fit_mle`'s shape for n independent draws: 1 / sqrt(Fisher information).

    It is valid for draws from the family; for other weights it is at best a lower bound.
    """
    a = 1 / shape
    # Scores: 1 - nu y for log scale, and a constant - y log(y) / nu for nu, with y = |x / scale|^nu ~ Gamma(a).
    digamma = special.digamma(a + 1)
    second = a * (a + 1) * (special.polygamma(1, a + 2) + special.digamma(a + 2) ** 2)  # E[(y log y)^2]
    information = (second - (a * digamma) ** 2) * a**2 - a**3 * (digamma + 1) ** 2
    return float(1 / math.sqrt(n * information))


def gg_initializer(shape: float, gain: float = 1.0) -> Callable[..., jax.Array]:
    """Returns a Flax initializer (key, shape, dtype) for a generalized Gaussian of variance gain / fan_in.

    The variance is the same for every shape, and draws are not truncated: for shape 0.5 the kurtosis is 25, so large
    layers get a few very large weights. fan_in is the product of all dimensions except the last, as in Flax; the
    authors' code divides by the first dimension of a torch matrix, its fan-out (papers/002 section 2).

    Args:
        shape: nu, above 0; 2 for a Gaussian that is not truncated.
        gain: xi; 1 for linear layers, 2 before a ReLU, 2 / (1 + k^2) before a leaky ReLU of slope k.

    Raises:
        InputError: the shape or the gain is not above 0.
    """
    for name, value in (("shape", shape), ("gain", gain)):
        if not 0 < value < math.inf:
            raise InputError(
                f"{name}={value} was given to the generalized-Gaussian initializer; expected a number above 0."
            )

    def initialize(key: jax.Array, dimensions: Sequence[int], dtype: DTypeLike = jnp.float32) -> jax.Array:
        scale = unit_scale(shape) * math.sqrt(gain / math.prod(dimensions[:-1]))
        return _draw(key, tuple(dimensions), shape, scale).astype(dtype)

    return initialize


def _draw(key: jax.Array, dimensions: tuple[int, ...], shape: float, scale: float) -> jax.Array:
    """Returns float32[dimensions], draws around 0."""
    gamma_key, sign_key = jax.random.split(key)
    # With logarithms: otherwise the power of a gamma variable overflows for small shapes, and is 0 for large ones.
    log_gamma = jax.random.loggamma(gamma_key, 1 / shape, dimensions, jnp.float32)
    return jnp.exp(log_gamma / shape + math.log(scale)) * jax.random.rademacher(sign_key, dimensions, jnp.float32)


def _log_ratio(shape: Any, gammaln: Callable) -> Any:
    return gammaln(1 / shape) + gammaln(3 / shape) - 2 * gammaln(2 / shape)


def _newton(ratio: Any, low: float, high: float, xp: Any) -> Any:
    """Returns shapes of the dtype of ratios; xp is numpy or jax.numpy.

    log(log ratio - log 4/3) falls almost linearly with log shape (its slope goes from -1 to -2), so Newton's method
    converges from any start.
    """
    functions, loop = (special, _python_loop) if xp is np else (jax.scipy.special, jax.lax.fori_loop)
    dtype = ratio.dtype.type
    ends = dtype(np.log(low)), dtype(np.log(high))
    highest, lowest = (dtype(_log_ratio(shape, special.gammaln)) for shape in (low, high))
    goal = xp.log(xp.clip(xp.log(ratio), lowest, highest) - dtype(_LOG_UNIFORM))

    def step(_, t):
        inverse = xp.exp(-t)
        gap = _log_ratio(1 / inverse, functions.gammaln) - dtype(_LOG_UNIFORM)
        falls = inverse * (
            4 * functions.digamma(2 * inverse) - functions.digamma(inverse) - 3 * functions.digamma(3 * inverse)
        )
        return xp.clip(t - (xp.log(gap) - goal) * gap / falls, *ends)

    start = xp.clip(xp.zeros_like(ratio), *ends)
    return xp.clip(xp.exp(loop(0, _NEWTON_STEPS, step, start)), dtype(low), dtype(high))


def _python_loop(first: int, last: int, step: Callable, value: Any) -> Any:
    for i in range(first, last):
        value = step(i, value)
    return value


def _magnitudes(w: ArrayLike, loc: float) -> tuple[np.ndarray, float]:
    """Returns (|w - loc| divided by its maximum, float64[n], and this maximum)."""
    w = np.asarray(w, np.float64).reshape(-1)
    if not w.size:
        raise InputError("An empty array of weights was given; expected at least two different weights.")
    low, high = w.min(), w.max()
    if not np.isfinite([low, high]).all():
        raise InputError(
            f"{np.sum(~np.isfinite(w)):,} of {w.size:,} weights are NaN or infinite; expected finite weights. Fit a "
            "checkpoint from before the run diverged."
        )
    if low == high:
        raise InputError(
            f"All of {w.size:,} weights are {low:g}; expected at least two different weights. Leave this array out."
        )
    magnitude = np.abs(w - loc)
    largest = magnitude.max()
    magnitude /= largest
    return magnitude, float(largest)


def _best_scale(logs: np.ndarray, shape: float, n: int) -> float:
    """Returns the likeliest scale, (shape mean |w|^shape)^(1/shape), from log |w| of the non-zero ones of n weights."""
    total = sum(float(np.exp(shape * logs[i : i + _CHUNK]).sum()) for i in range(0, len(logs), _CHUNK))
    return (shape * total / n) ** (1 / shape)
