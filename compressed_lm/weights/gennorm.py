"""The generalized Gaussian: density, sampling, its shape from weights, and initial weights drawn from it.

p(x) = shape / (2 scale Gamma(1/shape)) exp(-|(x - loc) / scale|^shape): Laplace for shape 1, Gaussian for shape 2, and
nearer to uniform the larger the shape (papers/002 section 1, where the shape is nu and the scale alpha). Everything is
NumPy in float64 but what says JAX.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from compressed_lm.errors import InputError

BOUNDS = (0.1, 3.0)
"""Shapes that estimates are clamped to unless told otherwise, the range of the authors' table."""

_LOG_UNIFORM = math.log(4 / 3)  # log moment ratio in the limit of large shapes
_NEWTON_STEPS = 6  # rounding is reached in 4 from shape 1, for shapes of 0.02 to 50
_CHUNK = 1 << 16  # float64 numbers that stay in the cache


@dataclasses.dataclass(frozen=True)
class GeneralizedGaussian:
    """A generalized Gaussian distribution.

    Attributes:
        shape: nu, above 0; the smaller, the sharper the peak and the heavier the tails.
        scale: alpha, above 0; sqrt(2) standard deviations for shape 2.
        loc: its middle.
    """

    shape: float
    scale: float
    loc: float = 0.0

    def __post_init__(self):
        for field in ("shape", "scale"):
            if not 0 < getattr(self, field) < math.inf:
                raise InputError(
                    f"{field}={getattr(self, field)} was given to a generalized Gaussian; expected a number above 0."
                )

    @classmethod
    def from_std(cls, shape: float, std: float, *, loc: float = 0.0) -> "GeneralizedGaussian":
        """Returns the distribution of a shape with standard deviation `std`."""
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

    def logpdf(self, x) -> np.ndarray:
        """Returns the log density in nats at x, float64 of x's shape."""
        return 1 / self.shape - self.entropy - np.abs(self._standard(x)) ** self.shape

    def pdf(self, x) -> np.ndarray:
        """Returns the density at x, float64 of x's shape."""
        return np.exp(self.logpdf(x))

    def cdf(self, x) -> np.ndarray:
        """Returns the probability of at most x, float64 of x's shape; exact to rounding in the lower tail, too."""
        z = self._standard(x)
        tail = special.gammaincc(1 / self.shape, np.abs(z) ** self.shape) / 2
        return np.where(z < 0, tail, 1 - tail)

    def ppf(self, u) -> np.ndarray:
        """Returns the quantiles of probabilities u, float64 of u's shape; NaN outside of [0, 1]."""
        u, a = np.asarray(u, np.float64), 1 / self.shape
        inner = np.abs(2 * u - 1)
        # Two functions, since each is exact where its argument is small: near the middle, and in the tails.
        power = np.where(inner < 0.5, special.gammaincinv(a, inner), special.gammainccinv(a, 2 * np.minimum(u, 1 - u)))
        return self.loc + self.scale * np.sign(2 * u - 1) * power**a

    def sample(self, key, shape: tuple[int, ...] = (), *, dtype="float32"):
        """Returns independent draws, as of scale G^(1/shape) with a random sign, G ~ Gamma(1/shape, 1).

        Args:
            key: a JAX key, for a jax.Array of `dtype` (traceable), or a NumPy Generator, for a float64 array.
            shape: of the result.
            dtype: of the result; the draws are in float32 at least.
        """
        if isinstance(key, np.random.Generator):
            magnitude = key.standard_gamma(1 / self.shape, shape) ** (1 / self.shape)
            return self.loc + self.scale * magnitude * (2.0 * key.integers(0, 2, shape) - 1)
        return (self.loc + _draw(key, shape, self.shape, self.scale)).astype(dtype)

    def _standard(self, x):
        return (np.asarray(x, np.float64) - self.loc) / self.scale


def unit_scale(shape: float) -> float:
    """Returns the scale of the distribution of a shape with standard deviation 1: sqrt(Gamma(1/nu) / Gamma(3/nu))."""
    return math.exp((math.lgamma(1 / shape) - math.lgamma(3 / shape)) / 2)


def moment_ratio(shape):
    """Returns rho = E[x^2] / E[|x|]^2 of a shape: Gamma(1/nu) Gamma(3/nu) / Gamma(2/nu)^2.

    It falls with the shape, from infinity to 4/3. papers/002 section 1.

    Args:
        shape: float or array, for float64; or jax.Array, traced or not, for float32.
    """
    if isinstance(shape, jax.Array):
        return jnp.exp(_log_ratio(shape.astype(jnp.float32), jax.scipy.special.gammaln))
    return np.exp(_log_ratio(np.asarray(shape, np.float64), special.gammaln))[()]


