"""Plots of the run table.

Every function draws on `ax` (or on a new figure), returns the axes, and shows nothing. The spec of a codec gives its
color and marker in all plots: the hue shows the family (and the window size), the marker the family and vocabulary, a
hollow marker with a dashed line word alignment. The palette (Okabe and Ito) is safe for colour-blind readers and on
dark backgrounds.
"""

import dataclasses
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from compressed_lm.codecs.registry import FAMILIES
from compressed_lm.formatting import si
from compressed_lm.scaling.axes import count_ticks, finish, log_loss, new_axes
from compressed_lm.scaling.findings import bits_per_byte_of_text, model_runs
from compressed_lm.scaling.fit import Fit, FitStatus, fit_power
from compressed_lm.scaling.run_table import split_spec

_OTHERS = ["#B3A100", "#B2182B", "#5AAE61", "#C51B7D"]
_LABELS = {
    "flops_per_byte": "FLOPs per byte of text (without softmax)",
    "flops_per_byte_softmax": "FLOPs per byte of text (with softmax)",
    "n_nonembed": "parameters without embeddings",
    "n_params": "parameters",
}


@dataclasses.dataclass(frozen=True)
class Style:
    """Color and marker of a codec in all plots."""

    color: str
    marker: str
    hollow: bool

    def line(self) -> dict[str, Any]:
        """Returns keyword arguments for `Axes.plot`."""
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
    """Returns the color and marker of a codec spec."""
    family, options = split_spec(codec)
    color, marker = FAMILIES[family].style(options) if family in FAMILIES else (None, "X")
    return Style(color or _OTHERS[zlib.crc32(family.encode()) % len(_OTHERS)], marker, "align" in options)


def bits_per_byte_against_flops(
    runs: pd.DataFrame, *, softmax: bool = False, ceiling: float | None = None, ax: Axes | None = None
) -> Axes:
    """Plots bits per byte against forward FLOPs per byte of text, a line through the sizes of each codec.

    Args:
        runs: the run table; the last final row of each run is drawn, except M1.
        softmax: whether FLOPs include the output softmax, which the paper excludes.
        ceiling: runs with more bits per byte are left out, for a close-up.
        ax: axes to draw on.
    """
    ax = new_axes(ax)
    column = "flops_per_byte_softmax" if softmax else "flops_per_byte"
    models = model_runs(runs)
    models = models[models["bits_per_byte"] <= ceiling] if ceiling is not None else models
    best = models.groupby("codec")["bits_per_byte"].min().sort_values(ascending=False)
    for codec in best.index:  # the order of the legend is that of the plot, from top to bottom
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
    """Plots validation bits per byte against bytes of training text, one line per codec and size.

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
    """Plots bytes of text per token as one bar per codec, labelled with the bits of its tokens per byte.

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
    """Plots bits per byte and the fitted power law of every codec with at least two sizes.

    The curve is solid between the measured sizes and dotted for a factor of 2 beyond them.

    Args:
        runs: the run table.
        x: the column to fit against: `n_nonembed`, `n_params`, `flops_per_byte` or `flops_per_byte_softmax`. FLOPs
            include the constant cost of M1, so that they do not follow a power law; model sizes do.
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


def fits_by_codec(runs: pd.DataFrame, *, x: str = "n_nonembed") -> Iterator[tuple[str, np.ndarray, np.ndarray, Fit]]:
    """Yields (codec, sizes float[n], bits per byte float[n], Fit) of each codec with at least two different `x`."""
    for codec, rows in model_runs(runs).groupby("codec"):
        if rows[x].nunique() >= 2:
            rows = rows.sort_values(x)
            sizes, bits = rows[x].to_numpy(float), rows["bits_per_byte"].to_numpy(float)
            yield codec, sizes, bits, fit_power(sizes, bits)
