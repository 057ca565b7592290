"""Records reach their file whole, and a resumed run writes none of them twice."""

import sys

import pytest

from compressed_lm.tracking import JSONLines, TensorBoard, Terminal, Wandb, read_json_lines


def test_json_lines_of_a_resumed_run(tmp_path):
    """Records after the restored step and a line cut short by a crash go; the rest stays."""
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


def test_terminal_prints_a_line_a_record(capsys):
    """Numbers are short enough to read."""
    Terminal().scalars(1200, {"loss": 1.23456, "tokens": 5})
    Terminal().text(1200, "sample", "abc")
    assert capsys.readouterr().out == "step 1,200  loss 1.235  tokens 5\nstep 1,200  sample: abc\n"


@pytest.mark.parametrize(
    ("module", "make", "extra"), [("tensorboardX", lambda: TensorBoard("x"), "tensorboard"), ("wandb", Wandb, "wandb")]
)
def test_a_missing_package_names_the_extra(module, make, extra, monkeypatch):
    """A tracker whose package is not installed says what to install."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"{module} is not installed; run `pip install compressed_lm\[{extra}\]`"):
        make()
