"""Identifiability: whether a table of runs determines the parameters of a law.

A perfect fit does not mean that the parameters are determined. If tokens are proportional to parameters, the loss
depends on `alpha ln rho` only, and a larger capacity with a larger exponent fits as well.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from compressed_lm.scaling import newton, search
from compressed_lm.scaling.laws import DATA, SIZE

_NOISE = 1e-3  # lowest noise of repeated runs relative to the loss, even if a few runs are fitted better
_COLLINEAR = 0.999  # ln N and ln D with a higher correlation count as proportional
_SPREAD = 3.0  # alpha is not determined if the ends of its interval differ by a larger factor
_CONDITION = 2e3
_CHI2 = 3.841  # 95 % of chi-squared with one degree of freedom


class IdentifiabilityWarning(UserWarning):
    """Warning that the runs do not determine the parameters of the fitted law."""


@dataclasses.dataclass(frozen=True, eq=False)
class Diagnosis:
    """Diagnosis of how well a table determines a law.

    Attributes:
        condition_number: condition number of the Jacobian of the log losses, with columns scaled to length 1; linear
            and factor parameters in logs.
        correlation: correlation of ln N and ln D over the runs; NaN unless the law has both.
        exponent: name of the exponent of size; None if it is fixed.
        profile: float64[m, 2], values of the exponent and twice the drop of the log-likelihood when all other
            parameters are refitted.
        interval: values whose drop is below 3.84 (95 %); an end is infinite or 0 if there is none within a factor of 8.
        warnings: parameters that are not determined, one sentence each.
    """

    condition_number: float
    correlation: float
    exponent: str | None
    profile: np.ndarray
    interval: tuple[float, float] | None
    warnings: tuple[str, ...]


def diagnose(problem: newton.Problem, theta: np.ndarray, delta: float, *, data: Mapping[str, np.ndarray]) -> Diagnosis:
    """Returns the diagnosis of a fit.

    Args:
        problem: the fitted problem.
        theta: float64[p], the minimum.
        delta: threshold of the Huber loss, in units of the problem.
        data: the columns of the law.
    """
    condition = _condition_number(problem, theta)
    correlation = float("nan")
    if SIZE in data and DATA in data:
        logs = np.log(np.stack([data[SIZE], data[DATA]]).astype(float))
        correlation = float(np.corrcoef(logs)[0, 1]) if (np.ptp(logs, axis=1) > 0).all() else float("nan")
    exponent = problem.law.exponents[0] if SIZE not in problem.law.inputs else _size_exponent(problem)
    name = exponent if problem.free[problem.index[exponent]] else None
    profile: np.ndarray = np.empty((0, 2))
    interval: tuple[float, float] | None = None
    if name is not None:
        profile, interval = _profile(problem, theta, delta, name)

    said = []
    free_capacity = any(problem.free[problem.index[p.name]] for f in problem.law.factors for p in f.parameters)
    if interval is not None and abs(correlation) > _COLLINEAR:
        ratio = float(np.exp(np.mean(np.log(data[DATA]) - np.log(data[SIZE]))))
        lost = (
            "a larger capacity rho cannot be distinguished from a larger alpha"
            if free_capacity
            else "the exponents of size and data cannot be distinguished"
        )
        said.append(
            f"{DATA} is proportional to {SIZE} in these runs (correlation of their logs {correlation:.5f}, about "
            f"{ratio:.3g} to 1), so {lost}; values of {name} from {interval[0]:.3g} to {interval[1]:.3g} are "
            f"compatible with the losses. Add runs with other ratios, or fix {name}."
        )
    if interval is not None and not interval[1] < _SPREAD * interval[0]:
        low, high = interval
        also = " and with it every capacity" if free_capacity else ""
        said.append(
            f"{name} is not determined{also}: values from {low:.3g} to {high:.3g} fit these runs about as well "
            f"(profile likelihood, 95 %). Fix {name}, or add runs of other sizes."
        )
    if condition > _CONDITION:
        said.append(
            f"The condition number of the fit is {condition:.1e}: some combination of the parameters hardly changes "
            "the loss."
        )
    return Diagnosis(condition, correlation, name, profile, interval, tuple(said))


def _size_exponent(problem: newton.Problem) -> str:
    return next(power.exponent for term in problem.law.terms for power in term.powers if power.input == SIZE)


def _condition_number(problem: newton.Problem, theta: np.ndarray) -> float:
    jacobian = dataclasses.replace(problem, raw=False).evaluate(theta[None])[1][0]
    jacobian = np.where(problem.is_log, np.abs(theta), 1.0)[:, None] * jacobian
    jacobian = jacobian[problem.free]
    lengths = np.sqrt((jacobian**2).sum(1))
    if not (lengths > 0).all():
        return float("inf")
    values = np.linalg.svd(jacobian / lengths[:, None], compute_uv=False)
    return float(values[0] / values[-1]) if values[-1] > 0 else float("inf")


def _profile(
    problem: newton.Problem, theta: np.ndarray, delta: float, name: str
) -> tuple[np.ndarray, tuple[float, float]]:
    """Returns likelihood ratios over values of one exponent, and the interval in which they are small."""
    k = problem.index[name]
    step = np.linspace(-1, 1, 51)  # the estimate is in the middle, and most values are close to it
    values = theta[k] * 8.0 ** (np.sign(step) * np.abs(step) ** 2.5)
    free = problem.free.copy()
    free[k] = False
    held = dataclasses.replace(problem, free=free)
    starts = np.tile(theta, (len(values), 1))
    starts[:, k] = values
    starts = np.concatenate([starts, [search.project(held, start) for start in starts]])
    _, objective, _ = newton.minimise(
        held, starts, delta=delta, stages=search.stages(problem, theta, delta), max_steps=60
    )
    objective = np.where(np.isfinite(objective), objective, np.inf).reshape(2, -1).min(0)

    # The likelihood has the objective as its negative log, and a fitted scale. The objective grows as the power
    # `degree` of the residuals (2 within delta, 1 far beyond). The scale is at least the noise of repeated runs.
    size = np.abs(problem.residual(problem.evaluate(theta[None])[0])[0])
    noise = _NOISE * (np.mean(problem.loss) if problem.raw else 1.0)
    floor = len(size) * (noise**2 / 2 if noise <= delta else delta * (noise - delta / 2))
    best = float(objective.min())
    degree = float((size * np.minimum(size, delta)).sum() / max(best, 1e-300)) if best > floor else 2.0
    degree = float(np.clip(degree, 1.0, 2.0))
    added = max(0.0, floor - best)
    ratio = 2 * len(size) / degree * np.log((objective + added) / (best + added))

    inside = ratio <= _CHI2
    middle = int(np.argmin(ratio))
    low, high = middle, middle
    while low > 0 and inside[low - 1]:
        low -= 1
    while high < len(values) - 1 and inside[high + 1]:
        high += 1
    ends = []
    for end, beyond, nothing in ((low, low - 1, 0.0), (high, high + 1, float("inf"))):
        if not 0 <= beyond < len(values):
            ends.append(nothing)
            continue
        share = (_CHI2 - ratio[end]) / (ratio[beyond] - ratio[end]) if np.isfinite(ratio[beyond]) else 0.0
        ends.append(float(values[end] * (values[beyond] / values[end]) ** share))
    return np.stack([values, ratio], axis=1), (ends[0], ends[1])
