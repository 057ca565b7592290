"""Batched Newton minimiser of the summed Huber loss, for many starts or many resampled tables at a time.

All members of a batch take damped Newton steps together, in a few NumPy calls. Curvature is exact for residuals in the
quadratic zone of the Huber loss, otherwise that of the law only; the sign of negative curvature is flipped. The
threshold decreases in stages, because the loss is smoother with a large one. Matrices are small and use one thread: on
busy cores, a threaded LAPACK would mostly wait.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import scipy.special

from compressed_lm.scaling.laws import SIZE, PowerSum

STATIONARY = 1e-4  # largest gradient per row, in units of the threshold, that counts as zero
_CHUNK_NUMBERS = 200_000  # numbers of one array [b, n], so that it fits in the cache


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """Fitting problem: a law and a table, in units of the table's geometric means.

    A parameter set theta is a row float64[p] in the order of `law.parameters`: logs of the coefficients and of E, then
    exponents and factor parameters unchanged. The search uses coordinates `u`: the same logs, and for each bounded
    parameter the logit of its position between the bounds.

    Attributes:
        law: the law.
        logs: float64[i, n], ln of the inputs.
        columns: the encoded column of each factor.
        loss: float64[n], losses.
        raw: whether residuals are of the loss instead of its log.
        low, high: float64[p], bounds in search coordinates; not finite if there is no bound.
        is_log: bool[p], whether the position between the bounds is in the log of the parameter.
        start: float64[p], values of the fixed parameters.
        free: bool[p], parameters that are fitted.
        likely: float64[p, 2], range of the first search for each bounded parameter.
    """

    law: PowerSum
    logs: np.ndarray
    columns: Sequence[np.ndarray]
    loss: np.ndarray
    raw: bool
    low: np.ndarray
    high: np.ndarray
    is_log: np.ndarray
    start: np.ndarray
    free: np.ndarray
    likely: np.ndarray

    @property
    def index(self) -> Mapping[str, int]:
        """Index of each parameter."""
        return {name: k for k, name in enumerate(self.law.parameters)}

    @property
    def bounded(self) -> np.ndarray:
        """Free exponents and factor parameters, bool[p]."""
        return np.isfinite(self.low) & self.free

    def to_u(self, theta: np.ndarray) -> np.ndarray:
        """Returns search coordinates, float64[b, p], of parameter sets; values at or beyond a bound move inside."""
        u = theta.copy()
        k = self.bounded
        place = np.where(self.is_log[k], np.log(np.maximum(theta[:, k], 1e-300)), theta[:, k])
        share = (place - self.low[k]) / (self.high[k] - self.low[k])
        u[:, k] = scipy.special.logit(np.clip(share, 1e-4, 1 - 1e-4))
        return u

    def from_u(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns parameter sets with their first and second derivatives by u, each float64[b, p]."""
        theta, first, second = u.copy(), np.ones_like(u), np.zeros_like(u)
        k = self.bounded
        share, width = scipy.special.expit(u[:, k]), self.high[k] - self.low[k]
        slope = width * share * (1 - share)
        bend = slope * (1 - 2 * share)
        place = self.low[k] + width * share
        value = np.where(self.is_log[k], np.exp(np.where(self.is_log[k], place, 0)), place)
        theta[:, k] = value
        first[:, k] = np.where(self.is_log[k], value * slope, slope)
        second[:, k] = np.where(self.is_log[k], value * (slope**2 + bend), bend)
        return theta, first, second

    def evaluate(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, Callable[[np.ndarray], np.ndarray]]:
        """Returns prediction float64[b, n], Jacobian float64[b, p, n], and a function for second derivatives.

        Predictions are logs of the loss, or losses if `raw`. The function takes weights float64[b, n] and returns the
        weighted sum of the second derivatives over the rows, float64[b, p, p].
        """
        law, at = self.law, self.index
        b, n = len(theta), len(self.loss)
        rows = dict(zip(law.inputs, self.logs, strict=True))
        log_rho, slopes, places = self._capacity(theta)
        terms, slope_of, parts_of = [], [], []
        for term in law.terms:
            log, places_k, parts = theta[:, at[term.coefficient], None] + np.zeros(n), [at[term.coefficient]], [1.0]
            size_exponent = None
            for power in term.powers:
                x = rows[power.input][None]
                if power.input == SIZE and law.factors and term.compressed:
                    x = x + log_rho
                    size_exponent = power.sign * theta[:, at[power.exponent], None], at[power.exponent], power.sign
                log = log + power.sign * theta[:, at[power.exponent], None] * x
                places_k.append(at[power.exponent])
                parts.append(power.sign * x)
            gradient = np.empty((b, len(parts), n))
            for j, part in enumerate(parts):
                gradient[:, j] = part
            if size_exponent:
                gradient = np.concatenate([gradient, size_exponent[0][:, None] * slopes], axis=1)
                places_k = [*places_k, *places]
            terms.append(log)
            slope_of.append((places_k, gradient))
            parts_of.append(size_exponent)
        if law.offset:
            terms.append(np.broadcast_to(theta[:, at["E"], None], (b, n)))
            slope_of.append(([at["E"]], np.ones((b, 1, n))))
            parts_of.append(None)
        top = terms[0]
        for log in terms[1:]:
            top = np.maximum(top, log)
        shares = [np.exp(log - top) for log in terms]
        total = sum(shares)
        shares = [share / total for share in shares]
        predicted = top + np.log(total)
        jacobian = np.zeros((b, theta.shape[1], n))
        for share, (where, gradient) in zip(shares, slope_of, strict=True):
            for j, place in enumerate(where):
                jacobian[:, place] += share * gradient[:, j]
        scale = np.exp(predicted) if self.raw else None

        def bend(weights: np.ndarray) -> np.ndarray:
            inner = weights if scale is None else weights * scale
            out = np.zeros((b, theta.shape[1], theta.shape[1]))
            capacity = np.zeros((b, n))
            for share, (where, gradient), size in zip(shares, slope_of, parts_of, strict=True):
                part = inner * share
                block = np.matmul(gradient * part[:, None], gradient.swapaxes(1, 2))
                for j, place in enumerate(where):
                    for m, other in enumerate(where):
                        out[:, place, other] += block[:, j, m]
                if size:
                    exponent, place, sign = size
                    cross = sign * np.matmul(slopes, part[:, :, None])[:, :, 0]
                    for j, other in enumerate(places):
                        out[:, place, other] += cross[:, j]
                        out[:, other, place] += cross[:, j]
                    capacity += exponent * part
            self._add_capacity_curvature(out, theta, capacity)
            if not self.raw:  # second derivative of the log of a sum; with exp this term cancels
                out -= np.matmul(jacobian * inner[:, None], jacobian.swapaxes(1, 2))
            return out

        if scale is not None:
            return scale, jacobian * scale[:, None], bend
        return predicted, jacobian, bend

    def terms(self, theta: np.ndarray) -> np.ndarray:
        """Returns the loss predicted by each of b parameter sets, float64[b, n]."""
        predicted = self.evaluate(theta)[0]
        return predicted if self.raw else np.exp(predicted)

    def objective(self, theta: np.ndarray, delta: float, weights: np.ndarray | None = None) -> np.ndarray:
        """Returns the summed Huber loss, float64[b]."""
        size = np.abs(self.residual(self.evaluate(theta)[0]))
        value = np.where(size <= delta, size**2 / 2, delta * (size - delta / 2))
        return value.sum(1) if weights is None else (value * weights).sum(1)

    def residual(self, predicted: np.ndarray) -> np.ndarray:
        """Returns measured minus predicted, float64[b, n], in logs unless `raw`."""
        return (self.loss if self.raw else np.log(self.loss))[None] - predicted

    def _capacity(self, theta: np.ndarray) -> tuple[np.ndarray | float, np.ndarray, list[int]]:
        """Returns ln rho [b, n], its derivatives [b, q, n] and q parameter indices; shared parameters occur once."""
        log_rho: np.ndarray | float = 0.0
        slopes: list[np.ndarray] = []
        places: list[int] = []
        for factor, z in zip(self.law.factors, self.columns, strict=True):
            where = [self.index[parameter.name] for parameter in factor.parameters]
            value, slope = factor.log_rho(theta[:, where], z)
            log_rho = log_rho + value
            for j, place in enumerate(where):
                if place in places:
                    slopes[places.index(place)] = slopes[places.index(place)] + slope[:, j]
                else:
                    places.append(place)
                    slopes.append(slope[:, j])
        return log_rho, np.stack(slopes, 1) if slopes else np.zeros((len(theta), 0, len(self.loss))), places

    def _add_capacity_curvature(self, out, theta, weights):
        for factor, z in zip(self.law.factors, self.columns, strict=True):
            where = [self.index[parameter.name] for parameter in factor.parameters]
            block = factor.curvature(theta[:, where], z, weights)
            out[:, np.array(where)[:, None], np.array(where)[None]] += block


