"""Fit from files and text options, as in `compressed-lm fit`."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from compressed_lm.errors import InputError
from compressed_lm.scaling.bootstrap import bootstrap
from compressed_lm.scaling.capacity import effective_bits, sparsity_gmse
from compressed_lm.scaling.diagnosis import IdentifiabilityWarning
from compressed_lm.scaling.fit import Fit, fit
from compressed_lm.scaling.tables import read_table


def fit_tables(
    paths: Sequence[str],
    law: str = "chinchilla",
    *,
    columns: Sequence[str] = (),
    let: Sequence[str] = (),
    where: str | None = None,
    fixed: Sequence[str] = (),
    shared: bool = False,
    reference: str | None = None,
    delta: float = 1e-3,
    loss_space: str = "log",
    samples: int = 0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Fit:
    """Fits a law to the rows of files, with a bootstrap if `samples` is above 0.

    Args:
        paths: CSV, JSON or JSON lines files (`tables.read_table`); their rows are concatenated.
        law: name of the law.
        columns: `NAME=COLUMN` for names in the table that differ from the law's; for a product of capacities, several
            columns with commas: `gmse=gmse_w,gmse_a`.
        let: pandas `COLUMN = EXPRESSION`, evaluated in order: "tokens = `Training FLOP` / (6 * N)"; the functions
            `@sparsity_gmse` and `@effective_bits` are available.
        where: pandas expression; rows for which it is true are fitted.
        fixed: `NAME=VALUE` fixes a parameter; `NAME=free` frees one that the law fixes.
        shared: whether the factors of a product have the same parameters.
        reference: the format with capacity 1.
        delta: threshold of the Huber loss.
        loss_space: `log` or `raw`.
        samples: resampled tables of the bootstrap; 0 for none.
        seed: random seed of the bootstrap.
        progress: `progress` of `bootstrap`.

    Raises:
        InputError: an option, a file or the data cannot be used.
    """
    runs = pd.concat([read_table(path) for path in paths], ignore_index=True)
    known = {"sparsity_gmse": sparsity_gmse, "effective_bits": effective_bits}
    for expression in let:
        runs = _evaluated(runs.eval, expression, local_dict=known)
    if where:
        runs = _evaluated(runs.query, where, local_dict=known)
    names: dict[str, Any] = {}
    for name, value in _pairs(columns, "a column"):
        names[name] = value.split(",") if "," in value else value
    values = {name: None if value == "free" else _number(name, value) for name, value in _pairs(fixed, "a parameter")}
    options: dict[str, Any] = {"shared": True} if shared else {}
    if reference is not None:
        options["reference"] = reference
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IdentifiabilityWarning)  # the summary and the report show it
        result = fit(runs, law, fixed=values, delta=delta, loss_space=loss_space, **names, **options)
    if samples:
        result = bootstrap(result, samples=samples, seed=seed, progress=progress)
    return result


def _evaluated(method: Callable, expression: str, **options: Any) -> pd.DataFrame:
    try:
        found = method(expression, engine="python", **options)
    except Exception as error:  # an expression may raise any exception
        raise InputError(
            f"The expression {expression!r} cannot be evaluated on the table: {error}. Expected a pandas expression, "
            "with backticks around names that contain spaces or symbols."
        ) from error
    if not isinstance(found, pd.DataFrame):
        raise InputError(f"The expression {expression!r} names no column. Expected COLUMN = EXPRESSION.")
    return found


def _pairs(words: Sequence[str], what: str) -> list[tuple[str, str]]:
    found = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise InputError(f"{word!r} was given for {what}. Expected NAME=VALUE.")
        found.append((name, value))
    return found


def _number(name: str, value: str) -> float:
    try:
        if math.isfinite(number := float(value)):
            return number
    except ValueError:
        pass
    raise InputError(f"{name}={value} was given. Expected a number, or free.")
