"""The run table: one JSON line per evaluation of a model, its units checked when it is written and when it is read."""

import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Mapping
from typing import Any

try:
    import fcntl
except ImportError:  # Windows has no advisory locks; there one process at a time may append.
    fcntl = None

import numpy as np
import pandas as pd

from compressed_lm import io
from compressed_lm.errors import InputError
from compressed_lm.io import jsonl, strict_json


@dataclasses.dataclass(frozen=True)
class Column:
    """A required column: what it holds, in which unit, and the range in which a value makes sense."""

    kind: str  # text | count | real | flag | mapping
    unit: str
    low: float = 0
    high: float = math.inf


COLUMNS: Mapping[str, Column] = {
    "run": Column("text", "name of the run"),
    "codec": Column("text", "spelling of the codec, such as eiw(b=16,v=256)"),
    "representation": Column("text", "number format of the weights, such as float32"),
    "n_params": Column("count", "parameters, embeddings included", 1),
    "n_nonembed": Column("count", "parameters, embedding and unembedding tables excluded"),
    "tokens": Column("count", "tokens trained on"),
    "bytes": Column("count", "bytes of raw text trained on"),
    "flops_per_byte": Column("real", "forward FLOPs per byte of raw text, 2 N_nonembed a token plus the codec's share"),
    "flops_per_byte_softmax": Column("real", "the same with the output softmax counted"),
    "loss_nats_per_token": Column("real", "nats per token", 0, 100),
    "bits_per_byte": Column("real", "bits per byte of raw text", 0, 100),
    "seed": Column("count", "random seed"),
    "step": Column("count", "optimiser steps taken"),
    "final": Column("flag", "whether this is the evaluation after the last step"),
    "config_hash": Column("text", "hash of the run's configuration"),
    "versions": Column("mapping", "package name -> version"),
}
_TYPES = {"text": str, "count": int, "real": (int, float), "flag": bool, "mapping": Mapping}
_EXPECTED = {
    "text": "a string",
    "count": "an integer",
    "real": "a finite number",
    "flag": "true or false",
    "mapping": "an object",
}
_DTYPES = {"text": str, "count": "int64", "real": "float64", "flag": "bool", "mapping": object}
# A loss in bits where nats are due is off by 1.44; end-of-document tokens move the ratio by a few percent at most.
_UNIT_TOLERANCE = 1.2
_LARGEST = 2**63 - 1


_BEGINNING = json.dumps({next(iter(COLUMNS)): ""}).removesuffix('"}').encode()
"""How each row begins that `append_row` writes."""


def append_row(path: str | os.PathLike, row: Mapping[str, Any]) -> None:
    """Appends one evaluation to a run table, whole or not at all.

    The line is written by a single call and synced. What a killed process left of its last line is cut off first, and a
    file that merely lacks its last newline gets one.

    Args:
        path: the JSONL file; it and its folder are made where missing. A pipe, and - for the standard output, get the
            line as it is.
        row: every column of `COLUMNS`, and any others, as Python or NumPy scalars, strings and mappings.

    Raises:
        InputError: a column is missing, has another type, lies outside its range, or contradicts another one.
        InputError: the file is no run table; it stays as it is.
    """
    row = {name: value.item() if isinstance(value, np.generic) else value for name, value in row.items()}
    _check_row(row, where="The row to append")
    ordered = {name: row[name] for name in [*COLUMNS, *(name for name in row if name not in COLUMNS)]}
    try:
        line = json.dumps(ordered, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"The row to append for run {row['run']!r} cannot be written as JSON: {error}. Give numbers, strings, "
            "lists and mappings only, and leave out columns without a finite value."
        ) from error
    if io.is_stream(path):
        io.write_atomic(path, line + "\n")
        return
    path = io.local_path(path, "The run table")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX)
        _check_ours(file)
        _repair_tail(file)
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def check_table(path: str | os.PathLike) -> None:
    """Raises InputError where a path names a file that is no run table, before the work whose row it is to get."""
    if not io.is_stream(path) and os.path.isfile(path := io.local_path(path, "The run table")):
        with open(path, "rb") as file:
            _check_ours(file)


def load_runs(pattern: str | os.PathLike) -> pd.DataFrame:
    """The rows of every run table that a pattern matches, one row per evaluation, in file order.

    The columns of `COLUMNS` have fixed dtypes (int64, float64, bool, strings; `versions` holds mappings); other columns
    keep what pandas infers; `file` names the file of each row. An unfinished last line, as a killed run leaves it, is
    skipped with a warning.

    Args:
        pattern: a file of this very name, else a glob in which `**` crosses folders.

    Raises:
        InputError: nothing matches, or a line is not a valid row; the message names file and line.
    """
    pattern = os.fspath(pattern)
    paths = [os.fspath(path) for path in io.matching(io.local_path(pattern, "The run table"))]
    if not paths:
        raise InputError(
            f"No run table matches {pattern!r}: there is no file of this very name, and none that it matches as a "
            "glob. Expected one JSONL file or more, such as 'runs/*/runs.jsonl'; check the path, or run an evaluation "
            "first: each one appends its row."
        )
    rows = []
    for path in paths:
        for number, row in jsonl.read(path):
            _check_row(row, where=f"{path} line {number}")
            rows.append({**row, "file": path})
    if not rows:
        raise InputError(
            f"The run tables that match {pattern!r} hold no row. Run an evaluation first: each one appends its row."
        )
    frame = pd.DataFrame(rows)
    return frame.astype({name: _DTYPES[column.kind] for name, column in COLUMNS.items()})


