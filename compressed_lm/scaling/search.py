"""Global search: spread exponents and capacities, and solve the linear parameters for each of them."""

import numpy as np
import scipy.optimize

from compressed_lm.errors import InputError
from compressed_lm.scaling import newton

# Largest factor between the thresholds of two stages. A wide threshold is closer to least squares and smoother.
_STAGE = 8.0


def search(problem: newton.Problem, delta: float, *, starts: int) -> tuple[np.ndarray, float]:
    """Returns the best minimum found, float64[p], and its largest gradient per row."""
    nodes = np.stack([project(problem, node) for node in _nodes(problem)])
    nodes = nodes[np.argsort(problem.objective(nodes, delta), kind="stable")]
    # Half of the starts are the best nodes; the other half is spread over the rest, to find other basins.
    half = min(len(nodes), starts - starts // 2)
    rest = nodes[half:]
    rest = rest[:: max(1, len(rest) // max(1, starts // 2))][: starts // 2]
    ends, value, gradient = newton.minimise(
        problem,
        np.concatenate([nodes[:half], rest]),
        delta=delta,
        stages=stages(problem, nodes[0], delta),
        max_steps=60,
    )
    value = np.where(np.isfinite(value), value, np.inf)
    few = np.argsort(value, kind="stable")[:3]
    ends, value, gradient = newton.minimise(problem, ends[few], delta=delta, max_steps=400)
    best = int(np.argmin(value))
    return ends[best], float(gradient[best])


def _nodes(problem: newton.Problem, *, count: int = 256) -> np.ndarray:
    """Returns start values, float64[m, p], with bounded parameters evenly spread over their likely range, in logs."""
    places = np.flatnonzero(problem.bounded)
    if not places.size:
        return problem.start[None]
    nodes = np.tile(problem.start, (count, 1))
    low, high = problem.likely[places].T
    # Multiples of powers of a generalised golden ratio fill a cube of any dimension evenly (Roberts 2018).
    ratio = 1.5
    for _ in range(40):
        ratio = (1 + ratio) ** (1 / (len(places) + 1))
    share = (0.5 + np.arange(1, count + 1)[:, None] * ratio ** -np.arange(1.0, len(places) + 1)[None]) % 1
    nodes[:, places] = low * (high / low) ** share
    return nodes


def project(problem: newton.Problem, node: np.ndarray) -> np.ndarray:
    """Returns a node with its linear parameters replaced by logs of the best non-negative ones, float64[p]."""
    law = problem.law
    n_linear = len(law.coefficients) + law.offset
    # A parameter set in which only one linear parameter is 1, and the others are 0, predicts the term of this one.
    alone = np.tile(node, (n_linear, 1))
    alone[:, :n_linear] = np.where(np.eye(n_linear, dtype=bool), 0.0, -np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.nan_to_num(problem.terms(alone)) / (1.0 if problem.raw else problem.loss)
    target = problem.loss if problem.raw else np.ones_like(problem.loss)
    free = problem.free[:n_linear]
    target = target - np.exp(node[:n_linear][~free]) @ terms[~free]
    if not (np.isfinite(target).all() and np.isfinite(terms).all()):
        raise InputError(
            "The values of a column differ so much that their powers overflow. Drop rows with wrong values, or give a "
            "narrower exponent_range."
        )
    out = node.copy()
    if free.any():
        linear, _ = scipy.optimize.nnls(terms[free].T, target)
        # A term with coefficient 0 starts at a small value instead, because its gradient is 0 at 0.
        out[:n_linear][free] = np.log(np.maximum(linear, 1e-3))
    return out


def stages(problem: newton.Problem, theta: np.ndarray, delta: float) -> list[float]:
    """Returns multiples of delta, from about the median residual of a parameter set float64[p] down to 1."""
    typical = float(np.median(np.abs(problem.residual(problem.evaluate(theta[None])[0]))))
    count = max(0, int(np.ceil(np.log(max(typical / delta, 1.0)) / np.log(_STAGE))))
    return [_STAGE**k for k in range(count, -1, -1)]
