"""JSON lines: one object per line, in files that a killed process may have left unfinished."""

import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from compressed_lm.errors import InputError
from compressed_lm.io import remote, strict_json
from compressed_lm.io.atomic import write_atomic


def read(path: str | os.PathLike, *, skip_damaged: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number from 1, object) of each line.

    Blank lines are skipped. An unfinished last line is skipped with a warning.

    Args:
        path: the file; also gs:// and s3://.
        skip_damaged: skip lines that are not an object, each with a warning.

    Raises:
        InputError: a line is not an object, and `skip_damaged` is false.
    """
    with remote.open_input(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = strict_json.parse(line)
            except ValueError as error:
                _report(f"{os.fspath(path)} line {number}", line, error, skip_damaged=skip_damaged)
            else:
                yield number, row


def _report(where: str, line: bytes, error: ValueError, *, skip_damaged: bool) -> None:
    if not line.endswith(b"\n"):
        warnings.warn(f"{where} is unfinished, as a killed run leaves it; it is skipped.", stacklevel=3)
    elif skip_damaged:
        warnings.warn(f"{where} is damaged ({error}); it is skipped.", stacklevel=3)
    else:
        shown = line[:60].decode(errors="replace").strip()
        raise InputError(
            f"{where} is not a JSON object but {shown!r}. Expected one object per line; remove or correct this line."
        )


def write(path: str | os.PathLike, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes a file of JSON lines atomically."""
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))
