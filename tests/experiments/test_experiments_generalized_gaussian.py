"""Scripts on the weights of a sweep: the stored weights are evaluated, and tables show the measured rows."""

import argparse
import sys
import textwrap

import pytest

from compressed_lm import scaling
from compressed_lm.cli import main

FOLDER = "generalized_gaussian"


@pytest.fixture(scope="module")
def measured(load, tmp_path_factory):
    """Returns (rows of curves.jsonl by penalty, seed and method; its folder; the sweep) of four tiny runs."""
    folder = tmp_path_factory.mktemp("sweep")
    sweep = ["sweep", "--codec", "bytes", "--size", "nano", "--tokens", "10k"]
    sweep += [f"--corpus=text:{argparse.__file__}", f"--validation=text:{textwrap.__file__}"]
    sweep += ["--max_bytes", "60000", "--validation_bytes", "5000", "--seed", "0", "1", f"--out={folder}/runs"]
    settings = ["model.d_model=32", "model.n_heads=1", "train.batch_size=8", "train.seq_len=64", "train.warmup_steps=2"]
    settings += ["train.penalty=none,backslash(rate=4)"]
    assert main([*sweep, *(f"--set={setting}" for setting in settings)]) == 0
    load("curves").measure(folder / "runs", folder / "out", only=None, stride=1)
    rows = scaling.read_table(folder / "out" / "curves.jsonl")
    return rows.set_index(["penalty", "seed", "way"]), folder / "out", folder / "runs"


@pytest.mark.slow("trains the models of a small experiment")
def test_each_way_of_storing_is_evaluated(load, measured):
    """Every storage method is evaluated: its loss and bits have the expected order.

    Floats have the loss of the run table; a fine step has nearly that loss, a coarse one fewer bits and a higher loss.
    The coder is within 5 % of the entropy even for these small matrices; pruning leaves the given share of zeros.
    """
    rows, _, sweep = measured
    plain = rows.loc["none"].loc[0]
    runs = scaling.load_runs(sweep / "runs.jsonl")
    known = next(row for row in runs.to_dict("records") if row["seed"] == 0 and "penalty=none" in row["run"])
    assert plain.loc["float32", "bits_per_byte"] == pytest.approx(known["bits_per_byte"], abs=1e-4)
    fine, coarse = plain.loc["step=0.0625std"], plain.loc["step=1std"]
    assert abs(fine["bits_per_byte"] - known["bits_per_byte"]) < 0.01 < coarse["bits_per_byte"] - known["bits_per_byte"]
    assert coarse["bits"] < 2.5 < 5.5 < fine["bits"] and fine["entropy"] < fine["bits"] < 1.05 * fine["entropy"]
    assert plain.loc["prune=0.8+step=0.25std", "zeros"] == pytest.approx(0.8, abs=0.01)
    assert plain.loc["int(b=4)", "bits"] == pytest.approx(4.2, abs=0.4) and plain.loc["rf8", "bits"] < 8.1
    assert plain.loc["deepshape", "bits"] == pytest.approx(plain.loc["scaled as by deepshape", "bits"], abs=0.3)


@pytest.mark.slow("trains the models of a small experiment")
def test_a_second_run_measures_nothing_again(load, measured):
    """A second run keeps the rows of curves.jsonl and adds none."""
    _, out, sweep = measured
    before = (out / "curves.jsonl").read_bytes()
    load("curves").measure(sweep, out, only=None, stride=1)
    assert (out / "curves.jsonl").read_bytes() == before


@pytest.mark.slow("trains the models of a small experiment")
def test_the_report_compares_runs_of_a_seed(load, measured, capsys, monkeypatch):
    """The report has a row per training, with intervals over seeds and plain floats as zero, and writes figures."""
    rows, out, _ = measured
    monkeypatch.setattr(sys, "argv", ["report.py", str(out)])
    report = load("report")
    assert report.main() == 0
    printed = capsys.readouterr().out
    assert "| bytes | none | +0.000 ± 0.000 |" in printed and "| bytes | prox 4 |" in printed
    assert "| bytes | none | rf8 | 8.0" in printed
    excess = report.read(out).set_index(["penalty", "seed", "way"])["excess"]
    expected = rows["bits_per_byte"]["backslash(rate=4)", 1, "float32"] - rows["bits_per_byte"]["none", 1, "float32"]
    assert excess["backslash(rate=4)", 1, "float32"] == pytest.approx(expected)
    assert {path.name for path in out.iterdir()} >= {"rate.png", "pruning.png"}


@pytest.mark.slow("quantises with many formats")
def test_the_table_of_8_bit_floats(load):
    """Small matrices give the order of the README's table: E4M3, RF8 to nearest, RF8 by the authors, E5M2."""
    rows = {row["format"]: row for row in load("float8").table(side=64, trials=2)}
    errors = [rows[name]["shape_1"] for name in ("e3m4", "e4m3", "rf8", "rf8(round=authors)", "e5m2")]
    assert errors == sorted(errors) and 1.9 < errors[2] / errors[1] < 2.3
