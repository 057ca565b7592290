"""Plots of a law over training budgets: loss at constant FLOPs, size at constant loss.

Every function draws on `ax` (or a figure of its own), returns the axes, and shows nothing. Budgets run from dark to
light along one map of colours that also reads in grey.
"""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from compressed_lm.scaling.fit import Fit
from compressed_lm.scaling.formatting import si
from compressed_lm.scaling.frontier import dense_values, optimum
from compressed_lm.scaling.law_plots import label_of
from compressed_lm.scaling.laws import DATA, SIZE
from compressed_lm.scaling.plots import count_ticks, finish, log_loss, new_axes

_FLOPS = 6.0
_ALIKE = np.log(1.15)  # budgets that differ by less count as one


def isoflop(
    fit: Fit,
    *,
    budgets: Sequence[float] | None = None,
    per_parameter_and_token: float = _FLOPS,
    ax: Axes | None = None,
    **at,
) -> Axes:
    """Loss against size at constant training FLOPs, with the minimum of each budget and the line through them.

    Runs are drawn with the budget that is nearest, if they took as much within 15 %.

    Args:
      fit: of a law with an optimum (`frontier.optimum`).
      budgets: training FLOPs; by default up to seven that most runs were given.
      per_parameter_and_token: FLOPs of training.
      ax: axes to draw on.
      **at: values of the law's other columns, dense where not given.
    """
    ax = new_axes(ax)
    n, d = fit.data[SIZE].astype(float), fit.data[DATA].astype(float)
    spent = per_parameter_and_token * n * d
    shown = _same(fit, at)
    if budgets is None:
        budgets = common_budgets(fit, per_parameter_and_token=per_parameter_and_token, **at)
    budgets = np.asarray(budgets, float)
    colors = _shades(len(budgets))
    nearest = np.abs(np.log(spent)[:, None] - np.log(budgets)[None]).argmin(1)
    close = np.abs(np.log(spent / budgets[nearest])) < _ALIKE
    best = [optimum(fit, c, per_parameter_and_token=per_parameter_and_token, **at) for c in budgets]
    for k, (budget, color, top) in enumerate(zip(budgets, colors, best, strict=True)):
        rows = shown & close & (nearest == k)
        reach = [top.n_params.value / 8, top.n_params.value * 8, *n[rows]]
        sizes = np.geomspace(min(reach), max(reach), 200)
        table = {SIZE: sizes, DATA: budget / (per_parameter_and_token * sizes), **_others(fit, at)}
        ax.plot(sizes, fit.predict(table), color=color, linewidth=1.6, label=f"{_power_of_ten(budget)} FLOPs")
        ax.plot(n[rows], fit.data["loss"][rows], "o", color=color, markersize=4, markeredgewidth=0)
        error = np.array([[top.n_params.value - top.n_params.low], [top.n_params.high - top.n_params.value]])
        if np.isfinite(error).all():
            ax.errorbar(top.n_params.value, top.loss.value, xerr=np.maximum(error, 0), color="black", capsize=2, lw=1)
    ax.plot([], [], "o", color="grey", markersize=4, markeredgewidth=0, label="runs")
    line = [top.n_params.value for top in best], [top.loss.value for top in best]
    ax.plot(*line, "*-", color="black", markersize=9, linewidth=1, label="minimum")
    ax.set_xscale("log")
    log_loss(ax)
    count_ticks(ax)
    ax.set_xlabel(label_of(fit, SIZE))
    ax.set_ylabel("loss")
    return finish(ax)


def iso_loss(
    fit: Fit, *, levels: int = 12, per_parameter_and_token: float = _FLOPS, ax: Axes | None = None, **at
) -> Axes:
    """Contours of equal loss over training FLOPs and size, the runs, and the frontier of the best size for each budget.

    Args:
      fit: of a law with an optimum.
      levels: how many contours, about.
      per_parameter_and_token: FLOPs of training.
      ax: axes to draw on.
      **at: values of the law's other columns, dense where not given; only runs with these are drawn.
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
    lowest = np.array([top.loss.value for top in best])
    steps = np.geomspace(lowest[-6], max(lowest[5], fit.data["loss"].max()), levels)
    # Scales and limits first: the gaps for the labels are cut where these put them.
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(flops[0], flops[-1])
    ax.set_ylim(sizes[0], sizes[-1])
    contour = ax.contour(c, size, loss, levels=steps, cmap="viridis", linewidths=1.2, zorder=1)
    # Each label stands below the frontier, where the contours lie apart and few runs are.
    below = [best[k] for k in np.abs(lowest[None] - steps[:, None]).argmin(1)]
    places = [(1.3 * top.flops, top.n_params.value / 3) for top in below]
    # A label is about a tenth of the width.
    inside = [(x, y) for x, y in places if flops[0] < x < flops[-12] and sizes[0] < y < sizes[-1]]
    ax.clabel(contour, fmt="%.2f", fontsize="x-small", manual=inside, inline_spacing=1)
    ax.plot(spent, n, "o", color="black", markersize=4, markeredgewidth=0, alpha=0.6, linestyle="none", label="runs")
    frontier = [top.n_params for top in best]
    ax.plot(flops, [e.value for e in frontier], color="#D55E00", linewidth=2, label="best size for the budget")
    if np.isfinite(frontier[0].low):
        low, high = [e.low for e in frontier], [e.high for e in frontier]
        ax.fill_between(flops, low, high, color="#D55E00", alpha=0.2, linewidth=0, label="95 % by bootstrap")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: si(value)))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("training FLOPs")
    ax.set_ylabel(label_of(fit, SIZE))
    return finish(ax)


def common_budgets(fit: Fit, *, most: int = 7, per_parameter_and_token: float = _FLOPS, **at) -> np.ndarray:
    """Up to `most` training budgets that many runs come close to, ascending, at least a factor of 1.6 apart."""
    spent = per_parameter_and_token * fit.data[SIZE].astype(float) * fit.data[DATA].astype(float)
    shown = _same(fit, at)
    spent = spent[shown] if shown.any() else spent
    logs, chosen = np.log(spent), []
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
    """bool[n]: the runs whose other columns have the wanted values."""
    shown = np.ones(len(fit.data["loss"]), bool)
    for name, value in _others(fit, at).items():
        shown &= fit.data[name] == value
    return shown


def _shades(count: int) -> list:
    return list(matplotlib.colormaps["viridis"](np.linspace(0, 0.88, count)))


def _power_of_ten(value: float) -> str:
    digits, power = f"{value:.1e}".split("e")
    return f"{digits} · 10$^{{{int(power)}}}$"
