"""Bootstrap confidence intervals of parameters and of quantities derived from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from compressed_lm.errors import InputError
from compressed_lm.scaling import newton, search, tables

if TYPE_CHECKING:
    from compressed_lm.scaling.fit import Fit

Quantity = str | Callable[[Mapping[str, Any]], float | np.ndarray]
"""Name of a parameter, or a function of the parameters (a mapping of floats or of arrays float64[b])."""

_NO_SAMPLES = "The fit has no intervals yet. Call scaling.bootstrap(fit) and use its result."
_CHUNK = 500  # resampled tables between two calls of `progress`


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Value with its confidence interval and standard deviation, for a fit from its bootstrap."""

    value: float
    low: float
    high: float
    sd: float


def bootstrap(
    fit: Fit,
    *,
    samples: int = 4000,
    level: float = 0.95,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Fit:
    """Returns the fit with `intervals` and `samples`, from refits to tables whose rows are drawn with replacement.

    Each refit starts at the fitted parameters twice, with the threshold delta and with a wide threshold that shrinks
    to delta, and keeps the better result. All refits run in one batch. If a resampled table has no row of a format,
    its free capacity keeps the fitted value. Refits that do not end at a stationary point count as missing.

    Args:
        fit: a fit.
        samples: number of resampled tables.
        level: share of the samples within each interval, with equal tails.
        seed: random seed of the resampling.
        progress: called with (done, total) periodically.
    """
    problem, units = tables.problem(
        fit.law, fit.data, fixed={}, loss_space=fit.loss_space, exponent_range=fit.exponent_range
    )
    delta = fit.delta / units.loss if problem.raw else fit.delta
    rows = len(problem.loss)
    rng = np.random.default_rng(seed)
    stages = search.stages(problem, fit.theta, delta)
    found, good = [], []
    for done in range(0, samples, _CHUNK):
        count = min(_CHUNK, samples - done)
        weights = rng.multinomial(rows, np.full(rows, 1 / rows), size=count)
        start = np.tile(fit.theta, (count, 1))
        ends = [
            newton.minimise(problem, start, delta=delta, weights=weights, stages=by, max_steps=1000)
            for by in (stages, stages[-1:])
        ]
        theta, value, gradient = (np.stack(column) for column in zip(*ends, strict=True))
        best = np.where(np.isfinite(value), value, np.inf).argmin(0), np.arange(count)
        found.append(theta[best])
        good.append(gradient[best] < newton.STATIONARY)
        if progress:
            progress(done + count, samples)
    theta = np.where(np.concatenate(good)[:, None], np.concatenate(found), np.nan)
    drawn = units.params(problem, theta)
    sampled = {name: np.broadcast_to(values, (samples,)) for name, values in drawn.items()}
    intervals = {name: interval(values, level=level) for name, values in sampled.items()}
    return dataclasses.replace(fit, samples=sampled, intervals=intervals)


def interval(samples: np.ndarray, *, level: float = 0.95) -> tuple[float, float]:
    """Returns the central interval that contains a share `level` of float64[b]; missing values are ignored."""
    samples = samples[np.isfinite(samples)]
    if not len(samples):
        return float("nan"), float("nan")
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def estimate(fit: Fit, quantity: Quantity, *, level: float = 0.95) -> Estimate:
    """Returns a quantity with its interval.

    Args:
        fit: a bootstrapped fit.
        quantity: name of a parameter, or a function of the parameters (a mapping; floats or arrays float64[b]).
        level: share of the samples within the interval.
    """
    return _estimate(*_both(fit, quantity), level)


def difference(
    fit: Fit, quantity: Quantity, other: Quantity | None = None, *, other_fit: Fit | None = None, level: float = 0.95
) -> Estimate:
    """Returns the difference of two quantities with its interval: two formats of one fit, or one codec per fit.

    Within one fit, both come from the same resampled tables, so that common variation cancels. Two fits are resampled
    independently.

        difference(fit, "rho[nvfp4]", "rho[int4]")
        difference(fit_a, loss_at(fit_a, row), loss_at(fit_b, row), other_fit=fit_b)

    Args:
        fit: a bootstrapped fit.
        quantity: as in `estimate`.
        other: the quantity to subtract; by default the same quantity of `other_fit`.
        other_fit: the fit of `other`; by default `fit`.
        level: share of the samples within the interval.

    Raises:
        InputError: a fit has no samples, or neither `other` nor `other_fit` is given.
    """
    if other is None and other_fit is None:
        raise InputError("A difference of one quantity within one fit is 0. Give another quantity or another fit.")
    value, samples = _both(fit, quantity)
    value_b, samples_b = _both(other_fit or fit, quantity if other is None else other)
    n = min(len(samples), len(samples_b))
    return _estimate(value - value_b, samples[:n] - samples_b[:n], level)


def loss_at(fit: Fit, row: Mapping) -> Quantity:
    """Returns the predicted loss of one row as a quantity for `estimate` and `difference`."""
    read = tables.read(fit.law, fit.columns, row)
    return lambda params: fit.law(params, read).squeeze(-1)


def band(fit: Fit, table: pd.DataFrame | Mapping, *, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Returns the interval of the predicted loss at each row, two float64[n]; the noise of a run is not included."""
    if fit.samples is None:
        raise InputError(_NO_SAMPLES)
    drawn = fit.law(fit.samples, tables.read(fit.law, fit.columns, table))
    low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def _both(fit: Fit, quantity: Quantity) -> tuple[float, np.ndarray]:
    if fit.samples is None:
        raise InputError(_NO_SAMPLES)
    if not isinstance(quantity, str):
        return float(np.squeeze(quantity(fit.params))), np.asarray(quantity(fit.samples), float).reshape(-1)
    if quantity not in fit.params:
        raise InputError(f"The fit has no parameter {quantity!r}. It has: {', '.join(fit.params)}.")
    return fit.params[quantity], fit.samples[quantity]


def _estimate(value: float, samples: np.ndarray, level: float) -> Estimate:
    low, high = interval(samples, level=level)
    finite = samples[np.isfinite(samples)]
    return Estimate(float(value), low, high, float(np.std(finite, ddof=1)) if len(finite) > 1 else float("nan"))
