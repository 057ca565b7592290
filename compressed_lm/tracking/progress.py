"""Progress of a long job: a bar with rate and ETA on a terminal, periodic lines in a log file."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from compressed_lm.formatting import duration, quantity

LINE_SECONDS = 15.0  # between two lines of a log (seconds)


class Job:
    """State of a job: finished units, rate and remaining time.

    Args:
        description: name of the job.
        total: number of units, or None if unknown.
        unit: name of the unit; "B" is shown as kB, MB, ...
        done: units finished earlier; they count as done but not for the rate.
        now: clock (seconds).
        show: called with the job after each advance.
    """

    def __init__(
        self,
        description: str,
        total: float | None,
        *,
        unit: str = "",
        done: float = 0,
        now: Callable[[], float] = time.monotonic,
        show: Callable[["Job"], None] = lambda job: None,
    ):
        self.description, self.total, self.unit, self.done = description, total, unit, done
        self.fields: dict[str, object] = {}
        self._show, self._now = show, now
        self._start, self._done_at_start = now(), done

    def advance(self, n: float, **fields) -> None:
        """Adds n finished units; `fields` are shown until replaced (numbers with four digits)."""
        self.done += n
        self.fields |= fields
        self._show(self)

    @property
    def seconds(self) -> float:
        """Time since the start (seconds)."""
        return self._now() - self._start

    @property
    def rate(self) -> float:
        """Units per second since the start; 0 before the first unit."""
        return (self.done - self._done_at_start) / max(self.seconds, 1e-9)

    def status(self) -> str:
        """Returns one line: done, total, rate, ETA (at the end the time taken) and the fields."""
        total = "" if self.total is None else f" of {quantity(self.total, self.unit)}"
        parts = [quantity(self.done, "B" if self.unit == "B" else "") + total, f"{quantity(self.rate, self.unit)}/s"]
        if self.total is not None and self.done >= self.total:
            parts.append(f"took {duration(self.seconds)}")
        elif self.total is not None and self.rate:
            parts.append(f"ETA {duration((self.total - self.done) / self.rate)}")
        parts += [f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in self.fields.items()]
        return ", ".join(parts)


@contextlib.contextmanager
def progress(
    description: str, total: float | None, *, unit: str = "", done: float = 0, console: Console | None = None
) -> Iterator[Job]:
    """Shows a job on stderr until the block ends.

    On a terminal, that is a bar; elsewhere a line every 15 seconds and one at the end.

    Args:
        description: name of the job.
        total: number of units, or None if unknown.
        unit: name of the unit; "B" is shown as kB, MB, ...
        done: units finished earlier.
        console: output; stderr by default.

    Yields:
        The `Job`; call its `advance(n, **fields)`.
    """
    console = console or Console(stderr=True)
    with contextlib.ExitStack() as stack:
        if console.is_terminal:
            description_column = TextColumn("{task.description}", markup=False)
            status_column = TextColumn("{task.fields[status]}", markup=False)
            bar = Progress(description_column, BarColumn(), TaskProgressColumn(), status_column, console=console)
            stack.enter_context(bar)
            task = bar.add_task(description, total=total, status="")
            bar.update(task, completed=done)  # add_task is annotated to take whole numbers only
            show = lambda job: bar.update(task, completed=job.done, status=job.status())  # noqa: E731
        else:
            lines = _Lines(console)
            show = lines.show
        job = Job(description, total, unit=unit, done=done, show=show)
        yield job
        if not console.is_terminal:
            lines.write(job)


class _Lines:
    """Writer of a job's status, at most every `LINE_SECONDS` and never the same line twice."""

    def __init__(self, console: Console):
        self._console, self._last = console, 0.0
        self._written: float | None = None

    def show(self, job: Job) -> None:
        if job.seconds - self._last >= LINE_SECONDS:
            self._last = job.seconds
            self.write(job)

    def write(self, job: Job) -> None:
        if job.done != self._written:
            self._written = job.done
            self._console.print(f"{job.description}: {job.status()}", highlight=False, markup=False, soft_wrap=True)
