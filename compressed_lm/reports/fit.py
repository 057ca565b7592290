"""Report of a scaling-law fit: parameters with intervals, warnings, figures, and the command that made it."""

import os
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from compressed_lm.io import any_path, write_atomic
from compressed_lm.reports.page import Alert, Block, Code, Figure, Heading, Page, Paragraph, Table
from compressed_lm.scaling import budget_plots, law_plots, summary
from compressed_lm.scaling.capacity import Exponential, Free
from compressed_lm.scaling.fit import Fit
from compressed_lm.scaling.frontier import optimum
from compressed_lm.scaling.laws import DATA, SIZE


def write_report(
    fit: Fit, path: str | os.PathLike, *, command: str, title: str | None = None, budgets: Sequence[float] | None = None
) -> pathlib.Path:
    """Writes the report of a fit as one self-contained HTML file and returns its path.

    Args:
        fit: a fit, preferably bootstrapped.
        path: the HTML file, or - for the standard output; its folder is created if missing.
        command: the command that makes the report again; shown unchanged.
        title: heading; by default the name of the law.
        budgets: training FLOPs of the table of optima, for laws that have an optimum; by default those of the figure.
    """
    title = title or f"The law {fit.law.name!r} fitted to {len(fit.residuals)} runs"
    write_atomic(path, page(fit, command=command, title=title, budgets=budgets).html(), "The report")
    return any_path(path)


def page(fit: Fit, *, command: str, title: str, budgets: Sequence[float] | None = None) -> Page:
    """Returns the report of a fit as a page; arguments as of `write_report`."""
    intervals = "intervals by bootstrap" if fit.samples is not None else "no intervals"
    lead = f"{len(fit.residuals)} runs, status {fit.status.replace('_', ' ')}, {intervals}."
    blocks: list[Block] = [
        Code(formula(fit)),
        *map(Alert, fit.warnings),
        Heading("Parameters"),
        Table(("parameter", "value", "interval", ""), summary.rows(fit), "llll"),
    ]
    if fit.samples is None:
        blocks.append(Paragraph("No intervals: the fit was not bootstrapped."))
    blocks += [Heading("Quality"), Table(("measure", "value"), summary.quality(fit), "ll")]
    blocks += [Heading("Figures"), *_figures(fit, budgets)]
    if _has_optimum(fit):
        chosen = budget_plots.common_budgets(fit) if budgets is None else budgets
        blocks += [Heading("Best size and data for a budget"), _optima(fit, chosen)]
    blocks += [Heading("Made by"), Code(command)]
    return Page(title, lead, blocks)


def formula(fit: Fit) -> str:
    """Returns the law as one line, such as `loss = A (n_params rho)^-alpha + ...`."""
    terms = []
    for term in fit.law.terms:
        parts = [term.coefficient]
        for power in term.powers:
            sign = "-" if power.sign < 0 else ""
            if power.input == "post_bits":
                parts.append(f"exp({sign}{power.exponent} post_bits)")
                continue
            base = "(1 - sparsity)" if power.input == "sparsity" else power.input
            scaled = power.input == SIZE and fit.law.factors and term.compressed
            parts.append(f"{f'({base} rho)' if scaled else base}^{sign}{power.exponent}")
        terms.append(" ".join(parts))
    line = " + ".join(terms + (["E"] if fit.law.offset else []))
    columns = ", ".join(factor.column for factor in fit.law.factors)
    return f"loss = {line}" + (f"\nrho = capacity from {columns}" if columns else "")


def _figures(fit: Fit, budgets: Sequence[float] | None) -> list[Figure]:
    found = [
        Figure(
            "measured",
            lambda ax: law_plots.measured_against_predicted(fit, ax=ax),
            "Measured against predicted loss.",
        ),
        Figure(
            "residuals",
            lambda ax: law_plots.residuals(fit, x="loss", ax=ax),
            "Residuals; a law that holds leaves no pattern.",
        ),
    ]
    if any(not isinstance(factor, Free | Exponential) for factor in fit.law.factors):
        caption = "Capacity against effective bits."
        found.append(Figure("capacity", lambda ax: law_plots.capacity_against_bits(fit, ax=ax), caption))
    if _has_optimum(fit):
        found += [
            Figure(
                "isoflop",
                lambda ax: budget_plots.isoflop(fit, budgets=budgets, ax=ax),
                "Loss at constant training FLOPs, with minima.",
            ),
            Figure(
                "iso_loss",
                lambda ax: budget_plots.iso_loss(fit, ax=ax),
                "Equal loss over FLOPs and size, with the frontier.",
            ),
        ]
    if fit.diagnosis is not None and fit.diagnosis.exponent is not None:
        caption = "Profile likelihood of the exponent: flat means not determined."
        found.append(Figure("profile", lambda ax: law_plots.profile(fit, ax=ax), caption))
    return found


def _has_optimum(fit: Fit) -> bool:
    mixed = any(len({p.input for p in term.powers} & {SIZE, DATA}) > 1 for term in fit.law.terms)
    return SIZE in fit.law.inputs and DATA in fit.law.inputs and not mixed


def _optima(fit: Fit, budgets: Iterable[float]) -> Table:
    rows = []
    for top in (optimum(fit, budget) for budget in budgets):
        cells = [f"{top.flops:.3g}"]
        for estimate in (top.n_params, top.tokens, top.loss):
            if not 0 < estimate.value < np.inf:
                cells.append("not determined")
                continue
            spread = f" ({estimate.low:.4g} to {estimate.high:.4g})" if estimate.low > 0 else ""
            cells.append(f"{estimate.value:.4g}{spread}")
        rows.append(cells)
    return Table(("training FLOPs", "parameters", "tokens", "loss"), rows, "llll")
