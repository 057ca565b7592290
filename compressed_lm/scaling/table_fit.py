"""A fit from files and words, as `compressed-lm fit` takes them."""

import math
import warnings
from collections.abc import Callable, Sequence

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
    """The fit of a law to the rows of one file or more, bootstrapped where asked.

    Args:
        paths: CSV, JSON or JSON lines (`tables.read_table`); their rows are joined.
        law: its name.
        columns: `NAME=COLUMN` where the table's name differs from the law's; several columns, for a product of
            capacities, with commas: `gmse=gmse_w,gmse_a`.
        let: `COLUMN = EXPRESSION` of pandas, adding columns in this order: "tokens = `Training FLOP` / (6 * N)"; the
            functions `@sparsity_gmse` and `@effective_bits` are known.
        where: an expression of pandas; rows for which it is true are fitted.
        fixed: `NAME=VALUE` of parameters that are given; `NAME=free` frees one that the law holds.
        shared: whether the factors of a product have the same parameters.
        reference: the format whose capacity is 1.
        delta: threshold of the Huber loss.
        loss_space: `log` or `raw`.
        samples: of the bootstrap; none for 0.
        seed: of the bootstrap.
        progress: of the bootstrap.

    Raises:
        InputError: a word, a file or the data cannot be used.
    """
    runs = pd.concat([read_table(path) for path in paths], ignore_index=True)
    known = {"sparsity_gmse": sparsity_gmse, "effective_bits": effective_bits}
    for expression in let:
        runs = _evaluated(runs.eval, expression, local_dict=known)
    if where:
        runs = _evaluated(runs.query, where, local_dict=known)
    names = {name: value.split(",") if "," in value else value for name, value in _pairs(columns, "a column")}
    values = {name: None if value == "free" else _number(name, value) for name, value in _pairs(fixed, "a parameter")}
    options = ({"shared": True} if shared else {}) | ({"reference": reference} if reference is not None else {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IdentifiabilityWarning)  # the summary and the report say it
        result = fit(runs, law, fixed=values, delta=delta, loss_space=loss_space, **names, **options)
    if samples:
        result = bootstrap(result, samples=samples, seed=seed, progress=progress)
    return result


def _evaluated(method: Callable, expression: str, **options) -> pd.DataFrame:
    try:
        found = method(expression, engine="python", **options)
    except Exception as error:  # pandas raises whatever the expression makes it raise
        raise InputError(
            f"The expression {expression!r} cannot be evaluated on the table: {error}. Expected one of pandas, with "
            "names that are no words in backticks."
        ) from error
    if not isinstance(found, pd.DataFrame):
        raise InputError(f"The expression {expression!r} names no column. Expected COLUMN = EXPRESSION.")
    return found


def _pairs(words: Sequence[str], what: str) -> list[tuple[str, str]]:
    for word in words:
        if "=" not in word:
            raise InputError(f"{word!r} was given for {what}. Expected NAME=VALUE.")
    return [tuple(word.split("=", 1)) for word in words]


def _number(name: str, value: str) -> float:
    try:
        if math.isfinite(number := float(value)):
            return number
    except ValueError:
        pass
    raise InputError(f"{name}={value} was given. Expected a number, or free.")
