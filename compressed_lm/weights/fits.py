"""Which distribution the weights of a model follow: generalized Gaussian, Gaussian, Laplace and Student-t, by AIC."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
from scipy import optimize, special

from compressed_lm.errors import InputError
from compressed_lm.weights.gennorm import (
    fit_mle,
    fit_moments,
    fit_scale,
    shape_error,
)

BOUNDS = (0.1, 10.0)
"""Shapes that the estimates here are clamped to."""

POOLED = "all, pooled"
POOLED_SCALED = "all, each over its std"
GENERALIZED, GAUSSIAN, LAPLACE, STUDENT = "generalized Gaussian", "Gaussian", "Laplace", "Student-t"

_DF = (0.2, 1e4)  # degrees of freedom; at the upper end a Student-t is a Gaussian
_LOG_SCALE = (-14.0, 2.0)  # log of a Student-t's scale over the root mean square
_CHUNK = 1 << 16


class Distribution(Protocol):
    """What a fitted distribution can do."""

    def logpdf(self, x) -> np.ndarray:
        """Returns the log density in nats at x."""


@dataclasses.dataclass(frozen=True)
class StudentT:
    """A Student-t distribution, p(x) ~ (1 + ((x - loc) / scale)^2 / df)^(-(df + 1) / 2)."""

    df: float
    scale: float
    loc: float = 0.0

    def logpdf(self, x) -> np.ndarray:
        """Returns the log density in nats at x, float64 of x's shape."""
        square = np.square((np.asarray(x, np.float64) - self.loc) / self.scale)
        return _student_constant(self.df) - math.log(self.scale) - (self.df + 1) / 2 * np.log1p(square / self.df)

    def pdf(self, x) -> np.ndarray:
        """Returns the density at x, float64 of x's shape."""
        return np.exp(self.logpdf(x))


@dataclasses.dataclass(frozen=True)
class FamilyFit:
    """The likeliest member of one family.

    Attributes:
        family: GENERALIZED, GAUSSIAN, LAPLACE or STUDENT.
        distribution: the member.
        n_parameters: how many were fitted, the location apart, which all families share.
        log_likelihood: nats a weight, over those that are not 0.
        aic: Akaike's criterion, 2 n_parameters - 2 log-likelihood of all; the lowest wins.
    """

    family: str
    distribution: Distribution
    n_parameters: int
    log_likelihood: float
    aic: float


@dataclasses.dataclass(frozen=True)
class TensorFit:
    """What the weights of one array, or of several pooled, are distributed like.

    Exact zeros, as pruning leaves them, are a point mass, to which every density gives way; all but `std` and
    `shape_moments` is of the other weights.

    Attributes:
        name: of the array, POOLED or POOLED_SCALED.
        n: number of weights.
        loc: what all fits are around: 0, or the mean if that is larger than half the standard deviation, as of the
            scales of norms.
        std: root mean square around loc.
        zeros: share of the weights that are exactly 0.
        shape_moments: shape of the generalized Gaussian by the moment ratio of all weights, in BOUNDS.
        shape_mle: by maximum likelihood, in BOUNDS.
        shape_error: standard error of `shape_mle`, if it is a generalized Gaussian.
        families: a fit for each family.
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
        """Nats a weight by which the best family leads the next, parameters counted: half the difference of AIC."""
        first, second = sorted(fit.aic for fit in self.families)[:2]
        return (second - first) / (2 * self.n * (1 - self.zeros))


def fit_tensors(tensors: Mapping[str, np.ndarray], *, progress: Callable[[int], None] | None = None) -> list[TensorFit]:
    """Returns a fit for each array, then for all weights pooled, as they are and after dividing each array by its std.

    Pooled weights of different standard deviations are a scale mixture, of lower shape than its parts: compare the last
    two rows. The authors pool all parameters as they are, around 0 (papers/002 section 1). Arrays without two different
    weights besides 0 have no row; they count only in the first pooled one.

    Args:
        tensors: name -> weights of any shape.
        progress: called with the number of weights done, of three times those given: each array by itself, all pooled,
            and all pooled after the division.

    Raises:
        InputError: no arrays, an empty one, one that is not finite, or no two different weights in any.
    """
    progress = progress or (lambda done: None)
    flat = {name: np.asarray(w).reshape(-1) for name, w in tensors.items()}
    rows, scaled, done = [], [], 0
    for name, w in flat.items():
        if not w.size:
            raise InputError(f"{name} was given without weights; leave it out.")
        if _varies(w):
            rows.append(fit_tensor(w, name))
            scaled.append((w - rows[-1].loc) / rows[-1].std)
        done += w.size
        progress(done)
    if not rows:
        raise InputError(
            f"{len(flat)} arrays of weights were given and none has two different weights besides 0; give those of a "
            "model that was trained."
        )
    for name, parts in ((POOLED, list(flat.values())), (POOLED_SCALED, scaled)):
        rows.append(fit_tensor(np.concatenate(parts), name, loc=0.0))
        done += sum(w.size for w in flat.values())
        progress(done)
    return rows


def fit_tensor(w, name: str, *, loc: float | None = None) -> TensorFit:
    """Returns the fits of an array, of any shape, around `loc`; by default around what `TensorFit.loc` says.

    Raises:
        InputError: no weights, weights that are all equal, or that are not finite; the message names the array.
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
    fits = [(GENERALIZED, general, 2, -general.entropy)]
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


def _varies(w):
    rest = w[w != 0]
    return rest.size > 1 and bool(np.any(rest != rest[0]))


def _fit_student(w, loc):
    """Returns (the likeliest Student-t, number of its parameters, mean log-likelihood) of float64[n] weights.

    A one-dimensional search over the degrees of freedom, with the likeliest scale of each: there the mean of
    r = z^2 / (df + z^2), z = (w - loc) / scale, is 1 / (df + 1).
    """
    rms = math.sqrt(np.mean(np.square(w - loc)))
    squares = np.square((w - loc) / rms)
    chunks = [squares[i : i + _CHUNK] for i in range(0, squares.size, _CHUNK)]
    log_scale = -0.3  # of the weights over rms; each search begins where the last one ended

    def loss(log_df):
        """Minus the log-likelihood of a weight over rms."""
        nonlocal log_scale
        df = math.exp(log_df)
        for _ in range(40):  # Newton on a mean of logistic functions of log scale
            mean = slope = 0.0
            for chunk in chunks:
                r = chunk / (df * math.exp(2 * log_scale) + chunk)
                mean += r.sum() / squares.size
                slope += 2 * (r * (1 - r)).sum() / squares.size  # no BLAS, whose threads wait on busy cores
            change = float(np.clip((mean - 1 / (df + 1)) / max(slope, 1e-12), -0.7, 0.7))
            log_scale = float(np.clip(log_scale + change, *_LOG_SCALE))
            if abs(change) < 1e-7:
                break
        logs = sum(np.log1p(chunk / (df * math.exp(2 * log_scale))).sum() for chunk in chunks) / squares.size
        return log_scale + (df + 1) / 2 * logs - _student_constant(df)

    found = optimize.minimize_scalar(loss, bounds=tuple(np.log(_DF)), method="bounded", options={"xatol": 1e-5})
    value = loss(found.x)
    return StudentT(math.exp(found.x), rms * math.exp(log_scale), loc), 2, float(-value - math.log(rms))


def _student_constant(df):
    """Returns the log density in nats of a Student-t of scale 1 at its middle."""
    return special.gammaln((df + 1) / 2) - special.gammaln(df / 2) - math.log(df * math.pi) / 2
