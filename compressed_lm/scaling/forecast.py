"""Forecasts of the largest runs from a fit to the smaller ones."""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from compressed_lm.errors import InputError
from compressed_lm.scaling.fit import Fit, fit
from compressed_lm.scaling.laws import SIZE, PowerSum


@dataclasses.dataclass(frozen=True, eq=False)
class Extrapolation:
    """Forecast of the held-out large runs from a fit to the smaller ones.

    Attributes:
        fit: fit to the smaller runs.
        table: the held-out rows with `predicted` and `error`, ln(measured) - ln(predicted).
        mean_absolute: mean absolute error of the held-out rows.
        fitted: mean absolute error of the fitted rows.
    """

    fit: Fit
    table: pd.DataFrame
    mean_absolute: float
    fitted: float


def extrapolation(
    runs: pd.DataFrame, law: str | PowerSum = "chinchilla", *, above: float, column: str = SIZE, **options: Any
) -> Extrapolation:
    """Fits a law to the smaller runs and predicts the larger ones.

    Args:
        runs: the table.
        law: as in `fit`.
        above: rows with a larger value of `column` are held out.
        column: name of a column, by the law's or the table's name.
        **options: passed to `fit`.

    Raises:
        InputError: no row, or every row, is held out.
    """
    name = options.get(column, column)
    held = runs[name].to_numpy(float) > above
    if held.all() or not held.any():
        raise InputError(
            f"{held.sum()} of {len(runs)} rows have {name} above {above:g}. Expected some of them: choose a value "
            f"between {runs[name].min():g} and {runs[name].max():g}."
        )
    small = fit(runs[~held], law, **options)
    rest = runs[held].copy()
    rest["predicted"] = small.predict(rest)
    rest["error"] = np.log(rest[small.columns["loss"]].to_numpy(float)) - np.log(rest["predicted"])
    seen = np.log(small.data["loss"].astype(float)) - np.log(small.predict(small.data))
    return Extrapolation(small, rest, float(rest["error"].abs().mean()), float(np.abs(seen).mean()))
