"""Run table: one JSON line per evaluation of a model, with units checked when writing and reading."""

import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Mapping
from io import BytesIO
from typing import Any, BinaryIO

try:
    import fcntl
except ImportError:  # Windows has no advisory locks: only one process at a time may append there
    fcntl = None  # type: ignore[assignment]

import numpy as np
import pandas as pd

from compressed_lm import io
from compressed_lm.errors import InputError
from compressed_lm.io import jsonl, remote, strict_json


@dataclasses.dataclass(frozen=True)
class Column:
    """Required column: type, unit and valid range."""

    kind: str  # text | count | real | flag | mapping
    unit: str
    low: float = 0
    high: float = math.inf


COLUMNS: Mapping[str, Column] = {
    "run": Column("text", "name of the run"),
    "codec": Column("text", "spec of the codec, such as eiw(b=16,v=256)"),
    "representation": Column("text", "number format of the weights, such as float32"),
    "n_params": Column("count", "parameters, embeddings included", 1),
    "n_nonembed": Column("count", "parameters, embedding and unembedding tables excluded"),
    "tokens": Column("count", "tokens trained on"),
    "bytes": Column("count", "bytes of raw text trained on"),
    "flops_per_byte": Column("real", "forward FLOPs per byte of raw text, 2 N_nonembed per token + codec"),
    "flops_per_byte_softmax": Column("real", "the same plus the output softmax"),
    "loss_nats_per_token": Column("real", "nats per token", 0, 100),
    "bits_per_byte": Column("real", "bits per byte of raw text", 0, 100),
    "seed": Column("count", "random seed"),
    "step": Column("count", "optimiser steps taken"),
    "final": Column("flag", "whether this is the evaluation after the last step"),
    "config_hash": Column("text", "hash of the run's configuration"),
    "versions": Column("mapping", "package name -> version"),
}
_TYPES: dict[str, type | tuple[type, ...]] = {
    "text": str,
    "count": int,
    "real": (int, float),
    "flag": bool,
    "mapping": Mapping,
}
_EXPECTED = {
    "text": "a string",
    "count": "an integer",
    "real": "a finite number",
    "flag": "true or false",
    "mapping": "an object",
}
_DTYPES = {"text": str, "count": "int64", "real": "float64", "flag": "bool", "mapping": object}
# A loss in bits instead of nats is wrong by a factor of 1.44; end-of-document tokens change it by a few percent.
_UNIT_TOLERANCE = 1.2
_LARGEST = 2**63 - 1


_BEGINNING = json.dumps({next(iter(COLUMNS)): ""}).removesuffix('"}').encode()
"""Beginning of every row written by `append_row`."""


