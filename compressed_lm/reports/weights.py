"""What the weights of a run are distributed like: a table, and a page of histograms with fitted densities."""

import dataclasses
import os
import pathlib
from collections.abc import Callable

import jax
import numpy as np
from matplotlib.axes import Axes
from rich.table import Table as TerminalTable

from compressed_lm.errors import InputError
from compressed_lm.formatting import si
from compressed_lm.io import write_atomic
from compressed_lm.models.partitioning import by_name
from compressed_lm.reports.page import Bullets, Figure, Heading, Page, Paragraph, Table, Tiles
from compressed_lm.terminal import cell
from compressed_lm.training import load_run
from compressed_lm.weights import fits

HEADER = ("Weights", "n", "Std", "Zeros", "Shape, moments", "Shape, ML", "Error", "Best by AIC", "Lead")
_ALIGN = "lrrrrrrlr"
_COLORS = {fits.GENERALIZED: "#0072b2", fits.GAUSSIAN: "#e69f00", fits.LAPLACE: "#009e73", fits.STUDENT: "#cc79a7"}
_BINS = 160


@dataclasses.dataclass(frozen=True)
class ParameterFit:
    """The fits of one parameter, each layer's by itself: layers of different standard deviations are not pooled.

    Attributes:
        name: of the parameter, `fits.POOLED` or `fits.POOLED_SCALED`.
        arrays: a fit for each layer; one outside of the blocks.
    """

    name: str
    arrays: tuple[fits.TensorFit, ...]

    @property
    def n(self) -> int:
        """Number of weights."""
        return sum(fit.n for fit in self.arrays)

    @property
    def zeros(self) -> float:
        """Share of the weights that are exactly 0."""
        return sum(fit.n * fit.zeros for fit in self.arrays) / self.n

    @property
    def aic(self) -> dict[str, float]:
        """AIC of each family, summed over the arrays, the lowest first."""
        families = [fit.family for fit in self.arrays[0].families]
        sums = [sum(array.families[i].aic for array in self.arrays) for i in range(len(families))]
        return dict(sorted(zip(families, sums, strict=True), key=lambda item: item[1]))

    def cells(self) -> tuple[str, ...]:
        """Returns a row of the table, under HEADER; what differs between arrays as its lowest and highest value."""
        (best, first), (_, second) = list(self.aic.items())[:2]
        return (
            self.name,
            si(self.n),
            _span((fit.std for fit in self.arrays), ".3g"),
            f"{self.zeros:.1%}" if self.zeros else "–",
            _span((fit.shape_moments for fit in self.arrays), ".2f"),
            _span((fit.shape_mle for fit in self.arrays), ".2f"),
            f"{max(fit.shape_error for fit in self.arrays):.2g}",
            best,
            f"{(second - first) / (2 * self.n * (1 - self.zeros)):.2g}",
        )


@dataclasses.dataclass(frozen=True)
class WeightReport:
    """The fits of a run.

    Attributes:
        run: folder of the run.
        step: updates that it had.
        parameters: a row for each parameter.
        pooled, scaled: all weights pooled, as they are and after dividing each array by its standard deviation.
        left_out: arrays without two different weights besides 0, as norms have at the start.
    """

    run: str
    step: int
    parameters: list[ParameterFit]
    pooled: ParameterFit
    scaled: ParameterFit
    left_out: list[str]

    @property
    def rows(self) -> list[ParameterFit]:
        """The rows of the table, the pooled ones last."""
        return [*self.parameters, self.pooled, self.scaled]

    def table(self) -> TerminalTable:
        """Returns the table for a terminal."""
        table = TerminalTable()
        for heading, side in zip(HEADER, _ALIGN, strict=True):
            table.add_column(heading, justify="left" if side == "l" else "right")
        for row in self.rows:
            if row is self.pooled:
                table.add_section()
            table.add_row(*map(cell, row.cells()))
        return table


