"""Figures of a cramming study: one colour per source, one marker per K."""

from collections.abc import Callable
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from compressed_lm.reports.page import Figure
from compressed_lm.scaling.axes import finish

_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_MARKERS = ("o", "s", "^", "D", "v", "P")


def of_gains(curves: pd.DataFrame, summary: pd.DataFrame) -> list[Figure]:
    """Returns the figures of information gain, of accuracy and exact texts, and of gain per vector.

    Args:
        curves: table of `cramming_tables.curves`.
        summary: table of `cramming_tables.summary`.
    """
    style = _styles(curves)

    def gain(ax: Axes) -> Axes:
        for (source, k), part in curves.groupby(["source", "k"], sort=False):
            ax.plot(part["bits_alone"], part["gain"], label=f"{source}, K = {k}", linewidth=1, **style(source, k))
        ends = curves["bits_alone"].agg(["min", "max"])
        ax.plot(ends, ends, color="#808a96", linestyle=":", label="whole code length")
        ax.set(xlabel="code length without vectors (bits per text)", ylabel="information gain (bits per text)")
        ax.set(xscale="log", yscale="log")
        return finish(ax)

    def exact(ax: Axes) -> Axes:
        for (source, k), part in curves.groupby(["source", "k"], sort=False):
            look: dict[str, Any] = dict(linewidth=1, **style(source, k))
            ax.plot(part["length"], part["accuracy"], label=f"{source}, K = {k}", **look)
            ax.plot(part["length"], part["exact"], linestyle="--", alpha=0.6, **look)
        ax.set(xlabel="tokens", ylabel="accuracy (solid), exact (dashed)", xscale="log")
        return finish(_numbered(ax, curves["length"]))

    def vectors(ax: Axes) -> Axes:
        for source, part in summary.groupby("source", sort=False):
            ax.plot(part["k"], part["gain_per_vector"], label=source, **style(source, curves["k"].min()))
        ax.set(xlabel="vectors K", ylabel="information gain (bits per vector)", xscale="log", yscale="log")
        return finish(_numbered(ax, summary["k"]))

    return [
        Figure("gain", gain, "Information gain against the code length of the text; it bends at capacity."),
        Figure("lengths", exact, "Tokens correct under teacher forcing, and texts reproduced without error."),
        Figure("vectors", vectors, "Information gain per vector."),
    ]


def of_formats(formats: pd.DataFrame) -> list[Figure]:
    """Returns the figure of information gain by format; no figure for a single format."""
    if formats["format"].nunique() < 2:
        return []
    style = _styles(formats)

    def curve(ax: Axes) -> Axes:
        for (source, k, trained), part in formats.groupby(["source", "k", "trained"], sort=False):
            part = part.sort_values("bits_per_number")
            look: dict[str, Any] = dict(
                linestyle="--" if trained else "-", label=f"{source}, K = {k}{', trained' * trained}"
            )
            ax.plot(part["bits_per_number"], part["bits_per_dimension"], **look, **style(source, k))
        ax.set(xlabel="stored bits per number, with scales", ylabel="information gain (bits per number)")
        ax.set_xscale("log")
        return finish(ax)

    return [Figure("formats", curve, "Information gain after the numbers of the vectors are rounded.")]


def _styles(table: pd.DataFrame) -> Callable[[str, int], dict[str, Any]]:
    """Returns a function from (source, K) to color and marker."""
    sources, numbers = list(table["source"].unique()), sorted(table["k"].unique())
    return lambda source, k: {
        "color": _COLORS[sources.index(source) % len(_COLORS)],
        "marker": _MARKERS[numbers.index(k) % len(_MARKERS)],
    }


def _numbered(ax: Axes, values: pd.Series) -> Axes:
    """Sets the values themselves as ticks of a logarithmic x axis, and returns the axes."""
    ticks = sorted(values.unique())
    ax.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
    ax.minorticks_off()
    return ax
