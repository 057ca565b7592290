"""Plots of the run table. Every function draws on `ax` (or a figure of its own), returns the axes, and shows nothing.

A codec has one color and one marker in every plot, decided by its spelling alone: the hue tells the family (and for
windows their size), the marker the family and vocabulary, and a hollow marker with a dashed line word alignment. The
hues stay apart for colour-blind readers (Okabe and Ito) and on dark paper.
"""

import dataclasses
import zlib
from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from compressed_lm.codecs.registry import FAMILIES
from compressed_lm.formatting import si
from compressed_lm.scaling.axes import count_ticks, finish, log_loss, new_axes
from compressed_lm.scaling.findings import bits_per_byte_of_text, model_runs
from compressed_lm.scaling.fit import FitStatus, fit_power
from compressed_lm.scaling.run_table import split_spec

_OTHERS = ["#B3A100", "#B2182B", "#5AAE61", "#C51B7D"]
_LABELS = {
    "flops_per_byte": "FLOPs per byte of text (softmax not counted)",
    "flops_per_byte_softmax": "FLOPs per byte of text (softmax counted)",
    "n_nonembed": "parameters without embeddings",
    "n_params": "parameters",
}


@dataclasses.dataclass(frozen=True)
class Style:
    """How a codec is drawn, everywhere."""

    color: str
    marker: str
    hollow: bool

    def line(self) -> dict:
        """Keyword arguments of `Axes.plot`."""
        return {
            "color": self.color,
            "marker": self.marker,
            "markersize": 9 if self.marker in "*hP" else 7,
            "markerfacecolor": "none" if self.hollow else self.color,
            "markeredgewidth": 1.6,
            "linestyle": "--" if self.hollow else "-",
            "linewidth": 1.8,
        }


def style_of(codec: str) -> Style:
    """The color and marker of a codec, from its spelling."""
    family, options = split_spec(codec)
    color, marker = FAMILIES[family].style(options) if family in FAMILIES else (None, "X")
    return Style(color or _OTHERS[zlib.crc32(family.encode()) % len(_OTHERS)], marker, "align" in options)


def bits_per_byte_against_flops(
    runs: pd.DataFrame, *, softmax: bool = False, ceiling: float | None = None, ax: Axes | None = None
) -> Axes:
    """Bits per byte against forward FLOPs per byte of text: a point per run, a line through the sizes of a codec.

    Args:
        runs: the run table; the last final row of each run is drawn, M1 is not.
        softmax: whether FLOPs include the output softmax, which the paper leaves out.
        ceiling: bits per byte above which runs are left out, to look closely at the rest.
        ax: axes to draw on.
    """
    ax = new_axes(ax)
    column = "flops_per_byte_softmax" if softmax else "flops_per_byte"
    models = model_runs(runs)
    models = models[models["bits_per_byte"] <= ceiling] if ceiling is not None else models
    best = models.groupby("codec")["bits_per_byte"].min().sort_values(ascending=False)
    for codec in best.index:  # the legend lists them as the plot does, from top to bottom
        rows = models[models["codec"] == codec]
        means = rows.groupby("n_params")[[column, "bits_per_byte"]].mean().sort_values(column)
        ax.plot(means[column], means["bits_per_byte"], label=codec, **style_of(codec).line())
    ax.set_xscale("log")
    ax.set_xlabel(_LABELS[column])
    ax.set_ylabel("bits per byte (validation)")
    count_ticks(ax)
    ax.margins(x=0.12)
    ax.annotate("better ↙", (0.015, 0.02), xycoords="axes fraction", fontsize="small", alpha=0.7)
    return finish(ax)