def final_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """The last appended final row of every (run, seed): what remains when a run was evaluated more than once."""
    return runs[runs["final"]].drop_duplicates(["run", "seed"], keep="last").reset_index(drop=True)


def split_spec(spec: str) -> tuple[str, dict[str, str]]:
    """Family and options of a codec's spelling: `eiw(b=12,v=4096)` -> ("eiw", {"b": "12", "v": "4096"}).

    The default `align=none` is dropped, so that spellings of the same codec agree.
    """
    family, _, inside = spec.strip().rstrip(")").partition("(")
    options = dict((part.partition("=")[::2]) for part in inside.replace(" ", "").split(",") if part)
    if options.get("align") == "none":
        del options["align"]
    return family.strip(), options


def _check_ours(file) -> None:
    """Raises InputError unless the first line of an open file is a row, or the beginning of one."""
    file.seek(0)
    first = next((line for line in file if line.strip()), b"")
    if not _BEGINNING.startswith(first[: len(_BEGINNING)]):
        shown = first[:60].decode(errors="replace").strip()
        raise InputError(
            f"{file.name} is no run table: {shown!r} stands where a row was expected, which begins with "
            f"{_BEGINNING.decode()}. Nothing was written; give another file."
        )


def _tail(file) -> bytes:
    """What stands behind the last line feed of an open file."""
    start = end = file.seek(0, os.SEEK_END)
    tail = b""
    while start > 0 and b"\n" not in tail:
        start = max(0, start - 65536)
        file.seek(start)
        tail = file.read(end - start) + tail
        end = start
    return tail[tail.rfind(b"\n") + 1 :]


def _repair_tail(file) -> None:
    """Ends a locked file opened as "a+b" at a whole line: what is left of a row is cut off, and anything else gets the
    newline that it lacks."""
    tail = _tail(file)
    if not tail:
        return
    row = None
    with contextlib.suppress(ValueError):
        row = strict_json.parse(tail)
    if row is not None or not _BEGINNING.startswith(tail[: len(_BEGINNING)]):
        file.write(b"\n")
        return
    file.truncate(file.seek(0, os.SEEK_END) - len(tail))


def _check_row(row: Mapping[str, Any], *, where: str) -> None:
    """Raises InputError unless the row has every column with its type and range, and they agree with each other."""
    missing = [name for name in COLUMNS if name not in row]
    if missing:
        raise InputError(
            f"{where} lacks the column(s) {', '.join(missing)}. A row of the run table needs all of: "
            f"{', '.join(COLUMNS)}."
        )
    for name, column in COLUMNS.items():
        value = row[name]
        typed = isinstance(value, _TYPES[column.kind]) and (column.kind == "flag" or not isinstance(value, bool))
        if not typed or (column.kind == "real" and not abs(value) < math.inf) or abs(_number(value)) > _LARGEST:
            raise InputError(f"{where} has {name} = {value!r}. Expected {_EXPECTED[column.kind]} ({column.unit}).")
        if column.kind in ("count", "real") and not column.low <= value <= column.high:
            bounds = (
                f"at least {column.low:g}" if column.high == math.inf else f"between {column.low:g} and {column.high:g}"
            )
            raise InputError(f"{where} has {name} = {value!r}. Expected a value {bounds} ({column.unit}).")
    for small, large in (("n_nonembed", "n_params"), ("flops_per_byte", "flops_per_byte_softmax")):
        if row[small] > row[large]:
            raise InputError(
                f"{where} has {small} = {row[small]:g} above {large} = {row[large]:g}, but the second includes the "
                "first. Check which is which."
            )
    _check_loss(row, where=where)


def _number(value) -> float:
    """The size of a value that is a number; 0 for any other."""
    return value if isinstance(value, int | float) else 0


def _check_loss(row: Mapping[str, Any], *, where: str) -> None:
    """Raises InputError where nats per token, bits per byte and bytes per token (optional) cannot all be true."""
    bytes_per_token = row.get("bytes_per_token")
    if not isinstance(bytes_per_token, int | float) or not bytes_per_token > 0 or not row["bits_per_byte"] > 0:
        return
    implied = row["loss_nats_per_token"] / math.log(2) / bytes_per_token
    if not 1 / _UNIT_TOLERANCE < implied / row["bits_per_byte"] < _UNIT_TOLERANCE:
        raise InputError(
            f"{where} has bits_per_byte = {row['bits_per_byte']:.4g}, but {row['loss_nats_per_token']:.4g} nats per "
            f"token at {bytes_per_token:.4g} bytes per token are {implied:.4g} bits per byte. Check the units: "
            "bits_per_byte is total nats / (ln 2 x bytes)."
        )
