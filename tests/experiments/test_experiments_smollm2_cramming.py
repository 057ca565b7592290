"""The cramming experiment measures every cell once, and its page has the numbers of its rows."""

import json
import math
import sys

import jax
import numpy as np
import pytest

from compressed_lm.cli import main
from compressed_lm.cramming import vector_files
from compressed_lm.io import jsonl
from compressed_lm.models import Transformer, TransformerConfig, huggingface
from compressed_lm.models.partitioning import by_name
from compressed_lm.models.safetensors_files import write_tensors

FOLDER = "smollm2"
SHAPE = dict(vocab_size=264, d_model=64, n_layers=1, n_heads=2, d_head=8, d_ff=64, activation="silu", position="rotary")


def row(score, *, text=0, cell="cramming_natural_k1", greedy=None):
    """Returns a row of a text of four tokens, of two bits each without vectors and one bit each with them."""
    ids = [1, 2, 3, 4]
    return dict(
        cell=cell,
        source="natural",
        k=1,
        text=text,
        score=score,
        steps=100,
        text_bytes=10 * score,
        vectors_bytes=2304,
        nats_alone=[2 * math.log(2)] * 4,
        nats=[math.log(2)] * 4,
        right=[1] * score + [0] * (4 - score),
        right_alone=[0, 1, 0, 0],
        greedy=greedy or ids[:score] + [9] * (4 - score),
        ids=ids,
        cpu_seconds=120.0,
        sizes=dict.fromkeys(
            ("zlib_bytes", "bz2_bytes", "lzma_bytes", "huffman_bytes", "m1_bytes", "ac_bytes"), 20 + score
        ),
    )


def test_measures_are_of_the_restored_prefix(load):
    """Gains are sums over the prefix, in bits; greedy tokens end at the first difference."""
    report = load("cramming_report")
    found = report.measures(row(3, greedy=[1, 2, 9, 4]))
    assert (found["tokens"], found["greedy"], found["token_gain"]) == (3, 2, 2)
    assert found["gain"] == pytest.approx(3) and found["gain_all"] == pytest.approx(4)
    assert (found["right"], found["greedy_right"]) == (75, 75)


def test_intervals_and_paths(load):
    """An interval is that of resampled texts; a straight path has one component and its own length."""
    report = load("cramming_report")
    mean, low, high = report.interval([0.0, 1.0] * 50)
    assert mean == 0.5 and low == pytest.approx(0.4, abs=0.02) and high == pytest.approx(0.6, abs=0.02)
    assert report.interval([3.0, 3.0]) == (3.0, 3.0, 3.0)
    line = np.arange(5.0)[:, None, None] * np.array([[[3.0, 4.0, 0.0]]])
    length, components = report.path_of(line)
    assert length == pytest.approx(20) and components == 1
    assert report.path_of(np.eye(3)[:, None, :])[1] == 2


def test_the_page_has_the_means_of_the_rows(load, tmp_path, monkeypatch):
    """The page states means, the bytes of compressors and the published values; the figure is written."""
    report = load("cramming_report")
    monkeypatch.setattr(report, "PAGE", tmp_path / "page.md")
    rows = [row(2), row(4, text=1)]
    (tmp_path / report.ROWS).write_text("".join(json.dumps(each) + "\n" for each in rows))
    report.write(tmp_path)
    page = (tmp_path / "page.md").read_text()
    assert "| natural | 1 | 2 | 3.0 (2.0 to 4.0) | 3.0 (2.0 to 4.0) | 3 (2 to 4) | 2.0 (1.0 to 3.0) | 2, 4 |" in page
    assert "38.5 ± 14.1 | 168 ± 66" in page and "| natural, K = 1 | 30 | 2,304 | 23 |" in page
    assert "{" not in page.replace("{" + "}", "") and (tmp_path / report.FIGURE).stat().st_size > 10_000


@pytest.mark.slow("trains vectors")
def test_cells_are_measured_once(load, tmp_path, monkeypatch):
    """A second run measures nothing again; an interrupted cell is on the page and is finished by the next run."""
    pytest.importorskip("safetensors")
    script, rng = load("cramming"), np.random.default_rng(0)
    monkeypatch.setattr(script.cramming_report, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(script, "LONGEST", 6)
    config = TransformerConfig(**SHAPE)
    shapes = jax.eval_shape(Transformer(config).init, jax.random.key(0), jax.ShapeDtypeStruct((1, 1), "int32"))
    params = {name: rng.normal(0, 0.5, x.shape).astype(np.float32) for name, x in by_name(shapes["params"]).items()}
    (tmp_path / "source").mkdir()
    made = huggingface.tensors_of({name: x.shape for name, x in params.items()}, params.__getitem__, config)
    write_tensors(tmp_path / "source", {name: make() for name, _, make in made}, max_bytes=10**9)
    values = huggingface.config_of(config, max_length=64, eod_id=256)
    (tmp_path / "source" / "config.json").write_text(json.dumps(values))
    assert main(["import", f"{tmp_path}/source", f"--out={tmp_path}/run", "--codec=bytes"]) == 0
    text = json.dumps({"text": "The document has a few sentences. " * 30}) + "\n"
    (tmp_path / "text.jsonl").write_text(text)
    source = f"json:{tmp_path}/text.jsonl"
    command = [
        "cramming.py",
        f"{tmp_path}/run",
        f"--corpus={source}",
        f"--validation={source}",
        f"--out={tmp_path}/out",
    ]
    command += ["--steps=101", "--cells", "natural:1:4:2", "words:2:6:2"]
    monkeypatch.setattr(sys, "argv", command)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(script, "read_alone", interrupted)  # after the first cell is crammed
        with pytest.raises(KeyboardInterrupt):
            script.main()
    script.cramming_report.write(tmp_path / "out")
    assert "`cramming_natural_k1`: not finished" in (tmp_path / "page.md").read_text()
    assert script.main() == 0
    before = (tmp_path / "out" / "cramming.jsonl").read_bytes()
    assert script.main() == 0 and (tmp_path / "out" / "cramming.jsonl").read_bytes() == before
    rows = [each for _, each in jsonl.read(tmp_path / "out" / "cramming.jsonl")]
    assert [(each["source"], each["k"], each["length"], each["text"]) for each in rows] == [
        *(("natural", 1, 4, i) for i in range(2)),
        *(("words", 2, 6, i) for i in range(2)),
    ]
    for each in rows:
        arrays = vector_files.read(tmp_path / "out" / f"{each['cell']}.npz")
        assert arrays[f"{each['text']}/vectors"].shape == (each["k"], 64)
        assert each["greedy"][: each["score"]] == each["ids"][: each["score"]]
    assert not list((tmp_path / "out").glob("*.state")) and "not finished" not in (tmp_path / "page.md").read_text()