def append_row(path: str | os.PathLike, row: Mapping[str, Any]) -> None:
    """Appends one evaluation to a run table, completely or not at all.

    The line is written in a single call and synced; an object (gs://, s3://) is replaced as a whole, and rows of other
    writers are kept. An unfinished last line of a killed process is removed first; a
    missing last newline is added.

    Args:
        path: the JSONL file; it and its folder are created if missing. A pipe, or - for the standard output, receives
            the line only.
        row: every column of `COLUMNS`, and any others, as Python or NumPy scalars, strings and mappings.

    Raises:
        InputError: a column is missing, has a wrong type, is out of range, or contradicts another one; or the file is
            not a run table, and is left unchanged.
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
    path = io.any_path(path, "The run table")
    if io.is_remote(path):
        remote.update(path, lambda content: _appended(content, line, path))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX)
        _append(file, line)
        file.flush()
        os.fsync(file.fileno())


class _Content(BytesIO):
    """Content of an object, as the file of a run table."""

    name = ""


def _appended(content: bytes, line: str, path: str | os.PathLike) -> bytes:
    """Returns the content of a run table with a new line."""
    file = _Content(content)
    file.name = os.fspath(path)
    _append(file, line)
    return file.getvalue()


def _append(file: BinaryIO, line: str) -> None:
    _check_ours(file)
    _repair_tail(file)
    file.seek(0, os.SEEK_END)
    file.write(line.encode() + b"\n")


def check_table(path: str | os.PathLike) -> None:
    """Raises InputError if an existing file is not a run table. Call it before the work whose row is appended."""
    if not io.is_stream(path) and (path := io.any_path(path, "The run table")).is_file():
        with remote.open_input(path) as file:
            _check_ours(file)


def load_runs(pattern: str | os.PathLike) -> pd.DataFrame:
    """Returns the rows of all run tables that match a pattern, one row per evaluation, in file order.

    The columns of `COLUMNS` have fixed dtypes (int64, float64, bool, strings; `versions` holds mappings); pandas infers
    those of other columns; `file` is the file of each row. An unfinished last line of a killed run is skipped with a
    warning.

    Args:
        pattern: name of a file, or a glob in which `**` matches any number of folders.

    Raises:
        InputError: nothing matches, or a line is not a valid row; the message names file and line.
    """
    pattern = os.fspath(pattern)
    paths = [os.fspath(path) for path in io.matching(io.any_path(pattern, "The run table"))]
    if not paths:
        raise InputError(
            f"No run table matches {pattern!r}, as a file name or as a glob. Expected at least one JSONL file, such as "
            "'runs/*/runs.jsonl'. Check the path, or run an evaluation first: it appends a row."
        )
    rows = []
    for path in paths:
        for number, row in jsonl.read(path):
            _check_row(row, where=f"{path} line {number}")
            rows.append({**row, "file": path})
    if not rows:
        raise InputError(
            f"The run tables that match {pattern!r} have no rows. Run an evaluation first: it appends a row."
        )
    frame = pd.DataFrame(rows)
    return frame.astype({name: _DTYPES[column.kind] for name, column in COLUMNS.items()})


def final_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Returns the last appended final row of every (run, seed), in case a run was evaluated more than once."""
    return runs[runs["final"]].drop_duplicates(["run", "seed"], keep="last").reset_index(drop=True)


def split_spec(spec: str) -> tuple[str, dict[str, str]]:
    """Returns family and options of a codec spec: `eiw(b=12,v=4096)` -> ("eiw", {"b": "12", "v": "4096"}).

    The default `align=none` is dropped, so that specs of the same codec are equal.
    """
    family, _, inside = spec.strip().rstrip(")").partition("(")
    options = dict((part.partition("=")[::2]) for part in inside.replace(" ", "").split(",") if part)
    if options.get("align") == "none":
        del options["align"]
    return family.strip(), options


def _check_ours(file: BinaryIO) -> None:
    """Raises InputError unless the first line of an open file is a row or the beginning of one."""
    file.seek(0)
    first = next((line for line in file if line.strip()), b"")
    if not _BEGINNING.startswith(first[: len(_BEGINNING)]):
        shown = first[:60].decode(errors="replace").strip()
        raise InputError(
            f"{file.name} is no run table: it begins with {shown!r}, and a row begins with {_BEGINNING.decode()}. "
            "Nothing was written; give another file."
        )


def _tail(file: BinaryIO) -> bytes:
    """Returns the bytes after the last line feed of an open file."""
    start = end = file.seek(0, os.SEEK_END)
    tail = b""
    while start > 0 and b"\n" not in tail:
        start = max(0, start - 65536)
        file.seek(start)
        tail = file.read(end - start) + tail
        end = start
    return tail[tail.rfind(b"\n") + 1 :]


def _repair_tail(file: BinaryIO) -> None:
    """Removes an unfinished last row of a locked file opened as "a+b"; adds a missing newline after anything else."""
    tail = _tail(file)
    if not tail:
        return
    row = None
    with contextlib.suppress(ValueError):
        row = strict_json.parse(tail)
    if row is not None or not _BEGINNING.startswith(tail[: len(_BEGINNING)]):
        file.seek(0, os.SEEK_END)
        file.write(b"\n")
        return
    file.truncate(file.seek(0, os.SEEK_END) - len(tail))


def _check_row(row: Mapping[str, Any], *, where: str) -> None:
    """Raises InputError unless the row has every column with its type and range, without contradictions."""
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


def _number(value: object) -> float:
    """Returns a value that is a number; 0 for other types."""
    return value if isinstance(value, int | float) else 0


def _check_loss(row: Mapping[str, Any], *, where: str) -> None:
    """Raises InputError if nats per token, bits per byte and bytes per token (optional) contradict each other."""
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
