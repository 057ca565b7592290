"""Fits of scaling laws: variable projection, then Newton refinement under a Huber loss.

Step 1 is variable projection with non-negative least squares (VPNLS, arXiv 2603.22339): with exponents and capacities
given, a law is linear, so only these need a search. Step 2 minimises the Huber loss of log L as Hoffmann et al. 2022,
but *summed*: with a mean, optimisers stop too early (Besiroglu et al. 2024).
"""

from __future__ import annotations

import dataclasses
import enum
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from compressed_lm.errors import InputError
from compressed_lm.scaling import diagnosis, frontier, newton, pooling, search, tables
from compressed_lm.scaling.diagnosis import Diagnosis, IdentifiabilityWarning
from compressed_lm.scaling.laws import LINE, POWER, PowerSum, law_named
from compressed_lm.scaling.summary import summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class FitStatus(enum.StrEnum):
    """Status of a fit."""

    CONVERGED = "converged"
    AT_BOUND = "at_bound"  # a parameter is at the edge of its range: the data do not determine it
    FAILED = "failed"  # no start reached a stationary point: do not use the parameters


@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
    """A fitted law.

    Attributes:
        law: the fitted law.
        params: value of each parameter, in the units of the table.
        status: whether the fit converged.
        at_bounds: names of the parameters at the edge of their range.
        objective: summed Huber loss of the residuals.
        residuals: float64[n], log(measured) - log(predicted), or measured - predicted if `loss_space` is raw.
        delta: threshold of the Huber loss.
        loss_space: `log` or `raw`.
        exponent_range: lowest and highest allowed exponent.
        columns: name in the table of each column of the law, and of `loss`.
        data: the fitted columns, by the law's names, and `loss`.
        theta: float64[p], the minimum in the coordinates of the search (`newton.Problem`).
        diagnosis: how well the table determines the parameters; None if `diagnose` was off.
        intervals: (low, high) of each parameter; None before `bootstrap`.
        samples: parameter -> float64[b], its values on resampled tables; None before `bootstrap`.
    """

    law: PowerSum
    params: Mapping[str, float]
    status: FitStatus
    at_bounds: tuple[str, ...]
    objective: float
    residuals: np.ndarray
    delta: float
    loss_space: str
    exponent_range: tuple[float, float]
    columns: Mapping[str, str]
    data: Mapping[str, np.ndarray] = dataclasses.field(repr=False)
    theta: np.ndarray = dataclasses.field(repr=False)
    diagnosis: Diagnosis | None = None
    intervals: Mapping[str, tuple[float, float]] | None = None
    samples: Mapping[str, np.ndarray] | None = dataclasses.field(default=None, repr=False)

    @property
    def fixed(self) -> Mapping[str, float]:
        """Parameters that were given, not fitted."""
        return dict(self.law.held)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Problems of the fit, one sentence each; empty for a good fit."""
        said = () if self.diagnosis is None else self.diagnosis.warnings
        if self.status == FitStatus.AT_BOUND:
            said += (f"At the edge of the range, not determined by the runs: {', '.join(self.at_bounds)}.",)
        if self.status == FitStatus.FAILED:
            said += ("No start reached a stationary point: do not use the parameters.",)
        return said

    def predict(self, table: pd.DataFrame | Mapping) -> np.ndarray:
        """Returns the fitted loss at each row, float64[n].

        Args:
            table: the columns of the law, by the law's names or by those of the fitted table; scalars are repeated.
        """
        return self.law(self.params, tables.read(self.law, self.columns, table))

    def rho(self, table: pd.DataFrame | Mapping) -> np.ndarray:
        """Returns the capacity at each row, float64[n]: size of the dense model with the same loss / size.

        For `frantar2023`, size is the number of non-zero parameters.
        """
        return frontier.capacity(self, self.params, table)

    def summary(self) -> str:
        """Returns parameters with intervals, quality and warnings as text."""
        return summary(self)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Plots measured against predicted loss on `ax`, or on a new figure, and returns the axes."""
        from compressed_lm.scaling import law_plots  # imports matplotlib

        return law_plots.measured_against_predicted(self, ax=ax)