def minimise(
    problem: Problem,
    theta: np.ndarray,
    *,
    delta: float,
    weights: np.ndarray | None = None,
    stages: Sequence[float] = (1.0,),
    max_steps: int = 200,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Finds a local minimum from each start.

    Args:
        problem: the fitting problem.
        theta: float64[b, p], starts.
        delta: threshold of the Huber loss.
        weights: float64[b, n], count of each row; 1 by default.
        stages: multiples of delta for successive stages, ending with 1.
        max_steps: maximum number of steps per stage.

    Returns:
        theta float64[b, p], summed Huber loss float64[b], and the largest gradient per row in units of delta,
        float64[b].
    """
    chunk = max(1, _CHUNK_NUMBERS // len(problem.loss))
    parts = []
    for begin in range(0, len(theta), chunk):
        part = slice(begin, begin + chunk)
        w = np.ones((len(theta[part]), len(problem.loss))) if weights is None else weights[part].astype(float)
        u = problem.to_u(theta[part])
        for stage in stages:
            u, value, gradient = _descend(problem, u, w, delta * stage, max_steps)
        parts.append((problem.from_u(u)[0], value * delta, gradient))
    theta, value, gradient = (np.concatenate(column) for column in zip(*parts, strict=True))
    return theta, value, gradient


def _descend(problem, u, weights, delta, max_steps):
    """Takes damped Newton steps; the loss is in units of delta, so that the gradient of a row is at most of order 1."""
    u, rows = u.copy(), weights.sum(1)
    damping = np.full(len(u), 1e-2)
    value, gradient, hessian, scale = _derivatives(problem, u, weights, delta)
    moving = np.arange(len(u))
    for _ in range(max_steps):
        largest = np.abs(gradient[moving]).max(1, initial=0) / rows[moving]
        moving = moving[(largest > 1e-10) & (damping[moving] < 1e10)]
        if not moving.size:
            break
        step, gain = _step(gradient[moving], hessian[moving], scale[moving], damping[moving])
        trial = u[moving]
        trial[:, problem.free] += np.clip(step, -5, 5)
        found = _derivatives(problem, trial, weights[moving], delta)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = (value[moving] - found[0]) / gain
        better = np.isfinite(found[0]) & (found[0] < value[moving])
        damping[moving] *= np.where(~better, 5.0, np.where(ratio > 0.75, 0.2, np.where(ratio < 0.25, 2.0, 1.0)))
        damping = np.maximum(damping, 1e-12)
        kept = moving[better]
        u[kept] = trial[better]
        value[kept], gradient[kept], hessian[kept], scale[kept] = (array[better] for array in found)
    return u, value, np.abs(gradient).max(1, initial=0) / rows


def _derivatives(problem, u, weights, delta):
    """Returns value [b], gradient [b, f], Hessian [b, f, f] and scale [b, f] in the f free coordinates."""
    theta, first, second = problem.from_u(u)
    with np.errstate(over="ignore", invalid="ignore"):
        predicted, jacobian, bend = problem.evaluate(theta)
        residual = problem.residual(predicted)
        size = np.abs(residual)
        inside = size <= delta
        value = (weights * np.where(inside, size**2 / (2 * delta), size - delta / 2)).sum(1)
        pull = weights * np.clip(residual / delta, -1, 1)
        gradient = -np.matmul(jacobian, pull[:, :, None])[:, :, 0]
        hessian = np.matmul(jacobian * (weights * inside / delta)[:, None], jacobian.swapaxes(1, 2)) - bend(pull)
        hessian = hessian * first[:, :, None] * first[:, None, :]
        diagonal = np.arange(u.shape[1])
        hessian[:, diagonal, diagonal] += gradient * second
        gradient = gradient * first
        scale = np.sqrt((weights[:, None] * jacobian**2).sum(2)) * first + 1e-8 * np.sqrt(weights.sum(1))[:, None]
    free = problem.free
    return value, gradient[:, free], hessian[:, free][:, :, free], scale[:, free]


def _step(gradient, hessian, scale, damping):
    """Returns the Newton step [b, f] of a damped, positive definite model, and its predicted decrease [b]."""
    h = hessian / (scale[:, :, None] * scale[:, None, :])
    h = np.where(np.isfinite(h), h, 0.0)
    g = np.where(np.isfinite(gradient), gradient, 0.0) / scale
    values, vectors = np.linalg.eigh(h)
    along = np.matmul(vectors.swapaxes(1, 2), g[:, :, None])[:, :, 0]
    size = np.abs(values)
    move = -along / (size + damping[:, None] * np.maximum(size.max(1, keepdims=True), 1e-12) + 1e-300)
    gain = -(along * move).sum(1) - 0.5 * (size * move**2).sum(1)
    return np.matmul(vectors, move[:, :, None])[:, :, 0] / scale, gain
