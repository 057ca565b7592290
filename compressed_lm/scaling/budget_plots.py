"""Plots of a law over training budgets: loss at constant FLOPs, size at constant loss.

Every function draws on `ax` (or on a new figure), returns the axes, and shows nothing. Budgets are drawn from dark to
light in a colour map that also works in greyscale.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from compressed_lm.scaling.axes import count_ticks, finish, ink, log_loss, new_axes
from compressed_lm.scaling.fit import Fit
from compressed_lm.scaling.frontier import dense_values, optimum
from compressed_lm.scaling.law_plots import label_of
from compressed_lm.scaling.laws import DATA, SIZE

_FLOPS = 6.0
_ALIKE = np.log(1.15)  # budgets that differ by less count as equal
_BEYOND = 16.0  # sizes are drawn up to this factor beyond those of the runs; a fit does not hold further out
_LOSSES = 2.0  # the same for losses


def isoflop(
    fit: Fit,
    *,
    budgets: Sequence[float] | np.ndarray | None = None,
    per_parameter_and_token: float = _FLOPS,
    ax: Axes | None = None,
    **at: Any,
) -> Axes:
    """Plots loss against size at constant training FLOPs, with the minimum of each budget and the line through them.

    A run is drawn with the nearest budget if it is within 15 %. A minimum further than a factor of 16 from the sizes
    of the runs (more for budgets outside those of the runs) is left out: the runs do not determine it.

    Args:
        fit: fit of a law with an optimum (`frontier.optimum`).
        budgets: training FLOPs; by default up to seven budgets of most runs.
        per_parameter_and_token: training FLOPs per parameter and token.
        ax: axes to draw on.
        **at: values of the law's other columns, dense if not given.
    """
    ax = new_axes(ax)
    n, d = fit.data[SIZE].astype(float), fit.data[DATA].astype(float)
    spent = per_parameter_and_token * n * d
    shown = _same(fit, at)
    if budgets is None:
        budgets = common_budgets(fit, per_parameter_and_token=per_parameter_and_token, **at)
    flops = np.asarray(budgets, float)
    colors = _shades(len(flops))
    nearest = np.abs(np.log(spent)[:, None] - np.log(flops)[None]).argmin(1)
    close = np.abs(np.log(spent / flops[nearest])) < _ALIKE
    best = [optimum(fit, c, per_parameter_and_token=per_parameter_and_token, **at) for c in flops]
    ends = [_sizes(n, spent, budget) for budget in flops]
    for k, (budget, color, top, (low, high)) in enumerate(zip(flops, colors, best, ends, strict=True)):
        rows = shown & close & (nearest == k)
        inside = low < top.n_params.value < high
        around = np.clip([top.n_params.value / 8, top.n_params.value * 8], low, high) if inside else [low, high]
        reach = [*around, *n[rows]]
        sizes = np.geomspace(min(reach), max(reach), 200)
        table = {SIZE: sizes, DATA: budget / (per_parameter_and_token * sizes), **_others(fit, at)}
        ax.plot(sizes, fit.predict(table), color=color, linewidth=1.6, label=f"{_power_of_ten(budget)} FLOPs")
        ax.plot(n[rows], fit.data["loss"][rows], "o", color=color, markersize=4, markeredgewidth=0)
        error = np.array([[top.n_params.value - top.n_params.low], [top.n_params.high - top.n_params.value]])
        if inside and np.isfinite(error).all():
            ax.errorbar(top.n_params.value, top.loss.value, xerr=np.maximum(error, 0), color=ink(), capsize=2, lw=1)
    ax.plot([], [], "o", color="grey", markersize=4, markeredgewidth=0, label="runs")
    drawn = [top for top, (low, high) in zip(best, ends, strict=True) if low < top.n_params.value < high]
    words = "minimum" if drawn else "minimum: not determined by these runs"
    line = [top.n_params.value for top in drawn], [top.loss.value for top in drawn]
    ax.plot(*line, "*-", color=ink(), markersize=9, linewidth=1, label=words)
    ax.set_xscale("log")
    ax.set_xlim(
        max(min(low for low, _ in ends), ax.get_xlim()[0]), min(max(high for _, high in ends), ax.get_xlim()[1])
    )
    ax.set_ylim(top=min(ax.get_ylim()[1], _LOSSES * max([fit.data["loss"].max(), *line[1]])))
    log_loss(ax)
    count_ticks(ax)
    ax.set_xlabel(label_of(fit, SIZE))
    ax.set_ylabel("loss")
    return finish(ax)


def iso_loss(
    fit: Fit, *, levels: int = 12, per_parameter_and_token: float = _FLOPS, ax: Axes | None = None, **at: Any
) -> Axes:
    """Plots contours of equal loss over training FLOPs and size, the runs, and the best size for each budget.

    Args:
        fit: fit of a law with an optimum.
        levels: approximate number of contours.
        per_parameter_and_token: training FLOPs per parameter and token.
        ax: axes to draw on.
        **at: values of the law's other columns, dense if not given; only runs with these values are drawn.
    """
    ax = new_axes(ax)
    shown = _same(fit, at)
    n, d = fit.data[SIZE].astype(float)[shown], fit.data[DATA].astype(float)[shown]
    if not len(n):
        n, d = fit.data[SIZE].astype(float), fit.data[DATA].astype(float)
    spent = per_parameter_and_token * n * d
    flops = np.geomspace(spent.min() / 2, spent.max() * 4, 160)
    sizes = np.geomspace(n.min() / 2, n.max() * 2, 160)
    c, size = np.meshgrid(flops, sizes)
    table = {SIZE: size.ravel(), DATA: (c / (per_parameter_and_token * size)).ravel(), **_others(fit, at)}
    loss = fit.predict(table).reshape(c.shape)
    best = [optimum(fit, b, per_parameter_and_token=per_parameter_and_token, **at) for b in flops]
    lowest = loss.min(0)  # of each budget, among the drawn sizes
    steps = np.geomspace(lowest[-6], min(max(lowest[5], fit.data["loss"].max()), loss.max()), levels)
    # Set scales and limits first: the positions of the contour labels depend on them.
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(flops[0], flops[-1])
    ax.set_ylim(sizes[0], sizes[-1])
    if steps[-1] > steps[0] * (1 + 1e-4):
        _contours(ax, (c, size, loss), steps, best)
    ax.plot(spent, n, "o", color=ink(), markersize=4, markeredgewidth=0, alpha=0.6, linestyle="none", label="runs")
    frontier = np.array([[e.value, e.low, e.high] for e in (top.n_params for top in best)])
    inside = (sizes[0] < frontier[:, 0]) & (frontier[:, 0] < sizes[-1])
    words = "best size for the budget" if inside.any() else "best size: not determined by these runs"
    ax.plot(flops[inside], frontier[inside, 0], color="#D55E00", linewidth=2, label=words)
    if np.isfinite(frontier[inside]).all() and inside.any():
        low, high = np.clip(frontier[inside, 1:].T, sizes[0], sizes[-1])
        ax.fill_between(flops[inside], low, high, color="#D55E00", alpha=0.2, linewidth=0, label="95 % by bootstrap")
    count_ticks(ax, form=_power_of_ten)
    count_ticks(ax, which="y")
    ax.set_xlabel("training FLOPs")
    ax.set_ylabel(label_of(fit, SIZE))
    return finish(ax)


def _contours(ax: Axes, grid: tuple[np.ndarray, np.ndarray, np.ndarray], steps: np.ndarray, best: Sequence) -> None:
    """Draws labelled contours of the loss; labels are below the frontier if most of them fit there."""
    c, size, loss = grid
    contour = ax.contour(c, size, loss, levels=steps, cmap="viridis", linewidths=1.2, zorder=1)
    # Below the frontier the contours are far apart and few runs are drawn. A label is about a tenth of the width.
    lowest = np.array([top.loss.value for top in best])
    below = [best[k] for k in np.abs(np.nan_to_num(lowest, nan=np.inf)[None] - steps[:, None]).argmin(1)]
    places = [(1.3 * top.flops, top.n_params.value / 3) for top in below]
    inside = [(x, y) for x, y in places if c[0, 0] < x < c[0, -12] and size[0, 0] < y < size[-1, 0]]
    digits = int(np.clip(1 - np.floor(np.log10(np.diff(steps).min())), 2, 6))
    manual = {"manual": inside} if len(inside) > len(steps) / 2 else {}
    ax.clabel(contour, fmt=f"%.{digits}f", fontsize="x-small", inline_spacing=1, **manual)


def _sizes(n: np.ndarray, spent: np.ndarray, budget: float) -> tuple[float, float]:
    """Returns the smallest and largest size to draw: those of the runs, scaled at most as the budget, plus a margin."""
    low, high = min(1.0, budget / spent.min()), max(1.0, budget / spent.max())
    return n.min() * low / _BEYOND, n.max() * high * _BEYOND


def common_budgets(fit: Fit, *, most: int = 7, per_parameter_and_token: float = _FLOPS, **at: Any) -> np.ndarray:
    """Returns up to `most` common training budgets of the runs (FLOPs), ascending, at least a factor of 1.6 apart."""
    spent = per_parameter_and_token * fit.data[SIZE].astype(float) * fit.data[DATA].astype(float)
    shown = _same(fit, at)
    spent = spent[shown] if shown.any() else spent
    logs = np.log(spent)
    chosen: list[float] = []
    while len(logs) and len(chosen) < most:
        near = (np.abs(logs[:, None] - logs[None]) < _ALIKE).sum(1)
        middle = float(np.median(logs[np.abs(logs - logs[near.argmax()]) < _ALIKE]))
        chosen.append(middle)
        logs = logs[np.abs(logs - middle) > np.log(1.6)]
    return np.exp(sorted(chosen))


def _others(fit: Fit, at: Mapping) -> dict:
    dense = dense_values(fit)
    return dense | {name: at.get(name, at.get(fit.columns[name], value)) for name, value in dense.items()}


def _same(fit: Fit, at: Mapping) -> np.ndarray:
    """Returns bool[n], the runs whose other columns have the given values."""
    shown = np.ones(len(fit.data["loss"]), bool)
    for name, value in _others(fit, at).items():
        shown &= fit.data[name] == value
    return shown


def _shades(count: int) -> list:
    return list(matplotlib.colormaps["viridis"](np.linspace(0, 0.88, count)))


def _power_of_ten(value: float) -> str:
    digits, power = f"{value:.1e}".split("e")
    return f"{digits} · 10$^{{{int(power)}}}$"
