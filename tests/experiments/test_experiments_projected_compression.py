"""Comparison of methods to make a model smaller: one row per run, each trained once, and its tables."""

import argparse
import pathlib
import sys

import pytest

from compressed_lm.cli import main
from compressed_lm.io import jsonl

FOLDER = "projected_compression"


def test_the_page_claims_only_what_was_run(load):
    """The page marks methods without a recorded row as "not run", and each verdict names its 0.2 M tokens."""
    run = load("run")
    bad = {label for label in run.METHODS if "first indices" in label}
    assert len(bad) == 2 and {run.shrink_of(label, 0.3).importance for label in bad} == {"index"}
    assert run.shrink_of(run.EQUAL_FLOPS, 0.3) == run.shrink_of("pruned", 0.3)
    root = pathlib.Path(__file__).parents[2] / "experiments"
    rows = [row for _, row in jsonl.read(root / "recorded" / FOLDER / "results.jsonl")]
    lines = (root / FOLDER / "README.md").read_text().splitlines()
    claim = next(line for line in lines if line.startswith("| a bad start is not made up for"))
    assert bool(bad & {row["label"] for row in rows}) != ("**not run.**" in claim)
    assert {row["tokens"] for row in rows if row["label"] == "projected"} == {204_800}
    verdict = next(line for line in lines if line.startswith("| projections beat hard pruning"))
    assert "does not hold after 0.2 M tokens" in verdict


@pytest.mark.slow("trains the models of a small experiment")
def test_each_run_is_trained_once_and_reported(load, tmp_path, monkeypatch, capsys):
    """Each run is trained once, also after a restart, and has a row in the report.

    Hard pruning for equal FLOPs has more steps than the others.
    """
    gin = tmp_path / "tiny.gin"
    gin.write_text(
        "include 'runs/projected_compression.gin'\nmodel.size = 'nano'\nmodel.n_layers = 1\n"
        "train.seq_len = 32\ntrain.batch_size = 8\ntrain.checkpoint_every = 2\ntrain.eval_every = 0\n"
    )
    text = ["--codec=bytes", f"--corpus=text:{argparse.__file__}", "--max_bytes=20000"]
    assert main(["compress", *text, f"--out={tmp_path}/store"]) == 0
    train = [f"--gin={gin}", f"--store={tmp_path}/store", "--steps=2", f"--out={tmp_path}/base"]
    assert main(["train", *train]) == 0
    run, report = load("run"), load("report")
    monkeypatch.setattr(run, "METHODS", {k: run.METHODS[k] for k in ("projected", "pruned")})
    monkeypatch.setattr(run, "best_rate", lambda *_: 1e-3)
    out = tmp_path / "out"
    stores = [f"--store={tmp_path}/store", f"--validation_store={tmp_path}/store", f"--gin={gin}", f"--out={out}"]
    command = ["run.py", f"{tmp_path}/base", *stores, "--steps=4", "--keep", "0.3", "--seed", "0"]
    command += ["--rates_at", "0.3"]
    monkeypatch.setattr(sys, "argv", command)
    assert run.main() == 0
    before = (out / "results.jsonl").read_bytes()
    assert run.main() == 0 and (out / "results.jsonl").read_bytes() == before
    rows = [row for _, row in jsonl.read(out / "results.jsonl")]
    assert [row["label"] for row in rows] == ["projected", "pruned", "pruned, equal FLOPs"]
    assert [row["steps"] > 4 for row in rows] == [False, False, True]
    assert rows[2]["flops"] == pytest.approx(rows[0]["flops"], rel=0.15) and rows[1]["flops"] < rows[0]["flops"]
    assert rows[0]["frozen"] > rows[0]["trainable"] / 10 and rows[1]["frozen"] == 0
    monkeypatch.setattr(sys, "argv", ["report.py", str(out)])
    capsys.readouterr()
    assert report.main() == 0 and (out / "curves.png").exists()
    assert capsys.readouterr().out.count("| pruned, equal FLOPs |") == 1
