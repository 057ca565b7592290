"""Plots of fitted laws.

Every function draws on `ax` (or on a new figure), returns the axes, and shows nothing. Each format has its own marker
and a colour of the colour-blind safe palette of Okabe and Ito.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from compressed_lm.scaling.axes import count_ticks, finish, ink, log_loss, new_axes
from compressed_lm.scaling.bootstrap import interval
from compressed_lm.scaling.capacity import Tanh, effective_bits
from compressed_lm.scaling.laws import DATA, SIZE, Params

if TYPE_CHECKING:
    from compressed_lm.scaling.fit import Fit

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8E7CC3", "#A0703C", "#808080")
_MARKERS = "osD^vPX*h"


def measured_against_predicted(fit: Fit, *, ax: Axes | None = None) -> Axes:
    """Plots the measured loss of each run against the predicted loss, and the diagonal."""
    ax = new_axes(ax)
    predicted, measured = fit.predict(fit.data), fit.data["loss"].astype(float)
    for label, rows, style in _groups(fit):
        ax.plot(predicted[rows], measured[rows], label=label, **style)
    ends = [min(predicted.min(), measured.min()), max(predicted.max(), measured.max())]
    ax.plot(ends, ends, color=ink(), linewidth=1, zorder=0)
    log_loss(ax, which="x")
    log_loss(ax)
    ax.set_xlabel("predicted loss")
    ax.set_ylabel("measured loss")
    return _titled(finish(ax), fit)


def residuals(fit: Fit, *, x: str = SIZE, ax: Axes | None = None) -> Axes:
    """Plots measured over predicted loss (%) against a column of the law; a good fit has no pattern.

    Args:
        fit: a fit.
        x: `n_params`, `tokens`, `loss` (the predicted one) or another numeric column of the law.
        ax: axes to draw on.
    """
    ax = new_axes(ax)
    predicted = fit.predict(fit.data)
    percent = 100 * (fit.data["loss"] / predicted - 1)
    across = predicted if x == "loss" else fit.data[x].astype(float)
    for label, rows, style in _groups(fit):
        ax.plot(across[rows], percent[rows], label=label, **style)
    ax.axhline(0, color=ink(), linewidth=1, zorder=0)
    if x == "loss":
        log_loss(ax, which="x")
    elif (across > 0).all():
        ax.set_xscale("log")
        count_ticks(ax)
    ax.set_xlabel("predicted loss" if x == "loss" else label_of(fit, x))
    ax.set_ylabel("measured over predicted loss (%)")
    return _titled(finish(ax), fit)


def capacity_against_bits(
    fit: Fit | None = None,
    *,
    points: pd.DataFrame | None = None,
    bits: tuple[float, float] = (0.3, 8.0),
    ax: Axes | None = None,
) -> Axes:
    """Plots capacity rho against effective bits `log_{1/4} GMSE`: the curve of each factor, and free capacities.

    Args:
        fit: fit of a law with factors of GMSE; a bootstrapped fit gets a confidence band.
        points: `gmse`, `rho`, and optionally `low`, `high` and `format` (`frontier.capacity_points`).
        bits: range of effective bits.
        ax: axes to draw on.
    """
    ax = new_axes(ax)
    if fit is not None:
        _capacity_curves(ax, fit, np.linspace(*bits, 300))
    if points is not None:
        points = points[points["gmse"] > 0]  # a dense format has infinite effective bits
        at = effective_bits(points["gmse"])
        if "low" in points and np.isfinite(points["low"]).all():
            error = np.abs(np.stack([points["rho"] - points["low"], points["high"] - points["rho"]]))
            ax.errorbar(at, points["rho"], yerr=error, fmt="o", color=ink(), capsize=2, lw=1, label="free capacity")
        else:
            ax.plot(at, points["rho"], "o", color=ink(), label="free capacity")
        # Labels alternate between above and below, so that neighbours do not overlap.
        names = points.get("format", pd.Series([""] * len(points)))
        for k, (x, y, name) in enumerate(sorted(zip(at, points["rho"], names, strict=True))):
            ax.annotate(str(name), (x, y), xytext=(5, (-10, 4)[k % 2]), textcoords="offset points", fontsize="small")
    ax.axhline(1, color=ink(), linewidth=0.8, linestyle=":")
    ax.set_xlim(*bits)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("effective bits, log$_{1/4}$ GMSE")
    ax.set_ylabel("capacity ρ")
    return finish(ax)


def profile(fit: Fit, *, ax: Axes | None = None) -> Axes:
    """Plots the profile likelihood of the exponent of size: the loss of fit if it is fixed at other values."""
    ax = new_axes(ax)
    if fit.diagnosis is not None and fit.diagnosis.exponent is not None:
        values, ratio = fit.diagnosis.profile.T
        ax.plot(values, ratio, color=_COLORS[0], linewidth=1.8, label="twice the drop of the log-likelihood")
        ax.axhline(3.841, color=_COLORS[1], linestyle="--", linewidth=1.2, label="95 %")
        ax.set_ylim(0, 20)
        near = values[ratio < 20]
        if len(near):
            ax.set_xlim(near.min() / 1.1, near.max() * 1.1)
        ax.set_xlabel(fit.diagnosis.exponent)
        ax.set_ylabel("likelihood ratio")
    return finish(ax)


def _capacity_curves(ax: Axes, fit: Fit, grid: np.ndarray) -> None:
    """Draws the capacity of each factor over effective bits, with a band if the fit is bootstrapped."""
    curves = {tuple(p.name for p in f.parameters): f for f in fit.law.factors}
    for color, (names, factor) in zip(_COLORS, curves.items(), strict=False):
        value = np.exp(factor.log_rho(_values(fit.params, names), factor.encode(4.0**-grid))[0])[0]
        label = f"{fit.law.name}, {factor.column}"
        if isinstance(factor, Tanh):
            label += f": F {fit.params[names[0]]:.3f}, C {fit.params[names[1]]:.3f}"
        ax.plot(grid, value, color=color, linewidth=1.8, label=label)
        if fit.samples is not None:
            drawn = np.exp(factor.log_rho(_values(fit.samples, names), factor.encode(4.0**-grid))[0])
            low, high = np.array([interval(column) for column in drawn.T]).T
            ax.fill_between(grid, low, high, color=color, alpha=0.18, linewidth=0)


def _values(params: Params, names: Sequence[str]) -> np.ndarray:
    return np.stack(np.broadcast_arrays(*(np.atleast_1d(params[name]) for name in names)), 1)


def _groups(fit: Fit) -> list[tuple[str, np.ndarray, dict[str, Any]]]:
    """Returns (label, bool[n], style) for each value of the law's columns of compression, or for all runs."""
    n = len(fit.data["loss"])
    names = _compressed_columns(fit)
    keys = [", ".join(_short(fit.data[name][k]) for name in names) for k in range(n)] if names else [""] * n
    order = sorted(range(n), key=lambda k: [fit.data[name][k] for name in names])
    values = list(dict.fromkeys(keys[k] for k in order))
    if len(values) > len(_COLORS) * 2:
        keys, values = [""] * n, [""]
    styles = []
    for k, value in enumerate(values):
        style: dict[str, Any] = {
            "color": _COLORS[k % len(_COLORS)],
            "marker": _MARKERS[k % len(_MARKERS)],
            "linestyle": "none",
        }
        style |= {
            "markersize": 9 if style["marker"] in "*PX" else 6,
            "alpha": 0.8,
            "markeredgewidth": 1.2 if k >= len(_COLORS) else 0,
        }
        style |= {"markerfacecolor": "none"} if k >= len(_COLORS) else {}
        styles.append((value or "runs", np.array([key == value for key in keys]), style))
    return styles


def _compressed_columns(fit: Fit) -> list[str]:
    return [name for name in fit.law.columns if name not in (SIZE, DATA, "x")]


def _titled(ax: Axes, fit: Fit) -> Axes:
    if (legend := ax.get_legend()) is not None:
        legend.set_title(", ".join(_compressed_columns(fit)))
    return ax


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float | np.floating) else str(value)


def label_of(fit: Fit, name: str) -> str:
    """Returns the axis label of a column of the law."""
    words = {SIZE: "parameters", DATA: "tokens"}
    given = fit.columns[name]
    return words.get(name, name) if given == name else f"{words.get(name, name)} ({given})"