def weight_report(
    run_dir: str | os.PathLike,
    *,
    out: str | os.PathLike | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> WeightReport:
    """Fits the weights of a run, and writes the page where `out` is given.

    Args:
        run_dir: folder of a run, packed or not.
        out: the HTML file to write, self-contained; its folder is made where missing.
        progress: called with the numbers of weights done and to do.

    Raises:
        InputError: there is no run, or its weights are not finite or all equal; or `out` is a folder.
    """
    if out is not None and pathlib.Path(out).is_dir():
        raise InputError(f"{out} was given for the report and is a folder; give the name of a file, as report.html.")
    run = load_run(run_dir)
    arrays, layers = {}, {}
    for name, leaf in by_name(jax.device_get(run.params)).items():
        stacked = name.startswith("layers/")
        own = {f"{name}[{i}]": w for i, w in enumerate(leaf)} if stacked else {name: leaf}
        arrays |= own
        layers[name] = list(own)
    to_do = 3 * sum(w.size for w in arrays.values())
    *found, pooled, scaled = fits.fit_tensors(arrays, progress=progress and (lambda done: progress(done, to_do)))
    fit_of = {fit.name: fit for fit in found}
    fitted = {name: tuple(fit_of[array] for array in own if array in fit_of) for name, own in layers.items()}
    report = WeightReport(
        run=str(run_dir),
        step=run.step,
        parameters=[ParameterFit(name, own) for name, own in fitted.items() if own],
        pooled=ParameterFit(pooled.name, (pooled,)),
        scaled=ParameterFit(scaled.name, (scaled,)),
        left_out=[name for name in arrays if name not in fit_of],
    )
    if out is not None:
        write_atomic(out, _page(report, arrays, run).html())
    return report


def _page(report, arrays, run) -> Page:
    """Returns the page: the table, the shapes, and a histogram for each row."""
    wins = [next(iter(parameter.aic)) for parameter in report.parameters]
    most = max(_COLORS, key=wins.count)
    scaled, pooled = (row.arrays[0].shape_mle for row in (report.scaled, report.pooled))
    blocks = [
        Tiles(
            [
                (f"{scaled:.2f}", "shape of all weights, each array divided by its standard deviation"),
                (f"{pooled:.2f}", "shape of all weights pooled as they are"),
                (f"{wins.count(most)} of {len(wins)}", f"parameters that the {most} fits best"),
                (si(report.pooled.n), "weights"),
            ]
        ),
        Heading("Table"),
        Table(HEADER, [(f"`{name}`", *cells) for name, *cells in (row.cells() for row in report.rows)], _ALIGN),
        Paragraph(
            "Each layer's array is fitted by itself; of a parameter that all layers have, a row shows the lowest and "
            "the highest value, and the sum of AIC. The error is the largest standard error of a shape by maximum "
            "likelihood; the lead is half the difference of AIC to the next best family, in nats for each weight."
        ),
    ]
    if report.left_out:
        names = ", ".join(f"`{name}`" for name in report.left_out)
        blocks.append(Paragraph(f"Left out, since all their weights are equal or 0: {names}."))
    if run.packed:
        blocks.append(
            Paragraph(
                f"The run is packed as `{run.packed['format']}`: the matrices of the blocks have few different values, "
                "and a density is only an outline of them."
            )
        )
    everything = np.concatenate([w.reshape(-1) for w in arrays.values()])
    blocks += [
        Heading("Shapes"),
        Figure(
            "shapes",
            lambda ax: _draw_shapes(report, ax),
            "Shape of each array by maximum likelihood (dot, with two standard errors) and by the moment ratio "
            "(cross); a row has the arrays of all layers.",
            size=(8.8, 1.2 + 0.3 * len(report.rows)),
        ),
        Heading("Pooled"),
        Paragraph(
            "Arrays of different standard deviations, pooled as they are, look heavier-tailed than each of them is. "
            "The second figure shows them after each was divided by its own."
        ),
        _histogram(report.pooled, _standardised(report.pooled.arrays, [everything])),
        _histogram(
            report.scaled,
            np.concatenate([_own(parameter, arrays) for parameter in report.parameters]),
        ),
        Heading("Each parameter"),
        *(_histogram(parameter, _own(parameter, arrays)) for parameter in report.parameters),
        Heading("How it is measured"),
        Bullets(
            [
                "**Generalized Gaussian**: p(x) ∝ exp(−|x/α|^ν) with shape ν; 1 is Laplace, 2 Gaussian, and a lower "
                "shape has a sharper peak and heavier tails.",
                "**Shape, moments**: the shape whose n Σw² / (Σ|w|)² the weights have. **Shape, ML**: the likeliest, "
                "with the standard error that draws of that distribution would give. Both lie in "
                f"{fits.BOUNDS[0]:g} to {fits.BOUNDS[1]:g}.",
                "**AIC**: 2 × parameters fitted − 2 × log-likelihood; the lowest wins. All families are around the "
                "same place: 0, or the mean where that is further from 0 than half a standard deviation.",
                "**Zeros**, weights that are exactly 0, belong to no density: likelihoods are of the others.",
            ]
        ),
    ]
    lead = f"`{report.run}` after {report.step:,} updates, against four families of distributions."
    return Page("What the weights are distributed like", lead, blocks)


def _own(parameter, arrays):
    return _standardised(parameter.arrays, [arrays[fit.name] for fit in parameter.arrays])


def _standardised(array_fits, arrays):
    """Returns the weights that are not 0, float64[n], of each array around its loc and over its std."""
    pairs = zip(array_fits, arrays, strict=True)
    return np.concatenate([(w[w != 0].astype(np.float64) - fit.loc) / fit.std for fit, w in pairs])


def _histogram(row, x) -> Figure:
    caption = (
        f"`{row.name}`: {row.n:,} weights, best fitted by the {next(iter(row.aic))}. Density on a logarithmic axis "
    )
    caption += "against weights in standard deviations"
    caption += " of their layer; the curves are means over the layers." if len(row.arrays) > 1 else "."
    stem = "".join(c if c.isalnum() else "_" for c in row.name)
    return Figure(f"weights_{stem}", lambda ax: _draw_histogram(row, x, ax), caption, size=(8.8, 3.4))


def _draw_histogram(row, x, ax: Axes) -> Axes:
    """Draws the density of standardised weights, and that of each family."""
    counts, edges = np.histogram(x, _BINS)
    width = edges[1] - edges[0]
    density, floor = counts / (x.size * width), 0.3 / (x.size * width)  # the floor is below one weight in a bin
    ax.stairs(
        np.maximum(density, floor), edges, baseline=floor, fill=True, color="#808a96", alpha=0.45, label="weights"
    )
    # Dense near the middle, where low shapes have a sharp peak.
    reach = np.abs(edges).max()
    side = np.concatenate([np.geomspace(1e-4, 0.1, 40) * reach, np.linspace(0.1, 1, 120)[1:] * reach])
    points = np.concatenate([-side[::-1], [0.0], side])
    points = points[(points >= edges[0]) & (points <= edges[-1])]
    for family, line in zip(row.aic, (2.2, 1.2, 1.2, 1.2), strict=True):
        curve = np.zeros_like(points)
        for fit in row.arrays:
            distribution = next(own.distribution for own in fit.families if own.family == family)
            curve += fit.n / row.n * fit.std * np.exp(distribution.logpdf(fit.loc + fit.std * points))
        ax.plot(points, curve, color=_COLORS[family], linewidth=line, label=family)
    ax.set_yscale("log")
    ax.minorticks_off()
    ax.set_ylim(floor, 3 * density.max())
    ax.set_xlabel("standard deviations")
    ax.set_ylabel("density")
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize="small", borderaxespad=0)
    return _finish(ax)


