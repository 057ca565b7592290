"""Time is booked on what it was spent on, over restarts."""

import pytest

from compressed_lm.training import Clock


def test_phases_rate_and_eta():
    """Literal times: compiling counts for no rate, pauses for the ETA only, earlier runs for both."""
    now = iter([0, 10, 10, 14, 14, 15, 15, 20])
    clock = Clock({"train": 6.0}, now=lambda: next(now))
    for phase in ("compile", "train", "input_wait", "pause"):
        with clock.measure(phase):
            pass
    assert clock.seconds == {"compile": 10, "train": 10, "input_wait": 1, "pause": 5}
    assert clock.rate(110) == pytest.approx(10)
    assert clock.eta(4, 10) == pytest.approx(16 / 4 * 6)


def test_time_counts_when_the_block_fails():
    """An exception inside a phase does not lose its time."""
    now = iter([0, 3])
    clock = Clock(now=lambda: next(now))
    with pytest.raises(KeyError), clock.measure("train"):
        raise KeyError
    assert clock.seconds["train"] == 3