def shape_from_ratio(ratio, *, bounds: tuple[float, float] = BOUNDS, table: bool = False):
    """Returns the shape whose moment ratio is given, the inverse of `moment_ratio`.

    Args:
        ratio: E[x^2] / E[|x|]^2, float or array, for float64 with a relative error of 1e-10; or jax.Array, traced or
            not, for float32 with one of 1e-4 within bounds of 0.1 to 10 (elementwise; NaN, as of weights that are all
            zero, gives NaN).
        bounds: lowest and highest shape; ratios beyond them give these.
        table: the nearest entry of the authors' table instead (`shape_table`); `bounds` is not used then.

    Raises:
        InputError: a ratio below 1, which no numbers have, or NaN, unless it is a jax.Array.
    """
    traced = isinstance(ratio, jax.Array)
    if traced:
        ratio = ratio.astype(jnp.float32)
    else:
        ratio = np.asarray(ratio, np.float64)
        if not np.all(ratio > 1 - 1e-6):
            raise InputError(
                f"A moment ratio of {np.min(ratio)} was given; expected n sum(w^2) / sum(|w|)^2, which is at least 1 "
                "for all weights but those that are all zero."
            )
    xp = jnp if traced else np
    if table:
        shapes, ratios = shape_table()
        nearest = xp.argmin(xp.abs(ratio[..., None] - ratios.astype(ratio.dtype).reshape(*[1] * ratio.ndim, -1)), -1)
        shapes = xp.asarray(shapes, ratio.dtype)[nearest]
        return shapes if traced else shapes[()]
    low, high = bounds
    if not 0 < low < high < math.inf:
        raise InputError(f"bounds={bounds} was given; expected the lowest and the highest shape, both above 0.")
    return _newton(ratio, low, high, jnp) if traced else _newton(ratio, low, high, np)[()]


@functools.cache
def shape_table() -> tuple[np.ndarray, np.ndarray]:
    """Returns the authors' table, (shapes, moment ratios), float64[290] each: shapes 0.10, 0.11, ..., 2.99.

    papers/002 section 1.
    """
    shapes = np.arange(10, 300) / 100
    return shapes, moment_ratio(shapes)


def fit_moments(
    w, *, loc: float = 0.0, bounds: tuple[float, float] = BOUNDS, table: bool = False
) -> GeneralizedGaussian:
    """Returns the distribution with the mean magnitude and the mean square of weights, as far as `bounds` allow.

    The mean square is kept where the shape is clamped. Standard errors of the shape: 0.014, 0.020, 0.031 and 0.046 for
    10,000 draws of shapes 0.5, 1, 1.5 and 2 (papers/002 section 1); they go with 1/sqrt(number of draws).

    Args:
        w: weights, an array of any shape; computed with in float64.
        loc: what they are taken to be around.
        bounds, table: as `shape_from_ratio` takes them.

    Raises:
        InputError: no weights, weights that are all equal, or that are not finite.
    """
    magnitude, unit = _magnitudes(w, loc)
    square = np.mean(np.square(magnitude))
    shape = shape_from_ratio(square / np.mean(magnitude) ** 2, bounds=bounds, table=table)
    return GeneralizedGaussian.from_std(float(shape), unit * math.sqrt(square), loc=loc)


def fit_mle(w, *, loc: float = 0.0, bounds: tuple[float, float] = (0.1, 10.0)) -> GeneralizedGaussian:
    """Returns the distribution that makes weights likeliest; `shape_error` tells how well its shape is known.

    A one-dimensional search, since the best scale of a shape is known: to 1e-6 of the shape, in some twenty passes.
    Exact zeros count as draws, so that many of them push the shape to its lower bound.

    Args:
        w: weights, an array of any shape; computed with in float64.
        loc: what they are taken to be around.
        bounds: lowest and highest shape.

    Raises:
        InputError: no weights, weights that are all equal, or that are not finite.
    """
    from scipy import optimize  # which training does without

    magnitude, unit = _magnitudes(w, loc)
    logs = np.log(magnitude[magnitude > 0])

    def fitted(log_shape):
        shape = math.exp(log_shape)
        return GeneralizedGaussian(shape, unit * _best_scale(logs, shape, len(magnitude)), loc)

    # At the best scale the log-likelihood of a weight is minus the entropy. A coarse look first: with many zeros there
    # are two maxima.
    grid = np.linspace(*np.log(bounds), 8)
    coarse = [fitted(t) for t in grid]
    i = int(np.argmin([d.entropy for d in coarse]))
    around = grid[max(i - 1, 0)], grid[min(i + 1, len(grid) - 1)]
    found = optimize.minimize_scalar(
        lambda t: fitted(t).entropy, bounds=around, method="bounded", options={"xatol": 1e-6}
    )
    return min(fitted(found.x), coarse[i], key=lambda d: d.entropy)


