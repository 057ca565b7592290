"""Tables of runs: reading files, finding and checking columns, and building the fitting problem."""

import dataclasses
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd

from compressed_lm import io
from compressed_lm.errors import InputError
from compressed_lm.scaling.capacity import as_numbers
from compressed_lm.scaling.laws import SIZE, PowerSum, log_input
from compressed_lm.scaling.newton import Problem

ZERO = 1e-6
"""A coefficient or E below this share of the typical loss counts as zero."""

_WIDEST = 1e9

RUN_TABLE = {"loss": "loss_nats_per_token", "gmse": "gmse_weights", "format": "weights"}
"""Names in the run tables of this package, used if a table does not have the law's names."""

NOT_EMBEDDED = "n_nonembed"
"""Size in laws with capacities, if the table has it: embeddings are not compressed."""

OPTIONS = ("shared", "reference", "tied", "post_bits", "offsets")


def read_table(path: str) -> pd.DataFrame:
    """Reads a table of runs: CSV, a JSON list of records (or columns), or JSON lines.

    The suffix of the file name gives the format; for the standard input (`-`) or a pipe, the first character does.

    Raises:
        InputError: the file has another suffix or cannot be read.
    """
    readers = {
        ".csv": pd.read_csv,
        ".json": pd.read_json,
        ".jsonl": lambda file: pd.read_json(file, lines=True),
    }
    ending = io.any_path(path, "The table of runs").suffix.lower()
    streamed = io.is_stream(path)
    if ending not in readers and not streamed:
        raise InputError(
            f"{path} does not end in {', '.join(readers)}. Expected a table of runs in one of these formats."
        )
    content = io.read_bytes(path, "The table of runs")
    if streamed and ending not in readers:
        first = content.lstrip()[:1]
        ending = ".json" if first == b"[" else ".jsonl" if first == b"{" else ".csv"
    try:
        return readers[ending](BytesIO(content))
    except Exception as error:  # pandas raises many types of exceptions for invalid tables
        raise InputError(
            f"{io.shown(path)} cannot be read as a table of runs: {str(error)[:200]}. Expected a row per run."
        ) from error


def column_names(law: PowerSum, given: Mapping[str, str], runs: pd.DataFrame) -> dict[str, str]:
    """Returns the table's name of each column of the law and of the loss.

    Raises:
        InputError: a keyword is not a column of the law, or the table lacks a column.
    """
    wanted = (*law.columns, "loss")
    unknown = [name for name in given if name not in wanted]
    if unknown:
        raise InputError(
            f"{', '.join(unknown)} is no column of the law {law.name!r} and no option of it. Its columns are "
            f"{', '.join(wanted)}."
        )
    ours = {name: column for name, column in RUN_TABLE.items() if name not in runs and column in runs}
    if law.compresses and NOT_EMBEDDED in runs:
        ours[SIZE] = NOT_EMBEDDED
    names = {name: given.get(name, ours.get(name, name)) for name in wanted}
    missing = [name for name in names.values() if name not in runs]
    if missing:
        raise InputError(
            f"The table lacks the column(s) {', '.join(map(repr, missing))}, which the law {law.name!r} reads. It has: "
            f"{', '.join(map(str, runs))}. Name a column by keyword, such as n_params='Model Size'."
        )
    return names


def read(
    law: PowerSum, names: Mapping[str, str], table: pd.DataFrame | Mapping[str, Any], *, loss: bool = False
) -> dict[str, np.ndarray]:
    """Returns the columns of the law as arrays of one length, by the law's names.

    Args:
        law: the law.
        names: the table's name of each column.
        table: a DataFrame, or a mapping of arrays and scalars, with the table's names or the law's.
        loss: whether to include the loss.

    Raises:
        InputError: a column is missing, or lengths differ.
    """
    found = {}
    for name in (*law.columns, *(("loss",) if loss else ())):
        key = names[name] if names[name] in table else name
        if key not in table:
            raise InputError(
                f"The law {law.name!r} needs the column {names[name]!r} and was given {', '.join(map(str, table))}."
            )
        values = np.asarray(table[key])
        if values.dtype == object and any(isinstance(value, list | dict) for value in values.tolist()):
            raise InputError(f"The column {key!r} holds lists or objects. Expected numbers or texts.")
        if values.ndim > 1:
            raise InputError(f"{name} has the shape {values.shape}. Expected one-dimensional arrays of one length.")
        found[name] = values
    lengths = {len(values) for values in found.values() if values.ndim}
    if len(lengths) > 1:
        raise InputError(
            f"The columns have the lengths {', '.join(f'{k}: {len(v)}' for k, v in found.items() if v.ndim)}. Expected "
            "arrays of one length."
        )
    n = lengths.pop() if lengths else 1
    return {name: np.broadcast_to(values, (n,)) for name, values in found.items()}


