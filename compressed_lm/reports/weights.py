"""Report of weight distributions: a table, and a page of histograms with fitted densities."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import numpy as np
from matplotlib.axes import Axes
from rich.table import Table as TerminalTable

from compressed_lm.errors import InputError
from compressed_lm.formatting import si
from compressed_lm.io import any_path, write_atomic
from compressed_lm.models.partitioning import by_name
from compressed_lm.reports.page import Block, Bullets, Figure, Heading, Page, Paragraph, Table, Tiles
from compressed_lm.terminal import cell
from compressed_lm.training import Run, load_run
from compressed_lm.weights import fits

HEADER = ("Weights", "n", "Std", "Zeros", "Shape, moments", "Shape, ML", "Error", "Best by AIC", "Lead")
_ALIGN = "lrrrrrrlr"
_COLORS = {fits.GENERALIZED: "#0072b2", fits.GAUSSIAN: "#e69f00", fits.LAPLACE: "#009e73", fits.STUDENT: "#cc79a7"}
_BINS = 160


@dataclasses.dataclass(frozen=True)
class ParameterFit:
    """Fits of one parameter, one per layer; layers of different standard deviations are not pooled.

    Attributes:
        name: name of the parameter, `fits.POOLED` or `fits.POOLED_SCALED`.
        arrays: one fit per layer; a single fit outside the blocks.
    """

    name: str
    arrays: tuple[fits.TensorFit, ...]

    @property
    def n(self) -> int:
        """Number of weights."""
        return sum(fit.n for fit in self.arrays)

    @property
    def zeros(self) -> float:
        """Share of weights that are exactly 0."""
        return sum(fit.n * fit.zeros for fit in self.arrays) / self.n

    @property
    def aic(self) -> dict[str, float]:
        """AIC of each family, summed over the arrays, lowest first."""
        families = [fit.family for fit in self.arrays[0].families]
        sums = [sum(array.families[i].aic for array in self.arrays) for i in range(len(families))]
        return dict(sorted(zip(families, sums, strict=True), key=lambda item: item[1]))

    def cells(self) -> tuple[str, ...]:
        """Returns a row of the table with columns HEADER; values that differ between arrays as lowest and highest."""
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
    """Fits of the weights of a run.

    Attributes:
        run: folder of the run.
        step: number of training updates.
        parameters: one row per parameter.
        pooled, scaled: all weights pooled, unchanged and after division of each array by its standard deviation.
        left_out: arrays with fewer than two different non-zero weights, such as initial norm scales.
    """

    run: str
    step: int
    parameters: list[ParameterFit]
    pooled: ParameterFit
    scaled: ParameterFit
    left_out: list[str]

    @property
    def rows(self) -> list[ParameterFit]:
        """Rows of the table, with the pooled ones last."""
        return [*self.parameters, self.pooled, self.scaled]

    def table(self) -> TerminalTable:
        """Returns the table for the terminal."""
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
    """Fits the weights of a run, and writes the page if `out` is given.

    Args:
        run_dir: folder of a run, packed or not.
        out: self-contained HTML file to write; its folder is created if missing.
        progress: called with (weights done, total weights).

    Raises:
        InputError: there is no run, its weights are not finite or all equal, or `out` is a folder.
    """
    if out is not None and any_path(out, "The report").is_dir():
        raise InputError(
            f"{out} was given for the report and is a folder. Give the name of a file, such as report.html."
        )
    run = load_run(run_dir)
    arrays: dict[str, np.ndarray] = {}
    layers: dict[str, list[str]] = {}
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


def _page(report: WeightReport, arrays: Mapping[str, np.ndarray], run: Run) -> Page:
    """Returns the page: the table, the shapes, and a histogram for each row."""
    wins = [next(iter(parameter.aic)) for parameter in report.parameters]
    most = max(_COLORS, key=wins.count)
    scaled, pooled = (row.arrays[0].shape_mle for row in (report.scaled, report.pooled))
    blocks: list[Block] = [
        Tiles(
            [
                (f"{scaled:.2f}", "shape of all weights, each array divided by its standard deviation"),
                (f"{pooled:.2f}", "shape of all weights, pooled unchanged"),
                (f"{wins.count(most)} of {len(wins)}", f"parameters fitted best by the {most}"),
                (si(report.pooled.n), "weights"),
            ]
        ),
        Heading("Table"),
        Table(HEADER, [(f"`{name}`", *cells) for name, *cells in (row.cells() for row in report.rows)], _ALIGN),
        Paragraph(
            "The array of each layer is fitted separately; a row shows the lowest and highest value over layers, and "
            "the sum of AIC. The error is the largest standard error of a shape (maximum likelihood); the lead is half "
            "the AIC difference to the next best family, in nats per weight."
        ),
    ]
    if report.left_out:
        names = ", ".join(f"`{name}`" for name in report.left_out)
        blocks.append(Paragraph(f"Left out, because all their weights are equal or 0: {names}."))
    if run.packed:
        blocks.append(
            Paragraph(
                f"The run is packed as `{run.packed['format']}`: the matrices of the blocks have few different values, "
                "and densities describe them only roughly."
            )
        )
    everything = np.concatenate([w.reshape(-1) for w in arrays.values()])
    blocks += [
        Heading("Shapes"),
        Figure(
            "shapes",
            lambda ax: _draw_shapes(report, ax),
            "Shape of each array by maximum likelihood (dot, with two standard errors) and by the moment ratio "
            "(cross); a row shows the arrays of all layers.",
            size=(8.8, 1.2 + 0.3 * len(report.rows)),
        ),
        Heading("Pooled"),
        Paragraph(
            "Arrays of different standard deviations, pooled unchanged, have heavier tails than each array alone. The "
            "second figure shows them after division of each array by its standard deviation."
        ),
        _histogram(report.pooled, _standardised(report.pooled.arrays, [everything])),
        _histogram(
            report.scaled,
            np.concatenate([_own(parameter, arrays) for parameter in report.parameters]),
        ),
        Heading("Each parameter"),
        *(_histogram(parameter, _own(parameter, arrays)) for parameter in report.parameters),
        Heading("Measures"),
        Bullets(
            [
                "**Generalized Gaussian**: p(x) ∝ exp(−|x/α|^ν) with shape ν; 1 is Laplace, 2 Gaussian; a lower shape "
                "has a sharper peak and heavier tails.",
                "**Shape, moments**: the shape with the same n Σw² / (Σ|w|)² as the weights. **Shape, ML**: maximum "
                "likelihood, with the standard error for samples of that distribution. Both are limited to "
                f"{fits.BOUNDS[0]:g} to {fits.BOUNDS[1]:g}.",
                "**AIC**: 2 × fitted parameters − 2 × log-likelihood; the lowest is best. All families have the same "
                "location: 0, or the mean if it is further from 0 than half a standard deviation.",
                "**Zeros**: weights that are exactly 0; likelihoods are those of the other weights.",
            ]
        ),
    ]
    lead = f"`{report.run}` after {report.step:,} updates, compared with four families of distributions."
    return Page("Distributions of weights", lead, blocks)


def _own(parameter: ParameterFit, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    return _standardised(parameter.arrays, [arrays[fit.name] for fit in parameter.arrays])


def _standardised(array_fits: Sequence[fits.TensorFit], arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the non-zero weights of all arrays, each array as (w - loc) / std, float64[n]."""
    pairs = zip(array_fits, arrays, strict=True)
    return np.concatenate([(w[w != 0].astype(np.float64) - fit.loc) / fit.std for fit, w in pairs])


