"""Time of a run by phase, summed over all restarts."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

PHASES = ("compile", "train", "input_wait", "pause")


class Clock:
    """Seconds spent in each phase: compiling, training, waiting for data, and pauses (evaluation, checkpoints).

    Args:
        seconds: `.seconds` of the clock before the restart.
        now: clock, in seconds.

    Attributes:
        seconds: seconds by phase (`PHASES`).
    """

    def __init__(self, seconds: Mapping[str, float] | None = None, *, now: Callable[[], float] = time.monotonic):
        self.seconds = dict.fromkeys(PHASES, 0.0) | dict(seconds or {})
        self._now = now

    @contextlib.contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Adds the time spent in the block to a phase."""
        start = self._now()
        try:
            yield
        finally:
            self.seconds[phase] += self._now() - start

    def steady(self) -> float:
        """Returns the seconds of the steps: training and waiting for data, without compiling and pauses."""
        return self.seconds["train"] + self.seconds["input_wait"]

    def rate(self, n: float) -> float:
        """Returns n divided by `steady()`, such as tokens per second."""
        return n / max(self.steady(), 1e-9)

    def eta(self, done: int, total: int) -> float:
        """Returns the estimated seconds for the remaining steps, pauses included at the rate so far."""
        return (self.steady() + self.seconds["pause"]) / max(done, 1) * (total - done)
