"""Axes of plots: made, ticked and finished the same way in every figure."""

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from compressed_lm.scaling.formatting import si

_SHORTEST = 2e-3  # length of an axis of losses, as a share of the loss


def new_axes(ax: Axes | None) -> Axes:
    """The axes given, or those of a new figure."""
    return Figure(figsize=(8.6, 4.6), layout="constrained").add_subplot() if ax is None else ax


def finish(ax: Axes) -> Axes:
    """The axes with grid and legend, or a note that there is nothing to draw."""
    ax.grid(alpha=0.25)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize="small", borderaxespad=0)
    else:
        ax.text(0.5, 0.5, "no run to draw", transform=ax.transAxes, ha="center")
    return ax


def log_loss(ax: Axes, *, which: str = "y") -> None:
    """A logarithmic axis (`x` or `y`) of losses with round numbers on it, at least 0.2 % of the loss long."""
    (ax.set_xscale if which == "x" else ax.set_yscale)("log")
    low, high = ax.get_xlim() if which == "x" else ax.get_ylim()
    if low > 0 and high / low < 1 + _SHORTEST:
        middle = np.sqrt(low * high)
        (ax.set_xlim if which == "x" else ax.set_ylim)(middle * (1 - _SHORTEST / 2), middle * (1 + _SHORTEST / 2))
    _ticks(ax, which, lambda value: f"{value:.6g}", most=8)


def count_ticks(ax: Axes, *, which: str = "x", form: Callable[[float], str] | None = None, unit: str = "") -> None:
    """Ticks of a log axis at round numbers, written 200k, 5M, 1G, or by `form`; two or more on any axis."""
    _ticks(ax, which, form or (lambda value: si(value, unit=unit)), most=6)


def _ticks(ax: Axes, which: str, form: Callable[[float], str], *, most: int) -> None:
    axis, (low, high) = (ax.xaxis, ax.get_xlim()) if which == "x" else (ax.yaxis, ax.get_ylim())
    decades = np.log10(high / low) if low > 0 else 1.0  # nothing is drawn yet
    if decades < 1:  # too short for two of 1, 2 and 5 times a power of ten
        axis.set_major_locator(MaxNLocator(most))
    else:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 3 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: form(value)))
    axis.set_minor_locator(NullLocator())
