"""The weight report fits each layer separately, shows the effect of pooling, and is one self-contained page."""

import base64
import dataclasses
import io
import json
import re

import jax
import numpy as np
import pytest
from rich.console import Console

from compressed_lm import models, weights
from compressed_lm.errors import InputError
from compressed_lm.reports.weights import HEADER, weight_report
from compressed_lm.training import TrainConfig, run_dir
from compressed_lm.weights import fits
from compressed_lm.weights.gennorm import GeneralizedGaussian

CONFIG = models.TransformerConfig(
    vocab_size=64, d_model=32, n_layers=2, n_heads=2, d_head=16, d_ff=128, position="rotary", gated_mlp=False
)
STDS = {"layers/mlp/up/kernel": (0.02, 0.2)}  # of the two layers; others have 0.05


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A packed run with known weights: draws of shape 1 in the blocks, Gaussian embeddings, norms all 1 but one."""
    directory, rng = tmp_path_factory.mktemp("weights") / "run", np.random.default_rng(0)
    shapes = jax.eval_shape(models.Transformer(CONFIG).init, jax.random.key(0), np.zeros((1, 1), np.int32))["params"]
    packed = {}
    for path, leaf in jax.tree.leaves_with_path(shapes):
        name = "/".join(key.key for key in path)
        if name.endswith("scale"):
            w = 1 + 0.1 * rng.normal(size=leaf.shape) if name == "final_norm/scale" else np.ones(leaf.shape)
        elif name.startswith("layers/"):
            draws = GeneralizedGaussian.from_std(1.0, 1.0).sample(rng, leaf.shape)
            w = draws * np.reshape(STDS.get(name, (0.05, 0.05)), (2, 1, 1))
        else:
            w = 0.05 * rng.normal(size=leaf.shape)
        packed[name] = weights.pack(w.astype(np.float32), "dense", axis=-1)
    directory.mkdir()
    weights.save_packed(directory / run_dir.WEIGHTS, packed)
    data = dict(codec_spec="bytes", codec_fingerprint="c", store_fingerprint="s", eod_id=0)
    note = dict(format="dense", others="dense", bits_per_weight=32.0, next_index=7, loss_nats_per_token=1.0)
    record = dict(
        model=dataclasses.asdict(CONFIG), train=dataclasses.asdict(TrainConfig(steps=7)), data=data, packed=note
    )
    (directory / run_dir.CONFIG).write_text(json.dumps(record))
    return directory


@pytest.fixture(scope="module")
def written(run, tmp_path_factory):
    """(report, text of the page, progress seen)."""
    out, seen = tmp_path_factory.mktemp("page") / "new" / "report.html", []
    report = weight_report(run, out=out, progress=lambda done, total: seen.append((done, total)))
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]
    return report, out.read_text(encoding="utf-8"), seen


@pytest.mark.slow("fits distributions to a model")
def test_layers_are_fitted_by_themselves(written):
    """Layers with a tenfold difference in standard deviation keep their shape of 1, as all matrices of the blocks."""
    report = written[0]
    rows = {row.name: row for row in report.parameters}
    up = rows["layers/mlp/up/kernel"]
    assert [fit.name for fit in up.arrays] == ["layers/mlp/up/kernel[0]", "layers/mlp/up/kernel[1]"]
    assert [fit.std for fit in up.arrays] == [pytest.approx(0.02, rel=0.1), pytest.approx(0.2, rel=0.1)]
    for name in ("attention/q", "attention/k", "attention/v", "attention/out", "mlp/up", "mlp/down"):
        for fit in rows[f"layers/{name}/kernel"].arrays:
            assert fit.shape_mle == pytest.approx(1, abs=4 * fit.shape_error)
    assert rows["embed/embedding"].arrays[0].shape_mle == pytest.approx(2, abs=0.3)
    assert rows["final_norm/scale"].arrays[0].loc == pytest.approx(1, abs=0.1)
    sums = [sum(fit.families[i].aic for fit in up.arrays) for i in range(4)]
    assert list(up.aic.values()) == sorted(sums) and up.aic[fits.GAUSSIAN] == sums[1] == max(sums)


def test_both_ways_of_pooling_are_shown(written):
    """Pooled weights have a lower shape than after division of each array by its standard deviation."""
    report = written[0]
    pooled, scaled = report.pooled.arrays[0], report.scaled.arrays[0]
    n = models.count_params(CONFIG).total
    assert pooled.n == report.pooled.n == n and scaled.n == n - 4 * 32  # norms that are all 1 have no scale
    assert pooled.shape_mle < 0.9 < scaled.shape_mle
    assert sorted(report.left_out) == [
        f"layers/{norm}_norm/scale[{i}]" for norm in ("attention", "mlp") for i in (0, 1)
    ]


def test_the_table_has_a_row_for_each_parameter(written):
    """The terminal table shows every parameter, the range over its layers, and the pooled rows last."""
    report = written[0]
    console = Console(width=180, file=io.StringIO())
    console.print(report.table())
    text = console.file.getvalue()
    lines = [line.split("│")[1].strip() for line in text.splitlines() if "│" in line]
    assert lines == [*(row.name for row in report.parameters), fits.POOLED, fits.POOLED_SCALED]
    up = next(row for row in report.parameters if row.name == "layers/mlp/up/kernel")
    assert all(heading in text for heading in HEADER)
    assert f"{up.arrays[0].std:.3g} to {up.arrays[1].std:.3g}" in text and next(iter(up.aic)) in text


def test_the_page_is_self_contained(written):
    """The page has the table and, in both colour schemes, a figure per row and one of all shapes; it loads no files."""
    report, page, _ = written
    pictures = re.findall(r'"data:image/svg\+xml;base64,([^"]+)"', page)
    assert len(pictures) == 2 * (len(report.rows) + 1)
    assert all(b"<svg" in base64.b64decode(picture) for picture in pictures)
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page) and "<script" not in page
    for row in report.rows:
        assert f"<code>{row.name}</code>" in page
    assert "all their weights are equal or 0" in page and "packed as <code>dense</code>" in page


def test_progress_counts_the_weights(written):
    """The last call reports the total."""
    report, _, seen = written
    n = report.pooled.n
    assert {total for _, total in seen} == {3 * n} and seen[-1][0] == 3 * n
    assert all(a[0] < b[0] for a, b in zip(seen, seen[1:], strict=False))


def test_pruned_weights_show_their_zeros(run, tmp_path):
    """The share of exact zeros has a column, and the other weights keep their shape."""
    tensors = weights.load_packed(run / run_dir.WEIGHTS)
    name = "layers/mlp/up/kernel"
    w = np.asarray(weights.unpack(tensors[name]))
    tensors[name] = weights.pack(np.where(np.random.default_rng(0).random(w.shape) < 0.75, 0, w), "dense", axis=-1)
    (tmp_path / run_dir.CONFIG).write_bytes((run / run_dir.CONFIG).read_bytes())
    weights.save_packed(tmp_path / run_dir.WEIGHTS, tensors)
    row = next(row for row in weight_report(tmp_path).parameters if row.name == name)
    assert row.zeros == pytest.approx(0.75, abs=0.02) and row.cells()[3] == f"{row.zeros:.1%}"
    for fit in row.arrays:
        assert fit.shape_mle == pytest.approx(1, abs=4 * fit.shape_error) and fit.shape_moments < 0.5


def test_wrong_folders_are_refused(run, tmp_path):
    """A folder instead of a file, and a folder without a run, are errors that say what to give."""
    with pytest.raises(InputError, match="is a folder. Give the name of a file"):
        weight_report(run, out=tmp_path)
    with pytest.raises(InputError, match="was given as a run, but it has no config.json"):
        weight_report(tmp_path / "none")
