"""Plots show the values of the tables, draw on the given axes, and do not change matplotlib's global state."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from compressed_lm.codecs import plots

SPECS = [
    "bytes",
    "sentencepiece(v=4096)",
    "gzip(v=256)",
    "static_ac(v=256)",
    "ac(v=256)",
    "eiw(b=16,v=256)",
    "eiw(b=12,v=4096)",
    "eiw(align=word,b=12,v=4096)",
    "eiw(b=16,v=65536)",
]


def make_runs():
    rows = [
        ("m1", "bytes", 500, 2e6, 0.5, "m1"),
        ("b0", "bytes", 100, 1e5, 3.0, "m2"),
        ("b1", "bytes", 400, 4e5, 2.5, "m2"),
    ]
    rows.append(("e", "eiw(b=12,v=4096)", 400, 9e5, 2.2, "m2"))
    runs = pd.DataFrame(rows, columns=["run", "codec", "n_nonembed", "flops_per_byte", "bits_per_byte", "group"])
    return runs.assign(
        n_params=runs["n_nonembed"], flops_per_byte_softmax=2 * runs["flops_per_byte"], seed=0, final=True
    )


def lines(ax):
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in ax.lines}


def test_every_codec_of_the_demo_looks_different():
    """No two codecs have the same color, marker and fill; the order of options does not matter."""
    styles = [plots.style_of(spec) for spec in SPECS]
    assert len(set(styles)) == len(SPECS)
    assert plots.style_of("eiw(v=4096,b=12)") == plots.style_of("eiw(b=12,v=4096)")
    assert plots.style_of("new_codec") == plots.style_of("new_codec(v=256)")


def test_bits_per_byte_against_flops_draws_sizes_as_a_line_and_leaves_m1_out():
    """There is one line per codec through its measurements, with either cost on the x axis."""
    ax = plots.bits_per_byte_against_flops(make_runs())
    assert lines(ax) == {"bytes": ([1e5, 4e5], [3.0, 2.5]), "eiw(b=12,v=4096)": ([9e5], [2.2])}
    assert ax.get_xscale() == "log"
    ax = plots.bits_per_byte_against_flops(make_runs(), softmax=True, ceiling=2.6)
    assert lines(ax) == {"bytes": ([8e5], [2.5]), "eiw(b=12,v=4096)": ([1.8e6], [2.2])}
    assert "with softmax" in ax.get_xlabel()


def test_learning_curves_are_sorted_and_named_by_size_where_needed():
    """There is one line per codec and size, for rows in any order; the point at 0 bytes is not drawn."""
    curves = pd.DataFrame(
        [
            ("bytes", 9, 300, 2.0),
            ("bytes", 9, 100, 4.0),
            ("bytes", 9, 0, 8.0),
            ("bytes", 5, 100, 4.5),
            ("ac", 9, 50, 3.0),
        ],
        columns=["codec", "n_params", "bytes", "bits_per_byte"],
    )
    drawn = lines(plots.learning_curves(curves))
    assert drawn["bytes, 9 parameters"] == ([100, 300], [4.0, 2.0])
    assert set(drawn) == {"bytes, 9 parameters", "bytes, 5 parameters", "ac"}


def test_compression_ratios_draw_one_bar_per_codec():
    """Bars are ordered by bytes per token and labelled with bits per byte, log2(V) / bytes per token."""
    ratios = pd.DataFrame(
        {"codec": ["eiw(b=12,v=4096)", "bytes"], "vocab_size": [4096, 256], "bytes_per_token": [3.0, 1.0]}
    )
    ax = plots.compression_ratios(ratios)
    assert [bar.get_width() for bar in ax.patches] == [1.0, 3.0]
    assert [text.get_text() for text in ax.texts] == ["1.00  (8.00 bits/byte)", "3.00  (4.00 bits/byte)"]


def test_fitted_curves_pass_through_two_points():
    """Only codecs with several sizes are fitted; through two points the line is exact."""
    (codec, sizes, bits, result), *others = plots.fits_by_codec(make_runs())
    assert codec == "bytes" and not others
    np.testing.assert_allclose(result.predict({"x": sizes}), bits, rtol=1e-6)
    ax = plots.fitted_curves(make_runs())
    assert any(label.startswith("bytes: ") for label in lines(ax))


@pytest.mark.parametrize("draw", [plots.bits_per_byte_against_flops, plots.fitted_curves])
def test_plots_use_the_axes_they_are_given(draw):
    """A plot is drawn on `ax` and returns it; without `ax` a figure is made."""
    ax = Figure().add_subplot()
    assert draw(make_runs(), ax=ax) is ax
    assert draw(make_runs()).figure is not ax.figure


def test_plots_need_no_pyplot_and_scaling_needs_no_matplotlib():
    """Importing scaling loads no matplotlib, plotting loads no pyplot, and neither loads JAX."""
    code = """
import sys
from compressed_lm import scaling
assert "matplotlib" not in sys.modules
from compressed_lm.codecs import plots
plots.style_of("ac")
assert "matplotlib" in sys.modules and "matplotlib.pyplot" not in sys.modules and "jax" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("span", [1.0, 1.02, 1.5, 5, 50, 1e4, 1e30])
def test_log_axes_have_two_short_labels_or_more_at_any_length(span):
    """An axis of counts has at least two short labels, for any range."""
    ax = Figure().add_subplot()
    ax.set_xscale("log")
    ax.set_xlim(1.3e6, 1.3e6 * max(span, 1 + 1e-9))
    plots.count_ticks(ax)
    assert labels_within(ax, "x") >= (2 if span > 1.01 else 0)
    ax.set_ylim(3.2, 3.2 * span if span > 1 else 3.2000001)
    plots.log_loss(ax)
    assert labels_within(ax, "y") >= 2


def labels_within(ax, which):
    axis, (low, high) = (ax.xaxis, ax.get_xlim()) if which == "x" else (ax.yaxis, ax.get_ylim())
    texts = [label.get_text() for label in axis.get_ticklabels()]
    assert max(map(len, texts), default=0) <= 9
    return sum(low <= place <= high for place in axis.get_ticklocs())


def test_failed_runs_and_empty_tables_are_drawn():
    """Missing losses, a single run and an empty table give plots with finite limits."""
    runs = make_runs().assign(bits_per_byte=[3.0, np.nan, 2.5, np.nan])
    for table in (runs, make_runs().iloc[3:], make_runs().iloc[:0]):
        for ax in (plots.bits_per_byte_against_flops(table), plots.bits_per_byte_against_flops(table, softmax=True)):
            ax.figure.canvas.draw()
            assert np.isfinite([*ax.get_xlim(), *ax.get_ylim()]).all()
    ratios = pd.DataFrame({"codec": [], "vocab_size": [], "bytes_per_token": []})
    assert np.isfinite(plots.compression_ratios(ratios).get_xlim()).all()
