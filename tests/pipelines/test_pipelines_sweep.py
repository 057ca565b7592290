"""A grid of runs ends in one table, also after failures and kills."""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from compressed_lm import configuration, scaling
from compressed_lm.cli import main
from compressed_lm.errors import InputError
from compressed_lm.io import jsonl
from compressed_lm.pipelines import grid
from compressed_lm.training import run_dir

TINY = ["model.n_layers=1", "model.d_ff=64", "train.seq_len=64", "train.batch_size=8"]
CODECS = ["--codec", "bytes", "gzip(v=256)"]


def arguments(out, *more):
    """A small sweep over Python's own sources, which load faster than the default corpus."""
    text = [f"--corpus=text:{argparse.__file__}", f"--validation=text:{textwrap.__file__}"]
    text += ["--max_bytes=60000", "--validation_bytes=6000", "--mesh=1,1,1"]
    settings = [f"--set={setting}" for setting in TINY]
    return ["sweep", f"--out={out}", "--size", "nano", "micro", "--tokens", "20 steps", *text, *settings, *more]


def table(out):
    return [row for _, row in jsonl.read(out / "runs.jsonl")]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A finished sweep: two codecs by two sizes."""
    out = tmp_path_factory.mktemp("sweep")
    assert main(arguments(out, *CODECS, "--set=train.eval_every=50%")) == 0
    return out


def test_a_grid_is_every_combination():
    """Codecs vary slowest, seeds fastest; names are unique; a plain length is tokens, other lengths have units."""
    cells = grid.grid(
        ["bytes", "eiw16-en"],
        sizes=["25m"],
        tokens=["20M", "300MB"],
        seeds=[0, 1],
        settings=["train.learning_rate=1e-3,2e-3", "train.schedule=wsd"],
    )
    assert len(cells) == 16 == len({cell.name for cell in cells})
    assert cells[0].name == "bytes-25m-20M-learning_rate=1e-3-s0"
    assert cells[-1].name == "eiw16-en-25m-300MB-learning_rate=2e-3-s1"
    assert dict(cells[0].choices) == {
        "model.size": "25m",
        "train.steps": "20M tokens",
        "train.learning_rate": "1e-3",
        "train.schedule": "wsd",
        "train.seed": "0",
    }
    assert dict(cells[-1].choices)["train.steps"] == "300MB"
    (cell,) = grid.grid(["bytes"], settings=["demo.codecs=('bytes', 'gzip(v=256)')"])
    assert cell.choices[0] == ("demo.codecs", "('bytes', 'gzip(v=256)')")


def test_codecs_are_labelled_by_spec_or_folder(tmp_path):
    """The label of a codec is its spec, file or folder; two codecs of the same label are an error."""
    sources = ["bytes", "eiw(v=4096,b=12,align=word)", "eiw16-en", f"{tmp_path}/a/mine", f"{tmp_path}/eiw.clmd"]
    assert list(grid.labelled(sources)) == ["bytes", "eiw-b12-v4096-word", "eiw16-en", "mine", "eiw"]
    with pytest.raises(InputError, match="a/mine and .*b/mine were given, and both would be called mine"):
        grid.labelled([f"{tmp_path}/a/mine", f"{tmp_path}/b/mine"])


@pytest.mark.parametrize(
    "more, message",
    [
        (["--codec", "bites"], "Did you mean bytes"),
        (["--codec", "codecs/nowhere"], "codecs/nowhere is not a codec directory"),
        (["--codec", "bytes", "bytes"], "both would be called bytes"),
        (["--codec", "bytes", "--seed", "1", "1"], "holds bytes-nano-20steps-s1 more than once"),
        (["--codec", "bytes", "--size", "nano", "nanno"], "expected one of nano"),
        (["--codec", "bytes", "--set=train.stepz=1"], "Did you mean steps"),
        (["--codec", "bytes", "--set=train.optimizer"], "or, for a grid, train.learning_rate=1e-3,3e-3"),
        (["--codec", "bytes", "--tokens", "20 parsecs"], "Units: steps"),
    ],
)
def test_mistakes_stop_a_sweep_before_it_starts(more, message, tmp_path, capsys):
    """A wrong codec, size or setting is an error before any file is written."""
    assert main(arguments(tmp_path / "out", *more)) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.slow("trains models from corpus to report")
def test_a_sweep_ends_in_one_table(swept, capsys):
    """Every cell has a final row on the same validation text, with its settings; the report draws them."""
    runs = scaling.final_runs(scaling.load_runs(swept / "runs.jsonl"))
    assert sorted(runs["run"]) == [
        "runs/bytes-micro-20steps-s0",
        "runs/bytes-nano-20steps-s0",
        "runs/gzip-v256-micro-20steps-s0",
        "runs/gzip-v256-nano-20steps-s0",
    ]
    assert set(runs["tokens"]) == {20 * 8 * 64} and runs["validation_bytes"].nunique() == 1
    assert runs["choices"][0]["model.size"] == "nano"
    curves = [row for _, row in jsonl.read(swept / "curves.jsonl")]
    assert [row["step"] for row in curves] == [10, 20] * 4
    assert sorted(path.name for path in (swept / "stores").iterdir()) == ["bytes", "gzip-v256"]
    configuration.load([str(swept / "runs" / "gzip-v256-nano-20steps-s0" / "config.gin")])
    assert (configuration.train().steps, configuration.data().codec) == (20, "gzip(v=256)")
    assert main(["report", str(swept)]) == 0
    assert "gzip(v=256)" in (swept / "report.md").read_text()


@pytest.mark.slow("trains the models of a sweep")
def test_nothing_is_done_twice(swept, capsys):
    """A restarted finished sweep trains, evaluates and compresses nothing; a dry run shows the results."""
    before = {path: path.stat().st_mtime_ns for path in [*swept.glob("runs/*/checkpoints/*"), swept / "runs.jsonl"]}
    made = [*swept.glob("stores/*/*/*"), *swept.glob("codecs/*/*")]
    before |= {path: path.stat().st_mtime_ns for path in made}
    assert main(arguments(swept, *CODECS, "--set=train.eval_every=50%")) == 0
    assert capsys.readouterr().out.count("finished before") == 4
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert len(made) == len([*swept.glob("stores/*/*/*"), *swept.glob("codecs/*/*")]) > 20
    assert main(arguments(swept, *CODECS, "--set=train.eval_every=50%", "--dry_run")) == 0
    shown = capsys.readouterr().out
    assert shown.count("finished, ") == 4 and "4 runs, " in shown


@pytest.mark.slow("trains the models of a sweep")
def test_a_dry_run_says_what_there_is_to_do(swept, tmp_path, capsys):
    """Parameters, tokens and FLOPs are always known, epochs after compression; too many epochs give a warning."""
    assert main(arguments(tmp_path / "new", *CODECS, "--dry_run", "--tokens", "2 epochs", "20k")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["bytes-nano-2epochs-s0", "62,720", "2", "epochs", "?", "?"]
    name, parameters, tokens, epochs, flops = lines[2].split()
    assert (name, parameters, tokens, epochs) == ("bytes-nano-20k-s0", "62,720", "20,480", "?")
    assert float(flops) > 6 * 20_480 * 25_000
    assert "not known: bytes, gzip-v256" in lines[-1] and not (tmp_path / "new").exists()

    assert main(arguments(swept, *CODECS, "--dry_run", "--tokens", "2 epochs", "5 epochs")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert abs(float(lines[1].split()[3]) - 2) < 0.02
    assert any(line.startswith("warning: bytes-nano-5epochs-s0 reads its text 5.0 times") for line in lines)


@pytest.mark.slow("trains the models of a sweep")
def test_a_failed_cell_leaves_the_others(swept, capsys):
    """A codec that cannot be built and a folder with another run are reported; the sweep continues; status 2."""
    record = swept / "runs" / "bytes-nano-20steps-s7" / "config.json"
    record.parent.mkdir()
    record.write_text(json.dumps(run_dir.read_record(swept / "runs" / "bytes-nano-20steps-s0")))
    codecs = ["--codec", "ac(v=256)", "bytes", "--seed", "7", "0"]
    assert main(arguments(swept, *codecs, "--size", "nano", "--set=train.eval_every=50%")) == 2
    out = capsys.readouterr().out
    assert "FAILED: ac-v256-nano-20steps-s7, ac-v256-nano-20steps-s0: The codec ac(v=256) needs a byte" in out
    assert "FAILED: bytes-nano-20steps-s7: The run in" in out and "train.seed 0 -> 7" in out
    assert "bytes-nano-20steps-s0: finished before" in out
    assert "3 of 4 runs failed: ac-v256-nano-20steps-s7, ac-v256-nano-20steps-s0, bytes-nano-20steps-s7." in out


@pytest.mark.slow("trains the models of a sweep")
def test_launch_commands_train_the_same_runs(swept, tmp_path, capsys):
    """Standard output has one command per run; such a command trains the same run as the sweep.

    A repeated sweep evaluates the run and prints the remaining commands.
    """
    options = [*CODECS, "--set=train.eval_every=50%", "--launch", "launch.sh --name {name} --"]
    assert main(arguments(tmp_path, *options)) == 0
    commands = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert [command[2] for command in commands] == [cell.name for cell in grid.grid(
        ["bytes", "gzip-v256"], sizes=["nano", "micro"], tokens=["20 steps"])]  # fmt: skip
    command = commands[2]
    assert command[:5] == ["launch.sh", "--name", "gzip-v256-nano-20steps-s0", "--", "compressed-lm"]
    assert main(command[5:]) == 0
    capsys.readouterr()
    assert main(arguments(tmp_path, *options)) == 0
    left = capsys.readouterr().out.splitlines()
    assert [shlex.split(line) for line in left] == [commands[0], commands[1], commands[3]]
    (row,) = table(tmp_path)
    (same,) = [r for r in table(swept) if r["run"] == row["run"]]
    assert row["bits_per_byte"] == same["bits_per_byte"] and row["cell"] == same["cell"]
    assert main(arguments(tmp_path, *options)) == 0
    assert len(table(tmp_path)) == 1


@pytest.mark.slow("trains models from corpus to report")
def test_a_killed_sweep_resumes(swept, tmp_path):
    """A sweep killed during its second run resumes and ends with the same rows."""
    command = arguments(tmp_path, "--codec", "bytes", "--set=train.eval_every=50%", "--set=train.checkpoint_every=2")
    start = "import os, jax; jax.config.update('jax_num_cpu_devices', 8); from compressed_lm.cli import main; "
    run = [sys.executable, "-c", f"{start}raise SystemExit(main({command!r}))"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(run, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    second = tmp_path / "runs" / "bytes-micro-20steps-s0" / "checkpoints"
    while not list(second.glob("[0-9]*")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and len(table(tmp_path)) == 1
    finished = subprocess.run(run, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert "bytes-nano-20steps-s0: finished before" in finished.stdout
    bits = {row["run"]: row["bits_per_byte"] for row in table(swept) if "bytes-" in row["run"]}
    assert len(bits) == 2 and {row["run"]: row["bits_per_byte"] for row in table(tmp_path)} == bits
