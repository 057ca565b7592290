"""Figures of the tables of `analyses`.

Every function returns a new figure and shows nothing. Codecs have the colors and markers of `codecs.plots`.
"""

from collections.abc import Callable, Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from compressed_lm.codecs.plots import style_of
from compressed_lm.token_analysis.windows import ALL_POSITIONS


def plot_prefix_stability(histogram: pd.DataFrame) -> Figure:
    """Plots distributions of distances between the ids of one sentence after different prefixes, a panel per codec.

    Args:
        histogram: from `distance_histogram`.
    """
    names = list(histogram["codec"].unique())
    figure = Figure(figsize=(8.6, 0.8 + 0.75 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for ax, name in zip(axes, names, strict=True):
        rows, style = histogram[histogram["codec"] == name], style_of(name)
        face = "none" if style.hollow else style.color
        widths = rows["high"] - rows["low"]
        ax.bar(rows["low"], rows["share"], widths, align="edge", facecolor=face, edgecolor=style.color, linewidth=0.8)
        mean = rows["mean"].iloc[0]
        ax.annotate(f"{name}\nmean {mean:.2f}", (1.01, 0.5), xycoords="axes fraction", va="center", fontsize="small")
        ax.set_yticks([])
        _plain(ax, hidden=("top", "right", "left"))
    axes[-1].set_xlim(0, 1)
    axes[-1].set_xlabel("normalised Levenshtein distance of a sentence's ids after two prefixes")
    return figure


def plot_text_stability(stability: pd.DataFrame) -> Figure:
    """Plots the share of tokens with their id's most common text, a bar per codec and position in the window.

    Args:
        stability: from `text_stability`.
    """
    shown = stability.iloc[::-1]
    labels = [
        c if p == ALL_POSITIONS else f"token {p + 1}" for c, p in zip(shown["codec"], shown["position"], strict=True)
    ]
    return _bars(shown, labels, {"usual_tokens": 1.0}, "share of tokens with their id's most common text", limit=1.0)


def plot_uniformity(uniformity: pd.DataFrame) -> Figure:
    """Plots the divergence of bit n-grams from uniform against n: medians, and 5th to 95th percentiles.

    The gray area is that of random bits (up to their 95th percentile at the length of the shortest stream). Divergences
    below 1e-6 bits are drawn at 1e-6.

    Args:
        uniformity: from `ngram_uniformity`.
    """
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    floor = 1e-6
    for ax, kind, title in (
        (axes[0], "overlapping", "n-grams starting at every bit"),
        (axes[1], "aligned", "the stream cut into n-bit tokens"),
    ):
        rows = uniformity[uniformity["kind"] == kind].sort_values("n_bits")
        random = rows.groupby("n_bits")["control_p95"].max().clip(lower=floor)
        ax.fill_between(random.index, floor, random, color="gray", alpha=0.25, linewidth=0, label="random bits")
        for name in rows["codec"].unique():
            codec, style = rows[rows["codec"] == name], style_of(name)
            low, middle, high = (codec[p].clip(lower=floor) for p in ("p5", "p50", "p95"))
            ax.vlines(codec["n_bits"], low, high, color=style.color, alpha=0.5, linewidth=1)
            ax.plot(codec["n_bits"], middle, label=name, **style.line())
        ax.set_yscale("log")
        ax.set_ylim(bottom=floor)
        ax.set_xticks(sorted(rows["n_bits"].unique()))
        ax.set_xlabel("n")
        ax.set_title(title, fontsize="medium")
        ax.grid(alpha=0.25)
        _plain(ax)
    axes[0].set_ylabel("divergence from uniform (bits per n-gram)")
    _legend(axes[1])
    return figure


def plot_token_positions(positions: pd.DataFrame) -> Figure:
    """Plots loss, and accuracy above that of a constant guess, against the position of a token in its window.

    Args:
        positions: from `bits_by_token_position`.
    """
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    axes = figure.subplots(1, 2)
    for ax, column, label in (
        (axes[0], "bits", "mean loss (bits per token)"),
        (axes[1], "gain", "accuracy above the best constant guess"),
    ):
        for name in positions["codec"].unique():
            rows = positions[positions["codec"] == name]
            ax.plot(rows["position"] + 1, rows[column], label=name, **style_of(name).line())
        ax.set_xticks(range(1, positions["position"].max() + 2))
        ax.set_ylim(bottom=min(0, positions[column].min()))
        ax.margins(x=0.1)
        ax.set_xlabel("token of the window")
        ax.set_ylabel(label)
        ax.grid(alpha=0.25)
        _plain(ax)
    _legend(axes[1])
    return figure


def plot_unigram_gain(gain: pd.DataFrame) -> Figure:
    """Plots bits per byte of a uniform (light) and a unigram model (full color), a bar per codec and fit.

    Args:
        gain: from `unigram_gain`.
    """
    shown = gain.iloc[::-1]
    one_fit = gain["fit"].nunique() == 1
    labels = [c if one_fit else f"{c}\n{f}" for c, f in zip(shown["codec"], shown["fit"], strict=True)]
    notes = [f"{u:.2f} → {v:.2f}" for u, v in zip(shown["uniform"], shown["unigram"], strict=True)]
    label = "bits per byte: uniform model (light), unigram model (full)"
    return _bars(shown, labels, {"uniform": 0.3, "unigram": 1.0}, label, notes=notes)


FIGURES: Mapping[str, Callable[[pd.DataFrame], Figure]] = {
    "prefix_distances": plot_prefix_stability,
    "text_stability": plot_text_stability,
    "uniformity": plot_uniformity,
    "token_positions": plot_token_positions,
    "unigram_gain": plot_unigram_gain,
}
"""Table of `analyses.analyse` -> function that draws it."""


def _bars(
    table: pd.DataFrame,
    labels: Sequence[str],
    columns: Mapping[str, float],
    xlabel: str,
    *,
    notes: Sequence[str] | None = None,
    limit: float | None = None,
) -> Figure:
    """Draws horizontal bars, one per row of the table; columns (name -> opacity) are drawn on top of each other."""
    figure = Figure(figsize=(8.6, 0.9 + 0.36 * len(table)), layout="constrained")
    ax = figure.add_subplot()
    for place, (_, row) in enumerate(table.iterrows()):
        style = style_of(row["codec"])
        for column, alpha in columns.items():
            face = "none" if style.hollow else style.color
            ax.barh(place, row[column], 0.66, facecolor=face, edgecolor=style.color, linewidth=1.4, alpha=alpha)
        longest = max(row[column] for column in columns)
        note = notes[place] if notes else f"{longest:.2f}"
        ax.annotate(note, (longest, place), xytext=(5, 0), textcoords="offset points", va="center", fontsize="small")
    ax.set_yticks(range(len(table)), labels)
    ax.set_xlim(0, 1.18 * (limit or table[list(columns)].to_numpy().max()))
    ax.set_xlabel(xlabel)
    ax.tick_params(axis="y", length=0, labelsize="small")
    _plain(ax, hidden=("top", "right", "left"))
    return figure


def _plain(ax: Axes, *, hidden: Sequence[str] = ("top", "right")) -> None:
    ax.set_axisbelow(True)
    ax.spines[list(hidden)].set_visible(False)


def _legend(ax: Axes) -> None:
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize="small", borderaxespad=0)
