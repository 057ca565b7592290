"""How far a long job is: a bar with rate and ETA on a terminal, a line now and then in a log file."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

LINE_SECONDS = 15.0  # between two lines of a log


def duration(seconds: float) -> str:
    """Returns a duration as "0:42", "12:05" or "3:02:09"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def quantity(value: float, unit: str) -> str:
    """Returns a number of units for a reader: "1.5 MB" for bytes (unit "B"), otherwise "1,500 steps"."""
    if unit != "B":
        return f"{value:,.0f} {unit}".rstrip() if value >= 10 or value == int(value) else f"{value:.1f} {unit}".rstrip()
    power = 0
    while value >= 999.5 and power < 4:
        value, power = value / 1000, power + 1
    return f"{value:.3g} {' kMGT'[power]}B".replace("  ", " ")


class Job:
    """The state of a job: what is done of a total, how fast, and how long the rest will take.

    Args:
        description: what is being done.
        total: how many units there are, or None where that is not known.
        unit: the unit's name; "B" is shown as kB, MB, ...
        done: units that were finished earlier; they count as done but not for the rate.
        now: clock, in seconds.
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
        """Adds n finished units; `fields` are shown until they are replaced (numbers with four digits)."""
        self.done += n
        self.fields |= fields
        self._show(self)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return self._now() - self._start

    @property
    def rate(self) -> float:
        """Units per second since the start; 0 before the first."""
        return (self.done - self._done_at_start) / max(self.seconds, 1e-9)

    def status(self) -> str:
        """Returns one line: done, total, rate, ETA (or the time taken) and the fields."""
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
    """Yields a `Job` to call `.advance(n, **fields)` on, and shows it on stderr until the block ends.

    On a terminal that is a bar; elsewhere a line every 15 seconds and one at the end.
    """
    console = console or Console(stderr=True)
    with contextlib.ExitStack() as stack:
        if console.is_terminal:
            description_column = TextColumn("{task.description}", markup=False)
            status_column = TextColumn("{task.fields[status]}", markup=False)
            bar = Progress(description_column, BarColumn(), TaskProgressColumn(), status_column, console=console)
            stack.enter_context(bar)
            task = bar.add_task(description, total=total, completed=done, status="")
            show = lambda job: bar.update(task, completed=job.done, status=job.status())  # noqa: E731
        else:
            lines = _Lines(console)
            show = lines.show
        job = Job(description, total, unit=unit, done=done, show=show)
        yield job
        if not console.is_terminal:
            lines.write(job)


class _Lines:
    """Writes a job's status at most every `LINE_SECONDS`, and never twice the same."""

    def __init__(self, console):
        self._console, self._last, self._written = console, 0.0, None

    def show(self, job):
        if job.seconds - self._last >= LINE_SECONDS:
            self._last = job.seconds
            self.write(job)

    def write(self, job):
        if job.done != self._written:
            self._written = job.done
            self._console.print(f"{job.description}: {job.status()}", highlight=False, markup=False, soft_wrap=True)
