"""A fit as one HTML file: parameters with intervals, what is not determined, figures, and the command that made it."""

import base64
import html
import io
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes

from compressed_lm.io import write_atomic
from compressed_lm.scaling import budget_plots, law_plots, summary
from compressed_lm.scaling.capacity import Exponential, Free
from compressed_lm.scaling.fit import Fit
from compressed_lm.scaling.frontier import Optimum, optimum
from compressed_lm.scaling.laws import DATA, SIZE

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { padding: .25rem .9rem .25rem 0; text-align: left; border-bottom: 1px solid #ddd; }
figure { margin: 1.2rem 0; } figcaption { color: #555; font-size: .9rem; } img { max-width: 100%; }
pre { background: #f4f4f4; padding: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.warning { border-left: 4px solid #D55E00; padding: .2rem .8rem; background: #fdf3ec; }
"""


def write(
    fit: Fit, path: str | os.PathLike, *, command: str, title: str | None = None, budgets: Sequence[float] | None = None
) -> pathlib.Path:
    """Writes the report of a fit, self-contained, and returns its path.

    Args:
        fit: a fit, best a bootstrapped one.
        path: the HTML file, or - for the standard output; its folder is made where missing.
        command: what to run to make it again; shown as it is.
        title: heading; the law's name by default.
        budgets: training FLOPs of the table of optima, for laws that have one; by default those of the figure.
    """
    title = title or f"The law {fit.law.name!r} fitted to {len(fit.residuals)} runs"
    parts = [f"<h1>{html.escape(title)}</h1>", f"<pre>{html.escape(formula(fit))}</pre>"]
    parts += [f'<p class="warning">{html.escape(text)}</p>' for text in fit.warnings]
    parts += ["<h2>Parameters</h2>", _table(("parameter", "value", "interval", ""), summary.rows(fit))]
    if fit.samples is None:
        parts.append("<p>No intervals: the fit was not bootstrapped.</p>")
    parts += ["<h2>Quality</h2>", _table(None, summary.quality(fit))]
    parts.append("<h2>Figures</h2>")
    parts += [_figure(draw, words) for draw, words in _figures(fit, budgets)]
    if _has_optimum(fit):
        chosen = budget_plots.common_budgets(fit) if budgets is None else budgets
        parts += ["<h2>Best size and data for a budget</h2>", _optima([optimum(fit, budget) for budget in chosen])]
    parts += ["<h2>Made by</h2>", f"<pre>{html.escape(command)}</pre>"]
    page = (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body>\n</html>\n"
    )
    write_atomic(path, page, "The report")
    return pathlib.Path(path)


def formula(fit: Fit) -> str:
    """The law as one line, `loss = A (n_params rho)^-alpha + ...`."""
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


def _figures(fit: Fit, budgets) -> list[tuple[Callable[[], Axes], str]]:
    found = [
        (lambda: law_plots.measured_against_predicted(fit), "Measured against predicted loss."),
        (lambda: law_plots.residuals(fit, x="loss"), "Residuals; a law that holds leaves no pattern."),
    ]
    gmse = [factor for factor in fit.law.factors if not isinstance(factor, Free | Exponential)]
    if gmse:
        found.append((lambda: law_plots.capacity_against_bits(fit), "Capacity against effective bits."))
    if _has_optimum(fit):
        found += [
            (
                lambda: budget_plots.isoflop(fit, budgets=budgets),
                "Loss at constant training FLOPs, with minima.",
            ),
            (lambda: budget_plots.iso_loss(fit), "Equal loss over FLOPs and size, with the frontier."),
        ]
    if fit.diagnosis is not None and fit.diagnosis.exponent is not None:
        words = "Profile likelihood of the exponent: flat means not determined."
        found.append((lambda: law_plots.profile(fit), words))
    return found


def _has_optimum(fit: Fit) -> bool:
    mixed = any(len({p.input for p in term.powers} & {SIZE, DATA}) > 1 for term in fit.law.terms)
    return SIZE in fit.law.inputs and DATA in fit.law.inputs and not mixed


def _figure(draw: Callable[[], Axes], words: str) -> str:
    file = io.BytesIO()
    draw().figure.savefig(file, format="png", dpi=140, metadata={"Software": None})
    data = base64.b64encode(file.getvalue()).decode()
    words = html.escape(words)
    return f'<figure><img alt="{words}" src="data:image/png;base64,{data}"><figcaption>{words}</figcaption></figure>'


def _table(head: Sequence[str] | None, rows: Sequence[Sequence[str]]) -> str:
    lines = ["<table>"]
    if head:
        lines.append("<tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in head) + "</tr>")
    lines += ["<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return "\n".join([*lines, "</table>"])


def _optima(found: Sequence[Optimum]) -> str:
    rows = []
    for top in found:
        cells = [f"{top.flops:.3g}"]
        for estimate in (top.n_params, top.tokens, top.loss):
            if not 0 < estimate.value < np.inf:
                cells.append("not determined")
                continue
            spread = f" ({estimate.low:.4g} to {estimate.high:.4g})" if estimate.low > 0 else ""
            cells.append(f"{estimate.value:.4g}{spread}")
        rows.append(cells)
    return _table(("training FLOPs", "parameters", "tokens", "loss"), rows)
