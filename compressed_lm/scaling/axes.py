"""Axes of plots: creation, scales, ticks and legend."""

from collections.abc import Callable

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from compressed_lm.formatting import si

_SHORTEST = 2e-3  # smallest length of an axis of losses, relative to the loss


def new_axes(ax: Axes | None) -> Axes:
    """Returns the given axes, or those of a new figure."""
    return Figure(figsize=(8.6, 4.6), layout="constrained").add_subplot() if ax is None else ax


def finish(ax: Axes) -> Axes:
    """Adds grid and legend, or a note if nothing was drawn, and returns the axes."""
    ax.grid(alpha=0.25)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize="small", borderaxespad=0)
    else:
        ax.text(0.5, 0.5, "no run to draw", transform=ax.transAxes, ha="center")
    return ax


def ink() -> str:
    """Returns the color of reference lines and fitted points: matplotlib's text color."""
    return matplotlib.rcParams["text.color"]


def log_loss(ax: Axes, *, which: str = "y") -> None:
    """Makes an axis (`x` or `y`) of losses logarithmic, with round ticks and a length of at least 0.2 % of the loss."""
    (ax.set_xscale if which == "x" else ax.set_yscale)("log")
    low, high = ax.get_xlim() if which == "x" else ax.get_ylim()
    if low > 0 and high / low < 1 + _SHORTEST:
        middle = np.sqrt(low * high)
        (ax.set_xlim if which == "x" else ax.set_ylim)(middle * (1 - _SHORTEST / 2), middle * (1 + _SHORTEST / 2))
    _ticks(ax, which, lambda value: f"{value:.6g}", most=8)


def count_ticks(ax: Axes, *, which: str = "x", form: Callable[[float], str] | None = None, unit: str = "") -> None:
    """Sets at least two round ticks on a log axis, formatted as 200k, 5M, 1G, or by `form`."""
    _ticks(ax, which, form or (lambda value: si(value, unit=unit)), most=6)


def _ticks(ax: Axes, which: str, form: Callable[[float], str], *, most: int) -> None:
    axis, (low, high) = (ax.xaxis, ax.get_xlim()) if which == "x" else (ax.yaxis, ax.get_ylim())
    decades = np.log10(high / low) if low > 0 else 1.0  # nothing drawn yet
    if decades < 1:  # too short for two ticks at 1, 2 or 5 times a power of ten
        axis.set_major_locator(MaxNLocator(most))
    else:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 3 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: form(value)))
    axis.set_minor_locator(NullLocator())
