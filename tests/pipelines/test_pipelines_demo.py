"""Small demo from corpus to report, and its restart."""

import inspect
import json

import pytest

from compressed_lm import codecs, scaling
from compressed_lm.cli import main
from compressed_lm.errors import InputError
from compressed_lm.pipelines import demo

SETTINGS = [
    "demo.train_bytes=60000",
    "demo.validation_bytes=6000",
    "demo.codecs=('bytes', 'eiw(b=10,v=1024)')",
    "demo.codecs_shown=('static_ac(v=256)',)",
    "demo.curve_codecs=('bytes',)",
    "demo.curve_sizes=('nano', 'micro')",
    "demo.curve_points=2",
    "demo.sample_tokens=8",
    "model.d_ff=64",
    "m1/model.size=nano",
    "m2/model.size=nano",
    "m1/train.steps=4",
    "m2/train.steps=4",
    "train.seq_len=64",
    "train.batch_size=8",
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    import argparse

    folder = tmp_path_factory.mktemp("text")
    source = inspect.getsource(argparse)
    for name, start, stop in (("train", 0, 80_000), ("validation", 80_000, 90_000)):
        lines = [json.dumps({"text": source[i : i + 900]}) + "\n" for i in range(start, stop, 900)]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return folder


def test_the_length_of_a_demo_is_in_steps(tmp_path):
    """A length in tokens is refused before any file is written."""
    with pytest.raises(InputError, match="m2/train.steps='20M tokens' was given. The demo expects a number of steps"):
        demo.run(tmp_path / "demo", bindings=[*SETTINGS, "m2/train.steps='20M tokens'"])
    assert not (tmp_path / "demo").exists()


@pytest.mark.slow("trains models from corpus to report")
def test_the_demo_runs_and_resumes(corpus, tmp_path):
    """One command writes codecs, stores, a run table and a report; a restart repeats nothing and keeps all results."""
    arguments = ["demo", f"--out={tmp_path}", f"--corpus=json:{corpus}/train.jsonl"]
    arguments += [f"--validation=json:{corpus}/validation.jsonl", "--devices=8", "--gin=runs/demo.gin"]
    arguments += [f"--set={setting}" for setting in SETTINGS]
    assert main(arguments) == 0
    runs = scaling.final_runs(scaling.load_runs(tmp_path / "runs.jsonl"))
    assert set(runs["codec"]) == {"bytes", "eiw(b=10,v=1024)"}
    assert sorted(runs.loc[runs["codec"] == "bytes", "run"]) == ["m1", "m2/bytes", "m2/bytes-micro"]
    assert runs["validation_bytes"].nunique() == 1
    codec = codecs.load(tmp_path / "codecs" / "eiw-b10-v1024")
    assert codec.decode(codec.encode(b"\xff any bytes")) == b"\xff any bytes"
    assert "Findings" in (tmp_path / "report.html").read_text()

    checkpoints = sorted(tmp_path.glob("m2/*/checkpoints/*"))
    said = []
    demo.run(
        tmp_path,
        bindings=[
            *SETTINGS,
            f"demo.corpus=json:{corpus}/train.jsonl",
            f"demo.validation=json:{corpus}/validation.jsonl",
        ],
        report=said.append,
    )
    again = scaling.final_runs(scaling.load_runs(tmp_path / "runs.jsonl"))
    assert again["bits_per_byte"].tolist() == runs["bits_per_byte"].tolist()
    assert sorted(tmp_path.glob("m2/*/checkpoints/*")) == checkpoints
    assert any("report" in line for line in said)