def _histogram(row: ParameterFit, x: np.ndarray) -> Figure:
    caption = (
        f"`{row.name}`: {row.n:,} weights, best fitted by the {next(iter(row.aic))}. Density (logarithmic) against "
    )
    caption += "weights in standard deviations"
    caption += " of their layer; curves are means over the layers." if len(row.arrays) > 1 else "."
    stem = "".join(c if c.isalnum() else "_" for c in row.name)
    return Figure(f"weights_{stem}", lambda ax: _draw_histogram(row, x, ax), caption, size=(8.8, 3.4))


def _draw_histogram(row: ParameterFit, x: np.ndarray, ax: Axes) -> Axes:
    """Draws the density of standardised weights, and that of each family."""
    counts, edges = np.histogram(x, _BINS)
    width = edges[1] - edges[0]
    density, floor = counts / (x.size * width), 0.3 / (x.size * width)  # the floor is less than one weight per bin
    ax.stairs(
        np.maximum(density, floor), edges, baseline=floor, fill=True, color="#808a96", alpha=0.45, label="weights"
    )
    # Points are dense near 0, where low shapes have a sharp peak.
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


def _draw_shapes(report: WeightReport, ax: Axes) -> Axes:
    """Draws the shapes of each row, with the first row on top."""
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


def _span(values: Iterable[float], form: str) -> str:
    """Returns the lowest and the highest value as text, or one value if their texts are equal."""
    texts = [format(value, form) for value in sorted(values)]
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]} to {texts[-1]}"


def _finish(ax: Axes) -> Axes:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25)
    ax.set_axisbelow(True)
    return ax
