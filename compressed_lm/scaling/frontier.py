"""Quantities derived from a fitted law: capacity, dense-equivalent size, and optimal size and data for a budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from compressed_lm.errors import InputError
from compressed_lm.scaling import tables
from compressed_lm.scaling.bootstrap import Estimate, estimate
from compressed_lm.scaling.capacity import Free
from compressed_lm.scaling.laws import DATA, DENSE, SIZE, Params, Term

if TYPE_CHECKING:
    from compressed_lm.scaling.fit import Fit

_FLOPS = 6.0  # training FLOPs per parameter and token, forward and backward


@dataclasses.dataclass(frozen=True)
class Optimum:
    """Optimal model for a training budget.

    Attributes:
        flops: the budget (FLOPs).
        n_params, tokens: size and data that minimise the loss.
        loss: the minimum.
        exponent: d ln N* / d ln C, `beta / (alpha + beta)`.
    """

    flops: float
    n_params: Estimate
    tokens: Estimate
    loss: Estimate
    exponent: Estimate


def optimum(
    fit: Fit, flops: float, *, per_parameter_and_token: float = _FLOPS, level: float = 0.95, **at: Any
) -> Optimum:
    """Returns `N*(C), D*(C)` with the lowest loss under `C = 6 N D` (Hoffmann et al. 2022, equation 4).

    Args:
        fit: fit of a law with one term in N alone (times a capacity) and one in D alone; without bootstrap, intervals
            are NaN.
        flops: the budget C (FLOPs).
        per_parameter_and_token: training FLOPs per parameter and token.
        level: share of the samples within the intervals.
        **at: values of the law's other columns, such as `format="int4"` or `gmse=0.0115`; dense if not given.

    Raises:
        InputError: the law has another form.
    """
    law = fit.law
    exponents = []
    for name in (SIZE, DATA):
        found = {p.exponent for term in law.terms for p in term.powers if p.input == name}
        mixed = any(len({p.input for p in term.powers} & {SIZE, DATA}) > 1 for term in law.terms)
        if len(found) != 1 or mixed:
            raise InputError(f"The law {law.name!r} has no single power of {name}, so its optimum has no closed form.")
        exponents.append(found.pop())
    table = _dense_row(fit, at)
    alpha_name, beta_name = exponents

    @np.errstate(all="ignore")  # if the size or data term is 0 there is no optimum: infinity or NaN
    def solve(params: Mapping[str, Any]) -> dict[str, Any]:
        alpha, beta = params[alpha_name], params[beta_name]
        terms = law.term_values(params, table)
        size = sum(np.squeeze(v) for v, t in zip(terms, law.terms, strict=True) if SIZE in _inputs(t))
        data = sum(np.squeeze(v) for v, t in zip(terms, law.terms, strict=True) if DATA in _inputs(t))
        budget = flops / per_parameter_and_token
        ratio = (alpha * size) / (beta * data)
        n = ratio ** (1 / (alpha + beta)) * budget ** (beta / (alpha + beta))
        loss = size * n**-alpha + data * (budget / n) ** -beta + (params["E"] if law.offset else 0.0)
        return {"n": n, "d": budget / n, "loss": loss, "exponent": beta / (alpha + beta)}

    def one(name: str) -> Estimate:
        value = float(solve(fit.params)[name])
        if fit.samples is None:
            return Estimate(value, float("nan"), float("nan"), float("nan"))
        return estimate(fit, lambda params: solve(params)[name], level=level)

    return Optimum(flops, one("n"), one("d"), one("loss"), one("exponent"))


def capacity(fit: Fit, params: Params, table: pd.DataFrame | Mapping[str, Any]) -> np.ndarray:
    """Returns rho at each row, `(size term / dense size term)^(-1 / alpha)`: float64[n], or [b, n] of samples."""
    law = fit.law
    size_terms = [k for k, term in enumerate(law.terms) if SIZE in _inputs(term)]
    if not size_terms:
        raise InputError(f"The law {law.name!r} has no size term, so it has no capacity. Fit a law with {SIZE}.")
    others = [name for name in law.columns if name not in (SIZE, DATA)]
    given = {name: np.asarray(table[_key(fit, table, name)]) for name in others}
    n = max([len(values) for values in given.values() if values.ndim] or [len(table) if hasattr(table, "index") else 1])
    given = {name: np.broadcast_to(values, (n,)) for name, values in given.items()}
    dense = {name: np.full(n, value) for name, value in dense_values(fit).items()}
    one = {name: np.ones(n) for name in (SIZE, DATA) if name in law.columns}
    here, full = law.term_values(params, {**given, **one}), law.term_values(params, {**dense, **one})
    compressed = [k for k in size_terms if law.terms[k].compressed]
    ratio = sum(here[k] for k in compressed) / sum(full[k] for k in compressed)
    alpha = params[next(p.exponent for p in law.terms[compressed[0]].powers if p.input == SIZE)]
    return ratio ** (-1 / (alpha if np.ndim(alpha) == 0 else np.asarray(alpha)[:, None]))


def dense_equivalent(fit: Fit, table: pd.DataFrame | Mapping) -> np.ndarray:
    """Returns the size of the dense model with the same loss, `N rho`, float64[n] (arXiv 2506.01863, section 3).

    For `frantar2023`, N is the number of non-zero parameters.
    """
    return np.asarray(table[_key(fit, table, SIZE)], float) * capacity(fit, fit.params, table)


def capacity_points(fit: Fit, gmse: Mapping[object, float]) -> pd.DataFrame:
    """Returns the free capacities of a fit and the GMSE of their formats.

    Args:
        fit: fit of the law `decoupled` or `frantar2025` with one column of formats.
        gmse: format -> its GMSE.

    Returns:
        `format`, `gmse`, `rho`, `low`, `high`: one row per format, without the reference.

    Raises:
        InputError: the law has no free capacities.
    """
    factor = fit.law.factors[0] if fit.law.factors else None
    if not isinstance(factor, Free):
        raise InputError(f"The law {fit.law.name!r} has no free capacities. Fit 'decoupled' or 'frantar2025' instead.")
    rows = []
    for value, parameter in zip(factor.formats, factor.parameters, strict=True):
        low, high = fit.intervals[parameter.name] if fit.intervals else (np.nan, np.nan)
        rows.append((value, gmse[value], fit.params[parameter.name], low, high))
    return pd.DataFrame(rows, columns=["format", "gmse", "rho", "low", "high"])


def _inputs(term: Term) -> set[str]:
    return {power.input for power in term.powers}


def _key(fit: Fit, table: pd.DataFrame | Mapping[str, Any], name: str) -> str:
    return fit.columns[name] if fit.columns[name] in table else name


def dense_values(fit: Fit) -> dict[str, Any]:
    """Returns the uncompressed value of each column except size and data."""
    found = {factor.column: factor.dense for factor in fit.law.factors}
    return {**{name: DENSE[name] for name in fit.law.inputs if name in DENSE}, **found}


def _dense_row(fit: Fit, at: Mapping) -> dict:
    """Returns one row with N = D = 1 and the given values of the other columns, dense if not given."""
    dense = dense_values(fit)
    unknown = [name for name in at if name not in dense and name not in fit.columns.values()]
    if unknown:
        raise InputError(
            f"{', '.join(unknown)} is no column of the law {fit.law.name!r}. It has: {', '.join(dense) or 'none'}."
        )
    row = {**dense, **{name: at[fit.columns[name]] for name in dense if fit.columns[name] in at}, **at}
    row = {name: row[name] for name in dense} | {SIZE: 1.0, DATA: 1.0}
    return tables.read(fit.law, {name: name for name in fit.law.columns}, row)
