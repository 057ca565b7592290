"""Records of a run as a file of JSON lines, on a disk or in an object store."""

import json
import math
import os
import time
from collections.abc import Callable, Mapping

from etils import epath

from compressed_lm.io import jsonl, write_atomic

REWRITE_SECONDS = 60.0  # between two writes of an object


class JSONLines:
    """Writes one JSON object a record: `{"step": 20, "loss_nats_per_token": 3.1}`.

    On a disk each record is appended and flushed at once. An object store (gs://, s3://) cannot append: there the
    records are held and the whole object is written again at most every `rewrite_seconds`, by `flush` (which belongs
    before a checkpoint, lest a killed run lose records that it will not write again) and by `close`.

    Args:
        path: the file or object; it is made if missing.
        last_step: where a run resumes. Records of later steps, which the run will write again, and a last line cut
            short by a crash are removed first; so are damaged lines, with a warning.
        rewrite_seconds: see above.
        now: clock, in seconds.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        last_step: int | None = None,
        rewrite_seconds: float = REWRITE_SECONDS,
        now: Callable[[], float] = time.monotonic,
    ):
        self._path = epath.Path(path)
        self._rewrite_seconds, self._now, self._written = rewrite_seconds, now, now()
        remote = "://" in os.fspath(self._path)
        kept = []
        if (remote or last_step is not None) and self._path.exists():
            limit = float("inf") if last_step is None else last_step
            kept = [json.dumps(record) + "\n" for record in _records(self._path) if record["step"] <= limit]
            if not remote:
                write_atomic(self._path, "".join(kept))
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = None if remote else open(self._path, "a", encoding="utf-8")
        self._lines, self._held = kept, 0  # of an object: all its lines, and how many of them are not in it yet

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._write({"step": step, **{name: float(value) for name, value in values.items()}})

    def text(self, step: int, name: str, value: str) -> None:
        self._write({"step": step, name: value})

    def flush(self) -> None:
        """Writes out the records that are still held."""
        if self._held:
            self._path.write_text("".join(self._lines))
            self._written, self._held = self._now(), 0

    def close(self) -> None:
        self.flush()
        if self._file:
            self._file.close()

    def _write(self, record):
        # JSON has no numbers that are not finite.
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
    """Returns the records of a `JSONLines` file, without those that are damaged and a last one that was cut short."""
    return list(_records(epath.Path(path)))


def _records(path):
    """Yields the record of each whole line that has a step."""
    for _, record in jsonl.read(path, skip_damaged=True):
        if isinstance(record.get("step"), int):
            yield record
