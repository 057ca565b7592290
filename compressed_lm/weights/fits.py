"""Fits of distributions to a model's weights, compared by AIC: generalized Gaussian, Gaussian, Laplace, Student-t."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float64
from scipy import optimize, special

from compressed_lm.errors import InputError
from compressed_lm.weights.gennorm import (
    fit_mle,
    fit_moments,
    fit_scale,
    shape_error,
)

BOUNDS = (0.1, 10.0)
"""Least and largest estimated shape."""

POOLED = "all, pooled"
POOLED_SCALED = "all, each over its std"
GENERALIZED, GAUSSIAN, LAPLACE, STUDENT = "generalized Gaussian", "Gaussian", "Laplace", "Student-t"

_DF = (0.2, 1e4)  # degrees of freedom; at the upper bound a Student-t is a Gaussian
_LOG_SCALE = (-14.0, 2.0)  # log of a Student-t's scale over the root mean square
_CHUNK = 1 << 16


class Distribution(Protocol):
    """A fitted distribution."""

    def logpdf(self, x: np.ndarray) -> np.ndarray:
        """Returns the log density in nats at x."""


@dataclasses.dataclass(frozen=True)
class StudentT:
    """Student-t distribution, p(x) ~ (1 + ((x - loc) / scale)^2 / df)^(-(df + 1) / 2)."""

    df: float
    scale: float
    loc: float = 0.0

    def logpdf(self, x: ArrayLike) -> Float64[np.ndarray, "..."]:
        """Returns the log density in nats at x, of x's shape."""
        square = np.square((np.asarray(x, np.float64) - self.loc) / self.scale)
        return _student_constant(self.df) - math.log(self.scale) - (self.df + 1) / 2 * np.log1p(square / self.df)

    def pdf(self, x: ArrayLike) -> Float64[np.ndarray, "..."]:
        """Returns the density at x, of x's shape."""
        return np.exp(self.logpdf(x))


@dataclasses.dataclass(frozen=True)
class FamilyFit:
    """Maximum-likelihood fit of one family.

    Attributes:
        family: GENERALIZED, GAUSSIAN, LAPLACE or STUDENT.
        distribution: the fitted distribution.
        n_parameters: number of fitted parameters without the location, which all families share.
        log_likelihood: mean over the weights that are not 0, in nats per weight.
        aic: Akaike's criterion, 2 n_parameters - 2 (total log-likelihood); lower is better.
    """

    family: str
    distribution: Distribution
    n_parameters: int
    log_likelihood: float
    aic: float


@dataclasses.dataclass(frozen=True)
class TensorFit:
    """Fits of the weights of one array, or of several pooled arrays.

    Exact zeros (from pruning) are a point mass, which no density can model. They only count for `std` and
    `shape_moments`.

    Attributes:
        name: name of the array, POOLED or POOLED_SCALED.
        n: number of weights.
        loc: location of all fits: 0, or the mean if it is larger than half the standard deviation (norm scales).
        std: root mean square around loc.
        zeros: share of the weights that are exactly 0.
        shape_moments: shape of the generalized Gaussian from the moment ratio of all weights, in BOUNDS.
        shape_mle: shape by maximum likelihood, in BOUNDS.
        shape_error: standard error of `shape_mle`, if the weights follow a generalized Gaussian.
        families: one fit per family.
    """

    name: str
    n: int
    loc: float
    std: float
    zeros: float
    shape_moments: float
    shape_mle: float
    shape_error: float
    families: tuple[FamilyFit, ...]

    @property
    def best(self) -> FamilyFit:
        """The family with the lowest AIC."""
        return min(self.families, key=lambda fit: fit.aic)

    @property
    def margin(self) -> float:
        """Advantage of the best family over the next in nats per weight: half the difference of AIC."""
        first, second = sorted(fit.aic for fit in self.families)[:2]
        return (second - first) / (2 * self.n * (1 - self.zeros))


def fit_tensors(tensors: Mapping[str, np.ndarray], *, progress: Callable[[int], None] | None = None) -> list[TensorFit]:
    """Returns a fit per array, then for all weights pooled, unscaled and with each array divided by its std.

    Pooled weights of different standard deviations are a scale mixture, whose shape is lower than that of its parts:
    compare the last two rows. The authors pool all parameters unscaled, around 0 (papers/002 section 1). Arrays without
    two different non-zero weights have no row; they only count in the first pooled row.

    Args:
        tensors: weights of any shape, by name.
        progress: called with the number of processed weights; the total is three times the number of weights (single
            arrays, all pooled, and all pooled after the division).

    Raises:
        InputError: no arrays, an empty array, an array that is not finite, or no array has two different weights.
    """
    progress = progress or (lambda done: None)
    flat = {name: np.asarray(w).reshape(-1) for name, w in tensors.items()}
    rows, scaled, done = [], [], 0
    for name, w in flat.items():
        if not w.size:
            raise InputError(f"{name} has no weights; expected at least one. Leave this array out.")
        if _varies(w):
            rows.append(fit_tensor(w, name))
            scaled.append((w - rows[-1].loc) / rows[-1].std)
        done += w.size
        progress(done)
    if not rows:
        raise InputError(
            f"{len(flat)} arrays of weights were given, and none has two different non-zero weights. Use the weights "
            "of a trained model."
        )
    for name, parts in ((POOLED, list(flat.values())), (POOLED_SCALED, scaled)):
        rows.append(fit_tensor(np.concatenate(parts), name, loc=0.0))
        done += sum(w.size for w in flat.values())
        progress(done)
    return rows


