"""Forecasts of the largest runs from a fit to the smaller ones."""

import dataclasses

import numpy as np
import pandas as pd

from compressed_lm.errors import InputError
from compressed_lm.scaling.fit import Fit, fit
from compressed_lm.scaling.laws import SIZE


@dataclasses.dataclass(frozen=True, eq=False)
class Extrapolation:
    """A fit to the smaller runs, held against the largest.

    Attributes:
        fit: of the smaller runs.
        table: the held-out rows with `predicted` and `error`, ln(measured) - ln(predicted).
        mean_absolute: of these errors.
        fitted: the same of the runs that were fitted.
    """

    fit: Fit
    table: pd.DataFrame
    mean_absolute: float
    fitted: float


def extrapolation(
    runs: pd.DataFrame, law="chinchilla", *, above: float, column: str = SIZE, **options
) -> Extrapolation:
    """How well a law that has seen the smaller runs only foretells the larger ones.

    Args:
        runs: the table.
        law: as in `fit`.
        above: rows with more than this are held out.
        column: of which column; the law's or the table's name, or any other column of the table.
        **options: of `fit`.

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
