"""Whether a table of runs determines the parameters of a law, or leaves some of them to chance.

A law can fit to every digit and still say nothing: where tokens grow in proportion to parameters, only `alpha ln rho`
shows in the loss, and a larger capacity with a larger exponent does as well.
"""

import dataclasses

import numpy as np

from compressed_lm.scaling import newton, search
from compressed_lm.scaling.laws import DATA, SIZE

_NOISE = 1e-3  # runs repeat no better than to this share of the loss, however well a few of them are fitted
_COLLINEAR = 0.999  # correlation of ln N and ln D from which on they count as proportional
_SPREAD = 3.0  # an interval of alpha wider than this factor is too wide
_CONDITION = 2e3
_CHI2 = 3.841  # 95 % of chi-squared with one degree of freedom


class IdentifiabilityWarning(UserWarning):
    """The runs do not determine the parameters of the law that was fitted to them."""


@dataclasses.dataclass(frozen=True, eq=False)
class Diagnosis:
    """How well a table determines a law.

    Attributes:
        condition_number: of the Jacobian of the log losses, columns scaled to length 1; linear parameters and those of
            factors in logs.
        correlation: of ln N and ln D over the runs; NaN where the law has not both.
        exponent: name of the exponent of size; None where it is fixed.
        profile: float64[m, 2], values of it and twice the drop of the log-likelihood when all else is fitted again.
        interval: where this stays below 3.84 (95 %); an end is infinite or 0 where it does within a factor of 8.
        warnings: what is not determined, a sentence each.
    """

    condition_number: float
    correlation: float
    exponent: str | None
    profile: np.ndarray
    interval: tuple[float, float] | None
    warnings: tuple[str, ...]


def diagnose(problem: newton.Problem, theta: np.ndarray, delta: float, *, data) -> Diagnosis:
    """The diagnosis of a fit.

    Args:
        problem: what was fitted.
        theta: float64[p], the minimum.
        delta: threshold of the Huber loss, in units of the problem.
        data: the columns of the law.
    """
    condition = _condition_number(problem, theta)
    correlation = float("nan")
    if SIZE in data and DATA in data:
        logs = np.log(np.stack([data[SIZE], data[DATA]]).astype(float))
        correlation = float(np.corrcoef(logs)[0, 1]) if (np.ptp(logs, axis=1) > 0).all() else float("nan")
    name = problem.law.exponents[0] if SIZE not in problem.law.inputs else _size_exponent(problem)
    name = name if problem.free[problem.index[name]] else None
    profile, interval = (np.empty((0, 2)), None) if name is None else _profile(problem, theta, delta, name)

    said = []
    free_capacity = any(problem.free[problem.index[p.name]] for f in problem.law.factors for p in f.parameters)
    if name is not None and abs(correlation) > _COLLINEAR:
        ratio = float(np.exp(np.mean(np.log(data[DATA]) - np.log(data[SIZE]))))
        lost = (
            "a larger capacity rho cannot be told from a larger alpha"
            if free_capacity
            else ("the exponents of size and data cannot be told apart")
        )
        said.append(
            f"{DATA} is proportional to {SIZE} in these runs (correlation of their logs {correlation:.5f}, about "
            f"{ratio:.3g} to 1), so {lost}; from {interval[0]:.3g} to {interval[1]:.3g} of {name} is compatible with "
            f"the losses. Add runs with other ratios, or fix {name}."
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
            f"The condition number of the fit is {condition:.1e}: some combination of the parameters leaves the loss "
            "as it is."
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


def _profile(problem, theta, delta, name) -> tuple[np.ndarray, tuple[float, float]]:
    """Likelihood ratios over values of one exponent, and the interval in which they are small."""
    k = problem.index[name]
    step = np.linspace(-1, 1, 51)  # the estimate is the one in the middle, and most values are close to it
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

    # The likelihood whose negative log is the objective, its scale fitted too: the objective grows as the power
    # `degree` of the residuals (2 within delta, 1 far beyond), and the scale is at least that of repeated runs.
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