def learning_curves(curves: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Validation bits per byte against bytes of text trained on, one line per codec and size.

    Args:
        curves: `codec`, `n_params`, `bytes`, `bits_per_byte`, a row per evaluation during training.
        ax: axes to draw on.
    """
    ax = new_axes(ax)
    curves = curves[curves["bytes"] > 0]
    last = (
        curves.sort_values("bytes").groupby(["codec", "n_params"])["bits_per_byte"].last().sort_values(ascending=False)
    )
    several = last.groupby("codec").size()
    for (codec, n_params), rows in (
        (key, curves[(curves["codec"] == key[0]) & (curves["n_params"] == key[1])]) for key in last.index
    ):
        rows = rows.sort_values("bytes")
        label = f"{codec}, {si(n_params)} parameters" if several[codec] > 1 else codec
        line = {
            **style_of(codec).line(),
            "markersize": 4 if len(rows) > 12 else 5.5,
            "markevery": max(1, len(rows) // 12),
        }
        rank = sorted(last[codec].index).index(n_params)
        ax.plot(rows["bytes"], rows["bits_per_byte"], label=label, alpha=1 - 0.25 * min(rank, 2), **line)
    ax.set_xscale("log")
    log_loss(ax)
    ax.set_xlabel("bytes of text trained on")
    ax.set_ylabel("bits per byte (validation)")
    count_ticks(ax, unit="B")
    return finish(ax)


def compression_ratios(ratios: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Bytes of text per token, a bar per codec; beside it the bits per byte that its tokens occupy.

    Args:
        ratios: `codec`, `vocab_size`, `bytes_per_token`, a row per codec.
        ax: axes to draw on.
    """
    ax = new_axes(ax)
    ratios = ratios.assign(bits=bits_per_byte_of_text(ratios)).sort_values("bytes_per_token")
    names = list(ratios["codec"])
    for place, (codec, length, bits) in enumerate(zip(names, ratios["bytes_per_token"], ratios["bits"], strict=True)):
        style = style_of(codec)
        face = "none" if style.hollow else style.color
        ax.barh(place, length, height=0.66, facecolor=face, edgecolor=style.color, linewidth=1.6)
        ax.annotate(
            f"{length:.2f}  ({bits:.2f} bits/byte)",
            (length, place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize="small",
        )
    ax.set_yticks(range(len(names)), names)
    longest = ratios["bytes_per_token"].max()
    ax.set_xlim(0, 1.32 * longest if longest > 0 else 1)
    ax.set_xlabel("bytes of text per token")
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)
    return ax


def fitted_curves(runs: pd.DataFrame, *, x: str = "n_nonembed", ax: Axes | None = None) -> Axes:
    """Measured bits per byte and the fitted power law of every codec that was run in two sizes or more.

    The curve is solid between the measured sizes and dotted for a factor of 2 beyond them.

    Args:
        runs: the run table.
        x: the column to fit against: `n_nonembed`, `n_params`, `flops_per_byte` or `flops_per_byte_softmax`. The FLOPs
            hold M1's
            constant share, which bends a power law; the size of the model does not.
        ax: axes to draw on.
    """
    ax = new_axes(ax)
    for codec, sizes, bits, fit in fits_by_codec(runs, x=x):
        style = style_of(codec)
        offset = f" + {fit.params['E']:.2f}" if fit.law.offset else ""
        trust = "" if fit.status == FitStatus.CONVERGED else f" ({fit.status.replace('_', ' ')})"
        label = f"{codec}: {fit.params['A']:.3g} · x$^{{-{fit.params['alpha']:.3f}}}${offset}{trust}"
        ax.plot(sizes, bits, label=label, **{**style.line(), "linestyle": "none"})
        for low, high, dots in (
            (min(sizes), max(sizes), "-"),
            (min(sizes) / 2, min(sizes), ":"),
            (max(sizes), max(sizes) * 2, ":"),
        ):
            grid = np.geomspace(low, high, 100)
            ax.plot(grid, fit.predict({"x": grid}), color=style.color, linestyle=dots, linewidth=1.6)
    ax.set_xscale("log")
    log_loss(ax)
    ax.set_xlabel(_LABELS.get(x, x))
    ax.set_ylabel("bits per byte (validation)")
    count_ticks(ax)
    return finish(ax)


def fits_by_codec(runs: pd.DataFrame, *, x: str = "n_nonembed") -> Iterator[tuple]:
    """(codec, sizes float[n], bits per byte float[n], Fit) for each codec with two different `x` or more, by name."""
    for codec, rows in model_runs(runs).groupby("codec"):
        if rows[x].nunique() >= 2:
            rows = rows.sort_values(x)
            sizes, bits = rows[x].to_numpy(float), rows["bits_per_byte"].to_numpy(float)
            yield codec, sizes, bits, fit_power(sizes, bits)
