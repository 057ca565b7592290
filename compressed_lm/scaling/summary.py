"""Text summary of a fit: parameters with intervals, status, warnings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from compressed_lm.scaling.laws import SIZE

if TYPE_CHECKING:
    from compressed_lm.scaling.fit import Fit


def rows(fit: Fit) -> list[tuple[str, str, str, str]]:
    """Returns (parameter, value, interval, note) of each parameter, as text."""
    found = []
    for name, value in fit.params.items():
        low, high = fit.intervals[name] if fit.intervals else (np.nan, np.nan)
        note = "fixed" if name in fit.fixed else "at a bound" if name in fit.at_bounds else ""
        shown = "" if note == "fixed" or not np.isfinite(low) else f"{low:.4g} to {high:.4g}"
        found.append((name, f"{value:.5g}", shown, note))
    return found


def quality(fit: Fit) -> list[tuple[str, str]]:
    """Returns (measure, value) of the quality of the fit, as text."""
    space = "log loss" if fit.loss_space == "log" else "loss"
    found = [
        ("law", fit.law.name),
        ("runs", str(len(fit.residuals))),
        *([("size", fit.columns[SIZE])] if fit.columns.get(SIZE, SIZE) != SIZE else []),
        ("status", fit.status.replace("_", " ")),
        ("summed Huber loss", f"{fit.objective:.8g} (delta {fit.delta:g} on {space})"),
        ("root mean square residual", f"{np.sqrt(np.mean(fit.residuals**2)):.4g} of {space}"),
        ("largest residual", f"{np.abs(fit.residuals).max():.4g}"),
    ]
    if fit.diagnosis:
        found.append(("condition number", f"{fit.diagnosis.condition_number:.3g}"))
        if fit.diagnosis.interval:
            low, high = fit.diagnosis.interval
            found.append((f"{fit.diagnosis.exponent} by profile likelihood (95 %)", f"{low:.4g} to {high:.4g}"))
    if fit.samples:
        missing = np.isnan(next(iter(fit.samples.values())))
        found.append(("bootstrap samples", f"{len(missing) - missing.sum()}, {missing.sum()} not converged"))
    return found


def summary(fit: Fit) -> str:
    """Returns both tables and the warnings as text."""
    parts = [_columns([(name + ":", value) for name, value in quality(fit)])]
    parts.append(_columns([("parameter", "value", "interval", ""), *rows(fit)]))
    parts += [f"warning: {text}" for text in fit.warnings]
    return "\n\n".join(parts)


def _columns(cells: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[k]) for row in cells) for k in range(len(cells[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )
