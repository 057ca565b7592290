"""`cram`, `uncram` and `cram-study` with models imported from Hugging Face."""

import dataclasses
import json
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from compressed_lm.cli import main
from compressed_lm.commands import cram, cram_options
from compressed_lm.cramming import CramConfig, vector_files
from compressed_lm.cramming.config import RECIPES
from compressed_lm.errors import InputError
from compressed_lm.models import Transformer, TransformerConfig, huggingface
from compressed_lm.models.partitioning import by_name
from compressed_lm.models.safetensors_files import write_tensors

LLAMA = dict(vocab_size=264, d_model=64, n_layers=1, n_heads=2, d_head=8, d_ff=64, activation="silu", position="rotary")
NEOX = LLAMA | dict(
    d_head=32, gated_mlp=False, activation="gelu_erf", norm="layer", norm_eps=1e-5, bias="all", parallel_residual=True
)


def imported(folder, settings):
    """A run imported from a Hugging Face checkpoint with random weights that are large enough for cramming."""
    pytest.importorskip("safetensors")
    config, rng = TransformerConfig(**settings), np.random.default_rng(0)
    shapes = jax.eval_shape(Transformer(config).init, jax.random.key(0), jax.ShapeDtypeStruct((1, 1), "int32"))
    params = {name: rng.normal(0, 0.5, x.shape).astype(np.float32) for name, x in by_name(shapes["params"]).items()}
    (source := folder / "source").mkdir(parents=True)
    shapes_by_name = {name: x.shape for name, x in params.items()}
    made = huggingface.tensors_of(shapes_by_name, params.__getitem__, config)
    write_tensors(source, {name: make() for name, _, make in made}, max_bytes=10**9)
    (source / "config.json").write_text(json.dumps(huggingface.config_of(config, max_length=64, eod_id=256)))
    assert main(["import", str(source), f"--out={folder / 'run'}", "--codec=bytes"]) == 0
    return str(folder / "run")


@pytest.mark.slow("trains vectors through the command line")
@pytest.mark.parametrize(
    "settings, data, form",
    [
        (LLAMA, b"\xffA", "int(b=8)"),
        pytest.param(NEOX, b"A", "dense", marks=pytest.mark.slow("trains vectors through the command line")),
    ],
    ids=["llama", "gpt_neox"],
)
def test_a_text_goes_in_and_out(settings, data, form, tmp_path, capfdbinary):
    """`uncram` restores the text of `cram` byte for byte, printed sizes are true, and another model is refused."""
    run, out = imported(tmp_path / "a", settings), tmp_path / "text.clt"
    (text := tmp_path / "text").write_bytes(data)
    options = [f"--model={run}", f"--out={out}", "--k=4", "--steps=400", "--learning_rate=0.05", f"--format={form}"]
    assert main(["cram", str(text), *options]) == 0
    said = capfdbinary.readouterr().out.decode()
    size = 4 * 64 * 4 if form == "dense" else 4 * (64 + 2)
    assert f"{len(data)} bytes of text, {len(data)} tokens, in 4 x 64 numbers of {form}" in said
    assert f"The vectors have {size:,} bytes, the file {out.stat().st_size:,}" in said
    assert main(["uncram", str(out), f"--model={run}"]) == 0
    assert capfdbinary.readouterr().out == data
    other = imported(tmp_path / "b", settings | dict(rope_theta=5000.0))
    assert main(["uncram", str(out), f"--model={other}"]) == 2
    assert b"its vectors do not work" in capfdbinary.readouterr().err


@pytest.mark.slow("trains vectors through the command line")
def test_a_text_that_does_not_fit_is_refused(tmp_path, capfd):
    """A text above capacity is refused with its longest exact prefix and advice, and nothing is written.

    An empty text and a missing file are refused, too.
    """
    run, out = imported(tmp_path, LLAMA), tmp_path / "out.clt"
    (text := tmp_path / "text").write_bytes(b"ABCDEFGH")
    options = [f"--model={run}", f"--out={out}", "--steps=60", "--learning_rate=0.05"]
    capfd.readouterr()
    assert main(["cram", str(text), *options]) == 2
    said = capfd.readouterr().err
    found = re.search(r"of its 8 tokens the model writes the first (\d+) from 1 vector, '(.*?)'\.", said)
    assert int(found[1]) >= 1 and found[2] == "ABCDEFGH"[: int(found[1])]
    assert "--k 2" in said and "right " in said and not out.exists()
    text.write_bytes(b"")
    assert main(["cram", str(text), *options]) == 2 and "is empty" in capfd.readouterr().err
    assert main(["cram", str(tmp_path / "no"), *options]) == 2 and "cannot be read" in capfd.readouterr().err


@pytest.mark.slow("trains vectors through the command line")
def test_a_text_that_fits_only_when_it_is_grown_is_written(tmp_path, monkeypatch, capfdbinary):
    """If the full method fails and the progressive one succeeds, `cram` writes the result of the latter."""
    run, out = imported(tmp_path, LLAMA), tmp_path / "out.clt"
    optimized, methods = cram._optimized, []

    def whole_text_fails(model, ids, config, description, **saving):
        methods.append(config.method)
        found = optimized(model, ids, config, description, **saving)
        return dataclasses.replace(found, numbers=0 * found.numbers) if config.method == "full" else found

    monkeypatch.setattr(cram, "_optimized", whole_text_fails)
    (text := tmp_path / "text").write_bytes(b"AB")
    options = [f"--model={run}", f"--out={out}", "--k=4", "--steps=400", "--learning_rate=0.05"]
    assert main(["cram", str(text), *options]) == 0 and methods == ["full", "progressive"]
    capfdbinary.readouterr()
    assert main(["uncram", str(out), f"--model={run}"]) == 0 and capfdbinary.readouterr().out == b"AB"


@pytest.mark.slow("trains vectors through the command line in three processes")
def test_a_killed_command_resumes(tmp_path):
    """After SIGKILL, `cram` resumes from its state: the file, its stages and the message are those without the kill.

    The state is removed at the end, and a state of another text is refused.
    """
    run, text = imported(tmp_path, LLAMA), tmp_path / "text"
    text.write_bytes(b"ABCDEFGHIJ")
    command = [sys.executable, "-m", "compressed_lm", "cram", str(text), f"--model={run}", "--recipe=tarasov2026"]
    command += ["--k=4", "--steps=1500", "--patience=1500", "--learning_rate=0.05", "--save_every=0"]
    outputs = []
    for name, kill in (("whole", False), ("killed", True)):
        folder = tmp_path / name
        folder.mkdir()
        files = [f"--out={folder / 'text.clt'}", f"--stages={folder / 'stages.npz'}"]
        state = folder / "text.clt.progressive.state"
        if kill:
            process = subprocess.Popen([*command, *files], stderr=subprocess.DEVNULL)
            deadline = time.monotonic() + 120
            while not state.exists() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL and state.exists() and not (folder / "stages.npz").exists()
            text.write_bytes(b"JIHGFEDCBA")
            other = subprocess.run([*command, *files], capture_output=True, text=True, check=False)
            assert other.returncode == 2 and "the state of a cramming that differs in its texts" in other.stderr
            text.write_bytes(b"ABCDEFGHIJ")
        done = subprocess.run([*command, *files], capture_output=True, text=True, check=False)
        assert not state.exists()
        message = re.sub(r"[^\n]*/text.clt:", "", done.stdout), re.findall(r"writes the first \d+", done.stderr)
        written = (folder / "text.clt").read_bytes() if done.returncode == 0 else b""
        outputs.append((done.returncode, message, written, vector_files.read(folder / "stages.npz")))
    (*whole, stages), (*killed, same) = outputs
    assert whole == killed and set(stages) == set(same) and len(stages["stage_scores"]) > 1
    assert all(np.array_equal(stages[name], same[name]) for name in stages)


def test_options_change_a_recipe():
    """Every setting of `CramConfig` is an option; without options the settings are those of the recipe."""
    parser = cram.COMMAND.parser()
    needed = ["text", "--model=m", "--out=o"]
    given = lambda *options: cram_options.config(parser.parse_args([*needed, *options]))  # noqa: E731
    assert given() == CramConfig(margin=0.1)
    grown = dataclasses.replace(CramConfig(**RECIPES["tarasov2026"]), margin=0.1, n_vectors=2)
    assert given("--recipe=tarasov2026", "--k=2") == grown
    assert given("--recipe=tarasov2026", "--k=2", "--no-crop", "--b2=0.95") == dataclasses.replace(
        grown, crop=False, b2=0.95
    )
    assert given("--recipe=tarasov2026", "--k=2", "--method=full") == dataclasses.replace(
        grown, crop=False, method="full"
    )
    options = {option for action in parser._actions for option in action.option_strings}
    assert {f"--{field.name}" for field in dataclasses.fields(CramConfig)} - options == {"--n_vectors"}  # it is --k
    with pytest.raises(InputError, match="--recipe fast was given; expected one of kuratov2025, tarasov2026"):
        given("--recipe=fast")


@pytest.mark.slow("trains vectors through the command line")
def test_a_study_of_four_sources(tmp_path, capfd):
    """`cram-study` measures every source, names its report, and refuses lengths above those of training."""
    run = imported(tmp_path, LLAMA)
    for name in ("train", "validation", "other"):
        document = {"text": f"The {name} document has a few sentences. " * 30}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(document) + "\n")
    options = [f"--corpus=json:{tmp_path}/train.jsonl", f"--validation=json:{tmp_path}/validation.jsonl"]
    options += [f"--unseen=json:{tmp_path}/other.jsonl", "--texts=3", "--steps=3", f"--out={tmp_path / 'study'}"]
    options += ["--sources", "natural", "unseen", "words", "tokens", f"--model={run}", "--formats=int(b=8)"]
    assert main(["cram-study", *options, "--lengths", "2", "4", "--k", "1"]) == 0
    assert str(tmp_path / "study" / "report.html") in capfd.readouterr().out
    cells = [json.loads(line) for line in (tmp_path / "study" / "cells.jsonl").read_text().splitlines()]
    assert [(cell["source"], cell["length"]) for cell in cells] == [
        (source, length) for length in (2, 4) for source in ("natural", "unseen", "words", "tokens")
    ]
    assert main(["cram-study", *options, "--lengths", "64", "--k", "1"]) == 2
    assert "the model was trained on rows of 64" in capfd.readouterr().err
