"""Fits of the laws: exponents searched, linear parameters solved, then all refined together under a robust loss.

The first half is variable projection with non-negative least squares (VPNLS, arXiv 2603.22339): given the exponents a
law is linear, so only the exponents need a search. The second half minimises what Hoffmann et al. 2022 minimise, the
Huber loss of log L, but *summed*: averaging it makes optimisers stop early (Besiroglu et al. 2024).
"""

import dataclasses
import enum
import itertools
from collections.abc import Mapping

import numpy as np
import scipy.optimize
import scipy.special

from compressed_lm.scaling.laws import LINE, POWER, PowerSum

# Below this share of the typical loss a coefficient or E counts as zero.
_ZERO = 1e-6


class FitStatus(enum.StrEnum):
    """How a fit ended."""

    CONVERGED = "converged"
    AT_BOUND = "at_bound"  # a parameter lies at the edge of its range: the data do not determine it
    FAILED = "failed"  # no start reached a stationary point: do not use the parameters


@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
    """A fitted law.

    Attributes:
      law: what was fitted.
      params: value of each parameter, in the units of the given inputs and loss.
      status: whether to believe it.
      at_bounds: names of the parameters at the edge of their range.
      objective: summed Huber loss of the log residuals.
      residuals: float64[n], log(measured) - log(predicted).
      delta: threshold of the Huber loss.
    """

    law: PowerSum
    params: Mapping[str, float]
    status: FitStatus
    at_bounds: tuple[str, ...]
    objective: float
    residuals: np.ndarray
    delta: float

    def predict(self, *inputs) -> np.ndarray:
        """The fitted loss at `inputs`, one array per input of the law, in the law's order."""
        return self.law(self.params, *inputs)


def fit(
    law: PowerSum,
    inputs: Mapping[str, np.ndarray],
    loss: np.ndarray,
    *,
    delta: float = 1e-3,
    exponent_range: tuple[float, float] = (0.01, 2.0),
    grid: int = 12,
    starts: int = 16,
) -> Fit:
    """The parameters of a law that minimise the summed Huber loss of log L.

    The result does not depend on the units: inputs and loss are divided by their geometric means and the parameters
    scaled back.

    Args:
      law: one of `laws`.
      inputs: a positive array float[n] for each input of the law.
      loss: float[n], positive; any unit.
      delta: log residuals below it are squared, larger ones count by their size. Towards 0 this becomes least absolute
        deviations.
      exponent_range: lowest and highest exponent.
      grid: exponents tried along each axis, geometrically spaced.
      starts: how many of the grid's nodes, the best first, are refined.

    Raises:
      ValueError: the data cannot be fitted: wrong names, shapes or values, or fewer points than parameters.
    """
    x, loss = _checked(law, inputs, loss)
    x_scale, loss_scale = np.exp(np.log(x).mean(axis=1)), np.exp(np.log(loss).mean())
    log_x, log_loss = np.log(x / x_scale[:, None]), np.log(loss / loss_scale)

    low, high = exponent_range
    n_linear = len(law.coefficients) + law.offset
    nodes = [
        _project(law, np.array(node), log_x, log_loss)
        for node in itertools.product(np.geomspace(low, high, grid), repeat=len(x))
    ]
    nodes.sort(key=lambda theta: _objective(theta, law, log_x, log_loss, delta)[0])
    ends = [_refine(theta, law, log_x, log_loss, delta, exponent_range) for theta in nodes[:starts]]
    theta, objective, _ = min(ends, key=lambda end: end[1])
    for _ in range(4):  # a restart forgets a stale curvature estimate, which the kinks of the Huber loss produce
        theta, objective, stationary = _refine(theta, law, log_x, log_loss, delta, exponent_range)

    params = dict(zip(law.parameters, theta, strict=True))
    margin = 1e-3 * (high - low)
    at_bounds = [name for name in law.exponents if not low + margin < params[name] < high - margin]
    at_bounds += [name for name in law.parameters[:n_linear] if params[name] < np.log(_ZERO)]
    for k, (coefficient, exponent) in enumerate(zip(law.coefficients, law.exponents, strict=True)):
        params[coefficient] = float(np.exp(params[coefficient]) * loss_scale * x_scale[k] ** params[exponent])
    if law.offset:
        params["E"] = 0.0 if "E" in at_bounds else float(np.exp(params["E"]) * loss_scale)
    params = {name: float(value) for name, value in params.items()}
    status = FitStatus.FAILED if not stationary else FitStatus.AT_BOUND if at_bounds else FitStatus.CONVERGED
    residuals = log_loss - _log_predict(theta, law, log_x)[0]
    return Fit(law, params, status, tuple(at_bounds), float(objective), residuals, delta)


def fit_power(x: np.ndarray, loss: np.ndarray, **options) -> Fit:
    """`L = A x^-alpha + E` fitted to float[n] points; the straight line E = 0 for fewer than four different x.

    Three points determine three parameters exactly and tell nothing about their error, so a floor is not read from
    them. `options` go to `fit`.
    """
    law = POWER if len(np.unique(np.asarray(x, float))) >= 4 else LINE
    return fit(law, {"x": x}, loss, **options)