def _draw_shapes(report, ax: Axes) -> Axes:
    """Draws the shapes of each row, the first on top."""
    rows = report.rows[::-1]
    for value in (1, 2):
        ax.axvline(value, color="#808a96", linewidth=0.8, linestyle=(0, (4, 3)))
    for y, row in enumerate(rows):
        color = "#d55e00" if row in (report.pooled, report.scaled) else "#0072b2"
        for fit in row.arrays:
            ax.errorbar(fit.shape_mle, y, xerr=2 * fit.shape_error, fmt="o", color=color, markersize=4.5, linewidth=1.2)
            ax.plot(fit.shape_moments, y, "x", color=color, markersize=6)
    ax.set_yticks(range(len(rows)), [row.name for row in rows])
    ax.tick_params(axis="y", length=0, labelsize="small")
    ax.set_ylim(-0.7, len(rows) - 0.3)
    ax.set_xscale("log")
    shapes = [shape for row in rows for fit in row.arrays for shape in (fit.shape_mle, fit.shape_moments)]
    low, high = 0.85 * min(1, *shapes), 1.18 * max(2, *shapes)
    ax.set_xlim(low, high)
    ticks = [shape for shape in (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10) if low <= shape <= high]
    ax.set_xticks(ticks, [f"{shape:g}" for shape in ticks])
    ax.minorticks_off()
    ax.set_xlabel("shape (1 Laplace, 2 Gaussian)")
    return _finish(ax)


def _span(values, form):
    """Returns the lowest and the highest value as text, or one where they look alike."""
    texts = [format(value, form) for value in sorted(values)]
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]} to {texts[-1]}"


def _finish(ax):
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25)
    ax.set_axisbelow(True)
    return ax
