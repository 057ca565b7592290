"""Records are written completely, and a resumed run writes none of them twice."""

import json
import warnings

import pytest

from compressed_lm import io
from compressed_lm.tracking import JSONLines, read_json_lines


def test_json_lines_of_a_resumed_run(tmp_path):
    """Records after the restored step and an unfinished line are removed; the others are kept."""
    path = tmp_path / "new" / "metrics.jsonl"
    tracker = JSONLines(path)
    for step in (10, 20, 30):
        tracker.scalars(step, {"loss": step / 4})
    tracker.text(30, "sample", "ü")
    tracker.close()
    with path.open("a") as file:
        file.write('{"step": 31, "lo')
    assert [r["step"] for r in read_json_lines(path)] == [10, 20, 30, 30]
    resumed = JSONLines(path, last_step=20)
    resumed.scalars(25, {"loss": 1})
    assert path.read_text() == '{"step": 10, "loss": 2.5}\n{"step": 20, "loss": 5.0}\n{"step": 25, "loss": 1.0}\n'


def steps(path):
    return [json.loads(line)["step"] for line in io.read_bytes(path).splitlines()]


def test_an_object_is_written_now_and_then_and_at_the_end(bucket_url, proxy):
    """Records are buffered for the given time, then the whole object is written; nothing is written twice.

    `flush` and `close` write the buffered rest.
    """

    def writes():
        return sum(method in ("PUT", "POST") for method, _ in proxy.requests)

    times = [0.0]
    path = f"{bucket_url}/runs/a/metrics.jsonl"
    tracker = JSONLines(path, rewrite_seconds=60, now=lambda: times[0])
    for step in range(1, 101):
        times[0] = 1.5 * step  # a record every 1.5 seconds
        tracker.scalars(step, {"loss": 1 / step})
        if step == 50:
            assert steps(path) == list(range(1, 41))
    assert writes() == 2 and steps(path) == list(range(1, 81))
    tracker.flush()
    tracker.flush()
    assert writes() == 3 and steps(path) == list(range(1, 101))
    tracker.text(100, "sample", "ü")
    tracker.close()
    assert writes() == 4
    assert read_json_lines(path)[-2:] == [{"step": 100, "loss": 0.01}, {"step": 100, "sample": "ü"}]


@pytest.mark.parametrize("last_step, kept", [(None, [10, 20, 30]), (20, [10, 20]), (0, [])])
def test_a_resumed_object_keeps_its_records(bucket_url, last_step, kept):
    """A second process reads what is there, drops records that it will write again, and continues."""
    path = f"{bucket_url}/runs/metrics.jsonl"
    first = JSONLines(path)
    for step in (10, 20, 30):
        first.scalars(step, {"loss": 1})
    first.close()
    second = JSONLines(path, last_step=last_step)
    second.scalars(40, {"loss": 0.5})
    second.close()
    assert steps(path) == [*kept, 40]


@pytest.mark.parametrize(
    "damage", [b"\x00" * 50, b'{"step": 15, "lo\xff', b"[" * 100_000, b"[]", b'{"loss": 1}', b"NaN"]
)
def test_a_damaged_line_is_reported_and_skipped(damage, tmp_path):
    """A run whose metrics have a damaged line resumes: the line is reported, and the other records are kept."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 10, "loss": 1}\n' + damage + b'\n{"step": 20, "loss": 2}\n')
    if damage != b'{"loss": 1}':
        with pytest.warns(UserWarning, match="metrics.jsonl line 2 is damaged .* it is skipped"):
            assert [r["step"] for r in read_json_lines(path)] == [10, 20]
    with warnings.catch_warnings(action="ignore"):
        resumed = JSONLines(path, last_step=20)
    resumed.scalars(30, {"loss": float("nan")})
    resumed.close()
    assert path.read_text() == '{"step": 10, "loss": 1}\n{"step": 20, "loss": 2}\n{"step": 30, "loss": null}\n'
