"""Trackers record what they receive, and say what to install if their package is missing."""

import sys
import types

import pytest

from compressed_lm import io
from compressed_lm.io import remote
from compressed_lm.tracking import TensorBoard, Terminal, Wandb


def test_terminal_prints_a_line_a_record(capsys):
    """Numbers are short enough to read."""
    Terminal().scalars(1200, {"loss": 1.23456, "tokens": 5})
    Terminal().text(1200, "sample", "abc")
    assert capsys.readouterr().out == "step 1,200  loss 1.235  tokens 5\nstep 1,200  sample: abc\n"


@pytest.mark.parametrize(
    ("module", "tracker", "extra"), [("tensorboardX", TensorBoard, "tensorboard"), ("wandb", Wandb, "wandb")]
)
def test_a_missing_package_names_the_extra(module, tracker, extra, monkeypatch, tmp_path):
    """A tracker whose package is not installed says what to install."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"{module} is not installed; run `pip install compressed_lm\[{extra}\]`"):
        tracker(tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_tensorboard_writes_an_event_file(tmp_path):
    """Numbers and texts end in one event file of the folder."""
    pytest.importorskip("tensorboardX")
    tracker = TensorBoard(tmp_path)
    tracker.scalars(20, {"bits_per_byte": 2.5})
    tracker.text(20, "sample", "abc")
    tracker.close()
    (events,) = tmp_path.glob("events.out.tfevents.*")
    assert b"bits_per_byte" in events.read_bytes() and b"sample" in events.read_bytes()


def test_tensorboard_in_an_object_store(bucket_url):
    """Event files are written again after a minute and at the end, and the local copy is removed."""
    pytest.importorskip("tensorboardX")
    times = [0.0]
    tracker = TensorBoard(f"{bucket_url}/run/tensorboard", now=lambda: times[0])
    tracker.scalars(1, {"bits_per_byte": 2})
    assert remote.sizes(f"{bucket_url}/run/tensorboard") == {}
    times[0] = 61.0
    tracker.text(1, "sample", "abc")
    ((name, size),) = remote.sizes(f"{bucket_url}/run/tensorboard").items()
    assert name.startswith("events.out.tfevents.") and size > 0
    tracker.scalars(2, {"last": 1})
    tracker.close()
    content = io.read_bytes(f"{bucket_url}/run/tensorboard/{name}")
    assert all(text in content for text in (b"bits_per_byte", b"sample", b"last")) and not tracker._local.exists()


class FakeWandb(types.ModuleType):
    """Fake module that records its calls."""

    def __init__(self):
        super().__init__("wandb")
        self.inits, self.logged, self.finished = [], [], 0

    def init(self, **keywords):
        self.inits.append(keywords)
        return self

    def log(self, values, *, step):
        self.logged.append((step, values))

    def finish(self):
        self.finished += 1


def test_a_run_that_is_started_again_goes_on_in_the_same_wandb_run(tmp_path, monkeypatch):
    """The id stays with the folder, even if it is renamed; another folder gets another id."""
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for step in (20, 40):
        tracker = Wandb(tmp_path / "sweep" / "eiw", project="p", config={"steps": 40})
        tracker.scalars(step, {"loss": 80 / step})
        tracker.text(step, "sample", "abc")
        tracker.close()
    first, again = fake.inits
    assert first == again and first["resume"] == "allow" and len(first["id"]) == 16
    assert (first["name"], first["group"], first["project"]) == ("eiw", "sweep", "p")
    assert first["dir"] == str(tmp_path / "sweep" / "eiw")
    assert fake.logged == [(20, {"loss": 4}), (20, {"sample": "abc"}), (40, {"loss": 2}), (40, {"sample": "abc"})]
    assert fake.finished == 2

    (tmp_path / "sweep").rename(tmp_path / "moved")
    Wandb(tmp_path / "moved" / "eiw", name="mine")
    Wandb(tmp_path / "sweep" / "eiw")
    assert fake.inits[2]["id"] == first["id"] != fake.inits[3]["id"]
    assert fake.inits[2]["name"] == "mine"


def test_a_wandb_run_in_an_object_store(bucket_url, monkeypatch):
    """The id is kept in the store; wandb's own files are local."""
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    Wandb(f"{bucket_url}/runs/eiw")
    Wandb(f"{bucket_url}/runs/eiw")
    assert fake.inits[0] == fake.inits[1] and "dir" not in fake.inits[0]
    assert io.read_bytes(f"{bucket_url}/runs/eiw/wandb_id.txt").decode() == fake.inits[0]["id"]
