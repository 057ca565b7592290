"""Progress shows done, rate and remaining time, on a terminal and in a log."""

import io

from rich.console import Console

from compressed_lm.tracking import progress as progress_module
from compressed_lm.tracking.progress import Job, progress


def test_status_counts_only_this_run_for_the_rate():
    """Units finished earlier count as done but not for the rate: 10 steps in 5 s, 20 remaining, ETA 10 s."""
    times = [100.0]
    job = Job("train", 80, unit="steps", done=50, now=lambda: times[0])
    assert job.status() == "50 of 80 steps, 0 steps/s"
    times[0] = 105.0
    job.advance(10, loss=1.23456, note="ok")
    assert job.status() == "60 of 80 steps, 2 steps/s, ETA 10 s, loss 1.235, note ok"
    job.advance(20)
    assert job.status().startswith("80 of 80 steps, 6 steps/s, took 5.0 s")
    assert Job("read", None, unit="B", now=lambda: 0.0).status() == "0 B, 0 B/s"


def test_a_log_gets_few_lines_and_a_last_one(monkeypatch):
    """Without a terminal, lines are printed at intervals and at the end; brackets in a name are not markup."""
    monkeypatch.setattr(progress_module, "LINE_SECONDS", 0.0)
    out = io.StringIO()
    with progress("compress [eiw]", 3, unit="docs", console=Console(file=out)) as job:
        job.advance(1)
        job.advance(2)
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("compress [eiw]: 1 of 3 docs, ") and lines[-1].startswith(
        "compress [eiw]: 3 of 3 docs, "
    )
    monkeypatch.setattr(progress_module, "LINE_SECONDS", 60.0)
    out = io.StringIO()
    with progress("x", 3, console=Console(file=out)) as job:
        job.advance(1)
        job.advance(2)
    assert len(out.getvalue().splitlines()) == 1


def test_a_terminal_gets_a_bar():
    """On a terminal the bar shows the description, the share and the fields."""
    out = io.StringIO()
    with progress("train [m1]", 4, unit="steps", console=Console(file=out, force_terminal=True, width=120)) as job:
        job.advance(4, loss=2.5)
    assert "train [m1]" in out.getvalue() and "100%" in out.getvalue() and "loss 2.5" in out.getvalue()