def fit_scale(w, shape: float, *, loc: float = 0.0) -> GeneralizedGaussian:
    """Returns the distribution of a given shape that makes weights likeliest, such as the Laplace for shape 1.

    The mean log-likelihood of the weights in it is minus its entropy. Arguments and errors as of `fit_mle`.
    """
    magnitude, unit = _magnitudes(w, loc)
    return GeneralizedGaussian(shape, unit * _best_scale(np.log(magnitude[magnitude > 0]), shape, len(magnitude)), loc)


def shape_error(shape: float, n: int) -> float:
    """Returns the standard error of `fit_mle`'s shape from n independent draws: the inverse Fisher information's root.

    It holds for draws of the family; of weights that no generalized Gaussian fits it is a lower bound at best.
    """
    a = 1 / shape
    # Scores are 1 - nu y for log scale and a constant - y log(y) / nu for nu, where y = |x / scale|^nu ~ Gamma(a).
    digamma = special.digamma(a + 1)
    second = a * (a + 1) * (special.polygamma(1, a + 2) + special.digamma(a + 2) ** 2)  # E[(y log y)^2]
    information = (second - (a * digamma) ** 2) * a**2 - a**3 * (digamma + 1) ** 2
    return float(1 / math.sqrt(n * information))


def gg_initializer(shape: float, gain: float = 1.0) -> Callable[..., jax.Array]:
    """Returns a Flax initializer (key, shape, dtype) that draws a generalized Gaussian of variance gain / fan_in.

    The variance is that for every shape, and no draw is cut off: of shape 0.5 the kurtosis is 25, so large layers get
    a few very large weights. fan_in is the product of all dimensions but the last, as in Flax; the authors' code
    divides by the first dimension of a torch matrix, its fan-out (papers/002 section 2).

    Args:
        shape: nu, above 0; 2 for a Gaussian that is not truncated.
        gain: xi; 1 for linear layers, 2 before a ReLU, 2 / (1 + k^2) before a leaky ReLU of slope k.

    Raises:
        InputError: a shape or a gain that is not above 0.
    """
    for name, value in (("shape", shape), ("gain", gain)):
        if not 0 < value < math.inf:
            raise InputError(f"{name}={value} was given to the generalized-Gaussian initializer; expected more than 0.")

    def initialize(key, dimensions, dtype=jnp.float32):
        scale = unit_scale(shape) * math.sqrt(gain / math.prod(dimensions[:-1]))
        return _draw(key, tuple(dimensions), shape, scale).astype(dtype)

    return initialize


def _draw(key, dimensions, shape, scale):
    """Returns float32[dimensions], draws around 0."""
    gamma_key, sign_key = jax.random.split(key)
    # In logs: of small shapes a power of a gamma variable alone leaves the range of float32, of large ones it is 0.
    log_gamma = jax.random.loggamma(gamma_key, 1 / shape, dimensions, jnp.float32)
    return jnp.exp(log_gamma / shape + math.log(scale)) * jax.random.rademacher(sign_key, dimensions, jnp.float32)


def _log_ratio(shape, gammaln):
    return gammaln(1 / shape) + gammaln(3 / shape) - 2 * gammaln(2 / shape)


def _newton(ratio, low, high, xp):
    """Returns shapes of the dtype of ratios; xp is numpy or jax.numpy.

    log(log ratio - log 4/3) falls with log shape, almost as a straight line that bends down from slope -1 to -2: no
    start makes Newton's iteration go astray.
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


def _python_loop(first, last, step, value):
    for i in range(first, last):
        value = step(i, value)
    return value


def _magnitudes(w, loc):
    """Returns (|w - loc| over its largest, float64[n], and that largest)."""
    w = np.asarray(w, np.float64).reshape(-1)
    if not w.size:
        raise InputError("An empty array of weights was given; a distribution needs at least two different weights.")
    low, high = w.min(), w.max()
    if not np.isfinite([low, high]).all():
        raise InputError(
            f"{np.sum(~np.isfinite(w)):,} of {w.size:,} weights are NaN or infinite; fit a checkpoint from before the "
            "run diverged."
        )
    if low == high:
        raise InputError(
            f"All of {w.size:,} weights are {low:g}; a distribution needs at least two different weights. Leave this "
            "array out."
        )
    magnitude = np.abs(w - loc)
    largest = magnitude.max()
    magnitude /= largest
    return magnitude, float(largest)


def _best_scale(logs, shape, n):
    """Returns (shape mean |w|^shape)^(1/shape), the likeliest scale, from the logs of those of n weights not zero."""
    total = sum(float(np.exp(shape * logs[i : i + _CHUNK]).sum()) for i in range(0, len(logs), _CHUNK))
    return (shape * total / n) ** (1 / shape)