def fit(
    runs: pd.DataFrame,
    law: str | PowerSum = "chinchilla",
    *,
    fixed: Mapping[str, float | None] | None = None,
    delta: float = 1e-3,
    loss_space: str = "log",
    exponent_range: tuple[float, float] = (0.01, 2.0),
    starts: int = 24,
    diagnose: bool = True,
    **columns: Any,
) -> Fit:
    """Fits a law: minimises the summed Huber loss of its residuals.

    The result does not depend on units: inputs and loss are divided by their geometric means, and the parameters are
    scaled back. Laws with capacities use the parameters without embeddings (`n_nonembed`), which are not compressed, if
    the table has this column and no other column is named.

        fit(runs)                                                   # columns n_params, tokens, loss
        fit(runs, "decoupled", n_params="size", reference="bf16")   # and format
        fit(runs, "tanh", gmse=("gmse_w", "gmse_a"), shared=True, fixed={"alpha": 0.13, "beta": 0.33})

    Args:
        runs: one row per run; select the rows to fit with pandas before.
        law: a name (see `laws.LAWS`) or a law.
        fixed: values of parameters that are not fitted; None frees one that the law fixes (`{"L": None}`).
        delta: threshold of the Huber loss: quadratic for smaller residuals, linear for larger ones. Towards 0 this
            becomes least absolute deviations.
        loss_space: `log`: residuals of log loss; `raw`: of the loss itself, with delta in its unit.
        exponent_range: lowest and highest exponent.
        starts: number of search points that are refined.
        diagnose: whether to check how well the runs determine the parameters, and warn (`IdentifiabilityWarning`).
        **columns: names in the table that differ from the law's: `n_params="Model Size"`, `loss="val"`; the columns of
            `gmse`, `format` or `bits`, several for a product; and options of the law such as `shared`.

    Raises:
        InputError: the data cannot be fitted: wrong names or values, fewer rows than parameters, or rows that differ in
            a codec, a format or another kind of compression that the law does not read (`pooling.check`).
    """
    law, given = _resolve(law, columns)
    names = tables.column_names(law, given, runs)
    pooling.check(law, names, runs)
    data = tables.read(law, names, runs, loss=True)
    law = dataclasses.replace(law, factors=tuple(factor.bind(data[factor.column]) for factor in law.factors))
    problem, units = tables.problem(law, data, fixed=fixed or {}, loss_space=loss_space, exponent_range=exponent_range)
    if delta <= 0:
        raise InputError(
            f"delta is {delta}. Expected a threshold above 0; small values give least absolute deviations."
        )
    scaled_delta = delta / units.loss if loss_space == "raw" else delta

    theta, gradient = search.search(problem, scaled_delta, starts=starts)
    status, at_bounds = _status(problem, theta, gradient)
    params = units.params(problem, theta, zero=at_bounds)
    held = tuple((name, params[name]) for name, free in zip(law.parameters, problem.free, strict=True) if not free)
    result = Fit(
        law=dataclasses.replace(law, held=held),
        params=params,
        status=status,
        at_bounds=at_bounds,
        objective=float(problem.objective(theta[None], scaled_delta)[0]) * (units.loss**2 if problem.raw else 1),
        residuals=problem.residual(problem.evaluate(theta[None])[0])[0] * (units.loss if problem.raw else 1),
        delta=delta,
        loss_space=loss_space,
        exponent_range=exponent_range,
        columns=names,
        data=data,
        theta=theta,
    )
    if not diagnose or status == FitStatus.FAILED:
        return result
    found = diagnosis.diagnose(problem, theta, scaled_delta, data=data)
    for text in found.warnings:
        warnings.warn(text, IdentifiabilityWarning, stacklevel=2)
    return dataclasses.replace(result, diagnosis=found)


def fit_power(x: np.ndarray, loss: np.ndarray, **options: Any) -> Fit:
    """Fits `L = A x^-alpha + E` to float[n] points, with E = 0 for fewer than four different x.

    Three points determine three parameters exactly, without any information about their error.

    Args:
        x: float[n].
        loss: float[n].
        **options: passed to `fit`.
    """
    law = POWER if len(np.unique(np.asarray(x, float))) >= 4 else LINE
    return fit(pd.DataFrame({"x": x, "loss": loss}), law, diagnose=False, **options)


def _resolve(law: str | PowerSum, columns: dict[str, Any]) -> tuple[PowerSum, dict[str, Any]]:
    """Returns the law, and the remaining keywords: the names of columns."""
    if isinstance(law, PowerSum):
        return law, columns
    parts: dict[str, Any] = {name: columns.pop(name) for name in ("gmse", "format", "bits") if name in columns}
    options = {name: columns.pop(name) for name in tables.OPTIONS if name in columns}
    return law_named(law, columns=parts, **options), columns


def _status(problem: newton.Problem, theta: np.ndarray, gradient: float) -> tuple[FitStatus, tuple[str, ...]]:
    """Returns the status, and the parameters at an edge of their range."""
    names = np.array(problem.law.parameters)
    bounded = problem.bounded
    place = np.where(problem.is_log, np.log(np.where(problem.is_log, theta, 1.0)), theta)
    with np.errstate(invalid="ignore"):
        margin = 1e-3 * (problem.high - problem.low)
        edge = bounded & ~((problem.low + margin < place) & (place < problem.high - margin))
    n_linear = len(problem.law.coefficients) + problem.law.offset
    edge[:n_linear] = problem.free[:n_linear] & (theta[:n_linear] < np.log(tables.ZERO))
    at_bounds = tuple(names[edge].tolist())
    if not gradient < newton.STATIONARY:
        return FitStatus.FAILED, at_bounds
    return (FitStatus.AT_BOUND if at_bounds else FitStatus.CONVERGED), at_bounds
