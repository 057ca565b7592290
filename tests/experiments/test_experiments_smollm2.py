"""Experiments on a pretrained model: the scripts run on a small model, and pages hold what was recorded."""

import argparse
import pathlib
import sys

import numpy as np
import pytest

from compressed_lm.cli import main
from compressed_lm.io import jsonl
from compressed_lm.weights import rates

FOLDER = "smollm2"


EXPERIMENTS = pathlib.Path(__file__).parents[2] / "experiments"


def test_the_page_holds_what_was_recorded(load):
    """The tables of the page are those that the report prints, and every format and matrix was measured."""
    script, page = load("report"), (EXPERIMENTS / FOLDER / "README.md").read_text()
    rows, shapes = script.read(EXPERIMENTS / "recorded" / FOLDER)
    assert set(rows.index) == load("weights").ways().keys()
    assert len(shapes) == 3 * 7 * 30 and (shapes[shapes["what"] == "weight"]["shape_mle"] < 2).all()
    for table in (script.rate_table(rows), script.shape_table(shapes)):
        assert script.markdown(table) in page


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Returns the folders of a small trained run and of its token store."""
    folder = tmp_path_factory.mktemp("smollm2")
    text = ["--codec=bytes", f"--corpus=text:{argparse.__file__}", "--max_bytes=20000"]
    assert main(["compress", *text, f"--out={folder}/store"]) == 0
    settings = [
        "model.size=nano",
        "model.d_model=32",
        "model.n_heads=2",
        "model.d_head=16",
        "model.d_ff=64",
        "model.position=rotary",
    ]
    settings += ["model.gated_mlp=True", "train.batch_size=8", "train.seq_len=64", "train.warmup_steps=2"]
    command = ["train", f"--store={folder}/store", "--steps=3", f"--out={folder}/run"]
    assert main([*command, *(f"--set={setting}" for setting in settings)]) == 0
    return folder / "run", folder / "store"


@pytest.mark.slow("evaluates a small model with every storage method")
def test_weights_are_measured_once(load, trained, tmp_path, monkeypatch):
    """Every storage method has one row, also after a restart; a fine step changes the loss least.

    Distributions are fitted to the weights, the gradients and the outputs of each matrix of each layer.
    """
    script, (run, store) = load("weights"), trained
    chosen = {"float32": rates.floats} | {k: script.ways()[k] for k in ("step=0.05std", "step=0.5std", "int(b=4)")}
    monkeypatch.setattr(script, "ways", lambda: chosen)
    command = ["weights.py", str(run), f"--store={store}", f"--out={tmp_path}", "--seq_len=64", "--rows=2"]
    monkeypatch.setattr(sys, "argv", command)
    assert script.main() == 0
    before = {name: (tmp_path / name).read_bytes() for name in ("rates.jsonl", "shapes.jsonl")}
    assert script.main() == 0 and before == {name: (tmp_path / name).read_bytes() for name in before}
    rows = {row["way"]: row for _, row in jsonl.read(tmp_path / "rates.jsonl")}
    assert rows.keys() == chosen.keys()
    assert rows["float32"]["error"] == 0 and rows["step=0.05std"]["bits"] > rows["step=0.5std"]["bits"]
    loss = {way: row["bits_per_byte"] for way, row in rows.items()}
    assert abs(loss["step=0.05std"] - loss["float32"]) < abs(loss["int(b=4)"] - loss["float32"]) + 1e-3
    for row in rows.values():
        total = sum(row["document_bits"]) / sum(row["document_bytes"])
        assert total == pytest.approx(row["bits_per_byte"], abs=1e-4)
    shapes = [row for _, row in jsonl.read(tmp_path / "shapes.jsonl")]
    names = {(row["what"], row["layer"]) for row in shapes}
    assert names == {(what, layer) for what in ("weight", "gradient", "output") for layer in (0, 1)}
    assert len({row["name"] for row in shapes if row["what"] == "output"}) == 7
    assert all(0.1 <= row["shape_mle"] <= 10 for row in shapes)


@pytest.mark.slow("trains a small model")
def test_outputs_are_those_of_the_matrices(load, trained):
    """The outputs of a matrix are its input times the matrix, layer by layer."""
    script, (run, _) = load("weights"), trained
    from compressed_lm.training import load_run

    loaded = load_run(run)
    targets = np.random.default_rng(0).integers(0, 256, (1, 8))
    found = script.outputs(loaded, targets)
    params = loaded.params
    inputs = np.concatenate([[[loaded.eod_id]], targets[:, :-1]], axis=1)
    x = np.asarray(params["embed"]["embedding"])[inputs]
    scale = np.asarray(params["layers"]["attention_norm"]["scale"])[0]
    normed = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + loaded.model_config.norm_eps) * scale
    q = normed @ np.asarray(params["layers"]["attention"]["q"]["kernel"])[0]
    assert np.allclose(np.sort(found["attention/q"][0]), np.sort(q.reshape(-1)), atol=1e-4)