def fit_tensor(w: ArrayLike, name: str, *, loc: float | None = None) -> TensorFit:
    """Returns the fits of an array of any shape around `loc`; the default is that of `TensorFit.loc`.

    Raises:
        InputError: no weights, or weights that are all equal or not finite; the message names the array.
    """
    w = np.asarray(w, np.float64).reshape(-1)
    try:
        if loc is None:
            with np.errstate(invalid="ignore"):  # infinite weights are refused below
                mean = float(w.mean()) if w.size else 0.0
                loc = mean if abs(mean) > w.std() / 2 else 0.0
        moments = fit_moments(w, loc=loc, bounds=BOUNDS)
        rest = w[w != 0]
        general = fit_mle(rest, loc=loc, bounds=BOUNDS)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    fits: list[tuple[str, Distribution, int, float]] = [(GENERALIZED, general, 2, -general.entropy)]
    for family, shape in ((GAUSSIAN, 2.0), (LAPLACE, 1.0)):
        fit = fit_scale(rest, shape, loc=loc)
        fits.append((family, fit, 1, -fit.entropy))
    fits.append((STUDENT, *_fit_student(rest, loc)))
    families = tuple(FamilyFit(*fit, aic=2 * fit[2] - 2 * rest.size * fit[3]) for fit in fits)
    return TensorFit(
        name=name,
        n=w.size,
        loc=loc,
        std=moments.std,
        zeros=1 - rest.size / w.size,
        shape_moments=moments.shape,
        shape_mle=general.shape,
        shape_error=shape_error(general.shape, rest.size),
        families=families,
    )


def _varies(w: np.ndarray) -> bool:
    rest = w[w != 0]
    return rest.size > 1 and bool(np.any(rest != rest[0]))


def _fit_student(w: np.ndarray, loc: float) -> tuple[StudentT, int, float]:
    """Returns (the likeliest Student-t, its number of parameters, mean log-likelihood) for float64[n] weights.

    A one-dimensional search over the degrees of freedom, each with its likeliest scale. At this scale, the mean of
    r = z^2 / (df + z^2) with z = (w - loc) / scale is 1 / (df + 1).
    """
    rms = math.sqrt(np.mean(np.square(w - loc)))
    squares = np.square((w - loc) / rms)
    chunks = [squares[i : i + _CHUNK] for i in range(0, squares.size, _CHUNK)]
    log_scale = -0.3  # for weights divided by rms; each search starts at the result of the last one

    def loss(log_df: float) -> float:
        """Returns minus the mean log-likelihood of the weights divided by rms."""
        nonlocal log_scale
        df = math.exp(log_df)
        for _ in range(40):  # Newton's method on a mean of logistic functions of log scale
            mean = slope = 0.0
            for chunk in chunks:
                r = chunk / (df * math.exp(2 * log_scale) + chunk)
                mean += r.sum() / squares.size
                slope += 2 * (r * (1 - r)).sum() / squares.size  # not BLAS: its threads wait if cores are busy
            change = float(np.clip((mean - 1 / (df + 1)) / max(slope, 1e-12), -0.7, 0.7))
            log_scale = float(np.clip(log_scale + change, *_LOG_SCALE))
            if abs(change) < 1e-7:
                break
        logs = sum(np.log1p(chunk / (df * math.exp(2 * log_scale))).sum() for chunk in chunks) / squares.size
        return log_scale + (df + 1) / 2 * logs - _student_constant(df)

    found = optimize.minimize_scalar(loss, bounds=tuple(np.log(_DF)), method="bounded", options={"xatol": 1e-5})
    value = loss(found.x)
    return StudentT(math.exp(found.x), rms * math.exp(log_scale), loc), 2, float(-value - math.log(rms))


def _student_constant(df: float) -> float:
    """Returns the log density in nats of a Student-t of scale 1 at its location."""
    return special.gammaln((df + 1) / 2) - special.gammaln(df / 2) - math.log(df * math.pi) / 2