def _checked(law: PowerSum, inputs: Mapping[str, np.ndarray], loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inputs as float64[k, n] and losses as float64[n], positive and finite."""
    if set(inputs) != set(law.inputs):
        raise ValueError(
            f"The law {law.name!r} takes the inputs {', '.join(law.inputs)}, but {', '.join(inputs) or 'none'} were "
            "given."
        )
    loss = np.asarray(loss, float)
    columns = [np.asarray(inputs[name], float) for name in law.inputs]
    for name, column in zip((*law.inputs, "loss"), (*columns, loss), strict=True):
        if column.ndim != 1 or column.shape != loss.shape:
            raise ValueError(
                f"{name} has the shape {column.shape}, the loss {loss.shape}. Expected one-dimensional arrays of one "
                "length."
            )
        bad = np.flatnonzero(~(np.isfinite(column) & (column > 0)))
        if bad.size:
            raise ValueError(
                f"{name}[{bad[0]}] is {column[bad[0]]}. A power law needs positive, finite numbers: drop such rows "
                "first."
            )
    if len(loss) < len(law.parameters):
        raise ValueError(
            f"{len(loss)} points cannot determine the {len(law.parameters)} parameters {', '.join(law.parameters)} of "
            f"the law {law.name!r}. Add runs of other sizes, or fit a law without E."
        )
    for name, column in zip(law.inputs, columns, strict=True):
        if np.ptp(column) == 0:
            raise ValueError(
                f"Every point has {name} = {column[0]:g}, so its exponent cannot be fitted. Add runs where {name} "
                "differs."
            )
    return np.stack(columns), loss


def _project(law: PowerSum, exponents: np.ndarray, log_x: np.ndarray, log_loss: np.ndarray) -> np.ndarray:
    """Start of the refinement: log of the best non-negative linear parameters for these exponents, then these."""
    terms = list(np.exp(-exponents[:, None] * log_x)) + [np.ones_like(log_loss)] * law.offset
    relative = np.stack(terms, axis=1) / np.exp(log_loss)[:, None]
    linear, _ = scipy.optimize.nnls(relative, np.ones_like(log_loss))
    # A term that the projection switched off starts small instead of at zero, where its gradient would vanish.
    return np.concatenate([np.log(np.maximum(linear, 1e-3)), exponents])


def _log_predict(theta: np.ndarray, law: PowerSum, log_x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log of the law, float64[n], and its derivative by theta, float64[n, len(theta)]."""
    k = len(law.exponents)
    linear, exponents = theta[:-k], theta[-k:]
    terms = np.broadcast_to(linear[:, None], (len(linear), log_x.shape[1])).copy()
    terms[:k] -= exponents[:, None] * log_x
    top = terms.max(axis=0)
    weights = np.exp(terms - top)
    total = weights.sum(axis=0)
    weights /= total
    return top + np.log(total), np.concatenate([weights, -weights[:k] * log_x]).T


def _objective(
    theta: np.ndarray, law: PowerSum, log_x: np.ndarray, log_loss: np.ndarray, delta: float
) -> tuple[float, np.ndarray]:
    """Summed Huber loss of the log residuals and its gradient by theta."""
    predicted, jacobian = _log_predict(theta, law, log_x)
    residual = log_loss - predicted
    size = np.abs(residual)
    value = np.where(size <= delta, residual**2 / 2, delta * (size - delta / 2)).sum()
    return value, -jacobian.T @ np.clip(residual, -delta, delta)


def _refine(theta, law, log_x, log_loss, delta, exponent_range) -> tuple[np.ndarray, float, bool]:
    """A local minimum from one start: theta, its objective, and whether the gradient vanishes there.

    Exponents are searched as logits of their place in the range, which keeps them inside it. BFGS is enough for so few
    parameters and, unlike L-BFGS-B, makes no threaded LAPACK calls, whose waiting takes most of the time on busy cores.
    """
    low, high = exponent_range
    k = len(law.exponents)

    def split(u):
        share = scipy.special.expit(u[-k:])
        return np.concatenate([u[:-k], low + (high - low) * share]), (high - low) * share * (1 - share)

    def scaled(u):  # in units of delta * n, so that the optimiser's own tolerances mean something
        theta, slope = split(u)
        value, gradient = _objective(theta, law, log_x, log_loss, delta)
        gradient[-k:] *= slope
        return value / (delta * log_loss.size), gradient / (delta * log_loss.size)

    share = np.clip((theta[-k:] - low) / (high - low), 1e-3, 1 - 1e-3)
    start = np.concatenate([theta[:-k], scipy.special.logit(share)])
    end = scipy.optimize.minimize(scaled, start, jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 2000})
    stationary = np.isfinite(end.fun) and np.abs(end.jac).max() < 1e-4
    return split(end.x)[0], end.fun * delta * log_loss.size, bool(stationary)
