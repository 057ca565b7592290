"""The figures of a study: a colour for each source, a marker for each K."""

import pandas as pd

from compressed_lm.reports.page import Figure
from compressed_lm.scaling.axes import finish

_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_MARKERS = ("o", "s", "^", "D", "v", "P")


def of_gains(curves: pd.DataFrame, summary: pd.DataFrame) -> list[Figure]:
    """Returns the figures of gains, of right and exact tokens, and of what one of K vectors removes; tables as of
    `study_tables`."""
    style = _styles(curves)

    def gain(ax):
        for (source, k), part in curves.groupby(["source", "k"], sort=False):
            ax.plot(part["bits_alone"], part["gain"], label=f"{source}, K = {k}", linewidth=1, **style(source, k))
        ends = curves["bits_alone"].agg(["min", "max"])
        ax.plot(ends, ends, color="#808a96", linestyle=":", label="all there is")
        ax.set(xlabel="code length without vectors, bits a text", ylabel="information gain, bits a text")
        ax.set(xscale="log", yscale="log")
        return finish(ax)

    def exact(ax):
        for (source, k), part in curves.groupby(["source", "k"], sort=False):
            look = dict(linewidth=1, **style(source, k))
            ax.plot(part["length"], part["accuracy"], label=f"{source}, K = {k}", **look)
            ax.plot(part["length"], part["exact"], linestyle="--", alpha=0.6, **look)
        ax.set(xlabel="tokens", ylabel="accuracy (lines), exact (dashes)", xscale="log")
        return finish(_numbered(ax, curves["length"]))

    def vectors(ax):
        for source, part in summary.groupby("source", sort=False):
            ax.plot(part["k"], part["gain_per_vector"], label=source, **style(source, curves["k"].min()))
        ax.set(xlabel="vectors K", ylabel="information gain, bits a vector", xscale="log", yscale="log")
        return finish(_numbered(ax, summary["k"]))

    return [
        Figure("gain", gain, "Information gain against the text's own code length: it bends where capacity ends."),
        Figure("lengths", exact, "Tokens that are right with the true ones before, and texts written without error."),
        Figure("vectors", vectors, "What one of K vectors removes of a text."),
    ]


def of_formats(formats: pd.DataFrame) -> list[Figure]:
    """Returns the figure of what formats keep of the gain; none of a single format."""
    if formats["format"].nunique() < 2:
        return []
    style = _styles(formats)

    def curve(ax):
        for (source, k, trained), part in formats.groupby(["source", "k", "trained"], sort=False):
            part = part.sort_values("bits_per_number")
            look = dict(linestyle="--" if trained else "-", label=f"{source}, K = {k}{', trained' * trained}")
            ax.plot(part["bits_per_number"], part["bits_per_dimension"], **look, **style(source, k))
        ax.set(xlabel="stored bits a number, scales included", ylabel="information gain, bits a number", xscale="log")
        return finish(ax)

    return [Figure("formats", curve, "What is left of the information gain when the numbers of vectors are rounded.")]


def _styles(table):
    """Returns a function from a source and K of a table to how their line looks."""
    sources, numbers = list(table["source"].unique()), sorted(table["k"].unique())
    return lambda source, k: {
        "color": _COLORS[sources.index(source) % len(_COLORS)],
        "marker": _MARKERS[numbers.index(k) % len(_MARKERS)],
    }


def _numbered(ax, values):
    """Returns axes with these numbers below, as they are, where a logarithmic scale would have powers."""
    values = sorted(values.unique())
    ax.set_xticks(values, [str(value) for value in values], minor=False)
    ax.minorticks_off()
    return ax