@dataclasses.dataclass(frozen=True)
class Units:
    """Units of a problem: typical loss, and the log of the unit of each input."""

    loss: float
    inputs: Mapping[str, float]

    def params(self, problem: Problem, theta: np.ndarray, *, zero: tuple[str, ...] = ()) -> dict[str, Any]:
        """Returns parameters in the units of the table: floats from float64[p], arrays float64[b] from float64[b, p].

        Linear parameters in `zero` are reported as 0.
        """
        law, at = problem.law, problem.index
        found = {name: theta[..., k] for name, k in at.items()}
        for term in law.terms:
            log = found[term.coefficient] + np.log(self.loss)
            for power in term.powers:
                log = log - power.sign * theta[..., at[power.exponent]] * self.inputs[power.input]
            found[term.coefficient] = np.exp(log)
        if law.offset:
            # The log of a floor that approaches 0 decreases without limit.
            found["E"] = np.where(found["E"] < np.log(ZERO), 0.0, np.exp(found["E"]) * self.loss)
        for name in zero:
            if name in (*law.coefficients, "E"):
                found[name] = np.zeros_like(found[name])
        for name, coefficient, exponent in law.scales:
            found[name] = found[coefficient] ** (1 / found[exponent])
        return {name: float(value) if theta.ndim == 1 else value for name, value in found.items()}


def problem(
    law: PowerSum,
    data: Mapping[str, np.ndarray],
    *,
    fixed: Mapping[str, float | None],
    loss_space: str,
    exponent_range: tuple[float, float],
) -> tuple[Problem, Units]:
    """Returns the fitting problem, and the units to scale its parameters back.

    Args:
        law: the law.
        data: the columns of the law and the loss.
        fixed: values of parameters that are not fitted; None frees one that the law fixes.
        loss_space: `log` or `raw`.
        exponent_range: lowest and highest exponent.

    Raises:
        InputError: values, names or counts that cannot be fitted.
    """
    if loss_space not in ("log", "raw"):
        raise InputError(f"loss_space is {loss_space!r}. Expected 'log' or 'raw'.")
    unknown = [name for name in fixed if name not in law.parameters]
    if unknown:
        raise InputError(
            f"{', '.join(unknown)} cannot be fixed: the law {law.name!r} has the parameters "
            f"{', '.join(law.parameters)}."
        )
    given: dict[str, float | None] = {**dict(law.held), **fixed}
    values = {name: float(value) for name, value in given.items() if value is not None}
    logs, columns = law.encode(data)
    loss = as_numbers("loss", data["loss"])
    bad = np.flatnonzero(~(np.isfinite(loss) & (loss > 0)))
    if bad.size:
        raise InputError(
            f"loss[{bad[0]}] is {loss[bad[0]]}. A power law needs a positive, finite number: drop such rows first."
        )
    if loss.size and loss.max() > _WIDEST * loss.min():
        raise InputError(
            f"The losses range from {loss.min():g} to {loss.max():g}, a factor of more than {_WIDEST:g}: some are not "
            "losses. Drop such rows first."
        )
    free = [name for name in law.parameters if name not in values]
    if len(loss) < len(free):
        raise InputError(
            f"{len(loss)} points cannot determine the {len(free)} parameters {', '.join(free)} of the law "
            f"{law.name!r}. Add other runs, fix parameters, or fit a law without E."
        )
    _check_inputs_vary(law, data, free)

    # The unit of an input can be changed only if its coefficient is fitted.
    kept = {power.input for term in law.terms if term.coefficient in values for power in term.powers}
    centers = np.array([0.0 if name in kept else row.mean() for name, row in zip(law.inputs, logs, strict=True)])
    units = Units(float(np.exp(np.log(loss).mean())), dict(zip(law.inputs, centers.tolist(), strict=True)))

    ranges = {name: (*exponent_range, False, exponent_range) for name in law.exponents}
    for factor in law.factors:
        for p in factor.parameters:
            low, high = (np.log(p.low), np.log(p.high)) if p.log else (p.low, p.high)
            ranges[p.name] = (low, high, p.log, p.likely)
    rows = [ranges.get(name, (-np.inf, np.inf, False, (1.0, 1.0))) for name in law.parameters]
    start = np.zeros(len(law.parameters))
    for k, name in enumerate(law.parameters):
        if name in values:
            linear = name in law.coefficients or name == "E"
            if values[name] < 0 or (values[name] == 0 and not linear and name in law.exponents):
                raise InputError(f"{name} is fixed at {values[name]:g}. Expected a value above 0.")
            with np.errstate(divide="ignore"):
                start[k] = np.log(values[name] / units.loss) if linear else values[name]
    return (
        Problem(
            law=law,
            logs=logs - centers[:, None],
            columns=columns,
            loss=loss / units.loss,
            raw=loss_space == "raw",
            low=np.array([row[0] for row in rows], float),
            high=np.array([row[1] for row in rows], float),
            is_log=np.array([row[2] for row in rows], bool),
            likely=np.array([row[3] for row in rows], float),
            start=start,
            free=np.array([name not in values for name in law.parameters]),
        ),
        units,
    )


def _check_inputs_vary(law: PowerSum, data: Mapping[str, np.ndarray], free: list[str]) -> None:
    for term in law.terms:
        for power in term.powers:
            column = data[power.input]
            if power.exponent in free and np.ptp(log_input(power.input, column)) == 0:
                raise InputError(
                    f"Every point has {power.input} = {column[0]:g}, so its exponent cannot be fitted. Add runs where "
                    f"{power.input} differs, or fix {power.exponent}."
                )
