"""Records of a run as a file of JSON lines, on disk or in an object store."""

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping

from compressed_lm.io import any_path, is_remote, jsonl, write_atomic

REWRITE_SECONDS = 60.0  # between two writes of an object (seconds)


class JSONLines:
    """Tracker that writes one JSON object per record: `{"step": 20, "loss_nats_per_token": 3.1}`.

    On disk each record is appended and flushed at once. An object store (gs://, s3://) cannot append: records are
    buffered and the whole object is written again at most every `rewrite_seconds`, by `flush` and by `close`. Call
    `flush` before a checkpoint; otherwise a killed run loses records that it will not write again.

    Args:
        path: the file or object; created if missing.
        last_step: step from which a run resumes. Records of later steps (the run will write them again), an unfinished
            last line, and damaged lines (with a warning) are removed first.
        rewrite_seconds: seconds between two writes of an object.
        now: clock (seconds).
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        last_step: int | None = None,
        rewrite_seconds: float = REWRITE_SECONDS,
        now: Callable[[], float] = time.monotonic,
    ):
        self._path = any_path(path)
        self._rewrite_seconds, self._now, self._written = rewrite_seconds, now, now()
        remote = is_remote(self._path)
        kept = []
        if (remote or last_step is not None) and self._path.exists():
            limit = float("inf") if last_step is None else last_step
            kept = [json.dumps(record) + "\n" for record in _records(self._path) if record["step"] <= limit]
            if not remote:
                write_atomic(self._path, "".join(kept))
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = None if remote else open(self._path, "a", encoding="utf-8")
        self._lines, self._held = kept, 0  # of an object: all lines, and the number of unwritten ones

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes named numbers of a step."""
        self._write({"step": step, **{name: float(value) for name, value in values.items()}})

    def text(self, step: int, name: str, value: str) -> None:
        """Writes a named text of a step."""
        self._write({"step": step, name: value})

    def flush(self) -> None:
        """Writes the buffered records."""
        if self._held:
            write_atomic(self._path, "".join(self._lines))
            self._written, self._held = self._now(), 0

    def close(self) -> None:
        """Writes the buffered records and closes the file."""
        self.flush()
        if self._file:
            self._file.close()

    def _write(self, record: dict) -> None:
        # JSON has no NaN or infinity.
        unknown = {k: None for k, v in record.items() if isinstance(v, float) and not math.isfinite(v)}
        line = json.dumps(record | unknown) + "\n"
        if self._file:
            self._file.write(line)
            self._file.flush()
            return
        self._lines.append(line)
        self._held += 1
        if self._now() - self._written >= self._rewrite_seconds:
            self.flush()


def read_json_lines(path: str | os.PathLike) -> list[dict]:
    """Returns the records of a `JSONLines` file, without damaged lines and an unfinished last line."""
    return list(_records(path))


def _records(path: str | os.PathLike) -> Iterator[dict]:
    """Yields the record of each valid line that has a step."""
    for _, record in jsonl.read(path, skip_damaged=True):
        if isinstance(record.get("step"), int):
            yield record
