"""A finished run packs into the bits that are claimed, and opens as the same numbers."""

import json
import math

import jax
import numpy as np
import pytest

from compressed_lm import training, weights
from compressed_lm.errors import InputError
from compressed_lm.post_training.quantize import quantize_run


@pytest.fixture(scope="module")
def run(small_run, tmp_path_factory):
    """The folder of a finished run."""
    out = tmp_path_factory.mktemp("packed") / "run"
    small_run(out)
    return out


def is_matrix(path):
    return path[0].key == "layers" and path[-1].key == "kernel"


@pytest.mark.parametrize("spec", ["int(b=4,g=16)", "sparse(s=0.5)+int(b=3)", "vq(dim=2,bits=2)"])
def test_a_packed_run_opens_as_what_the_format_makes_of_it(run, spec, tmp_path):
    """Matrices of the blocks are `quantize` of the checkpoint's, to the bit; everything else is the checkpoint's."""
    matrices = quantize_run(run, spec, out=tmp_path / "packed")
    form, dense, found = weights.representation(spec), training.load_run(run), training.load_run(tmp_path / "packed")
    expected = jax.tree.map_with_path(lambda p, x: form.quantize(x) if is_matrix(p) else x, dense.params)
    jax.tree.map(np.testing.assert_array_equal, found.params, expected)
    assert (found.step, found.weights, found.model_config.weights) == (dense.step, str(form), "dense")
    assert len(matrices) == 7
    for m in matrices:
        assert m.bits_per_weight == pytest.approx(form.bits_per_weight(m.shape))
        assert 0.2 < m.error / form.gmse() < 5  # small matrices, and not Gaussian after training


def test_the_file_has_the_bits_that_are_claimed(run, tmp_path):
    """Stored bytes are the claimed bits of the matrices, 16 bits for each other number, and a header of names."""
    matrices = quantize_run(run, "int(b=4)", out=tmp_path / "packed", others="dense(dtype=bfloat16)")
    params = training.load_run(run).params
    claimed = sum(m.bits_per_weight * math.prod(m.shape) for m in matrices)
    claimed += sum(16 * x.size for p, x in jax.tree.leaves_with_path(params) if not is_matrix(p))
    header = len(json.dumps([m.name for m in matrices]))
    assert claimed / 8 < (tmp_path / "packed" / "weights.clw").stat().st_size < claimed / 8 + 40 * header


@pytest.mark.slow("trains models before and after")
def test_a_run_trained_with_a_format_packs_without_loss(small_run, tmp_path):
    """A model that was trained with learned steps computes the same after packing: its own steps are stored."""
    spec = "int(b=4,rule=lsq)"
    config = dict(weights=spec)
    run = training.train(
        small_run.config.__class__(steps=3, batch_size=8, seq_len=16),
        small_run.model.__class__(**{**small_run.model.__dict__, **config}),
        small_run.store,
        out=tmp_path / "run",
        mesh_shape=(1, 1, 1),
    )
    quantize_run(tmp_path / "run", spec, out=tmp_path / "packed")
    form, found = weights.representation(spec), training.load_run(tmp_path / "packed").params
    up = run.params["layers"]["mlp"]["up"]
    np.testing.assert_array_equal(
        found["layers"]["mlp"]["up"]["kernel"], form.quantize(up["kernel"], params={"scale": up["weights_scale"]})
    )
    assert set(found["layers"]["mlp"]["up"]) == {"kernel"}


def test_what_cannot_be_packed_is_refused(run, tmp_path):
    """A folder in use, a format that stores nothing and a damaged file are named, and nothing is written over."""
    with pytest.raises(InputError, match="cannot be stored"):
        quantize_run(run, "noise(gmse=0.1)", out=tmp_path / "noise")
    assert not (tmp_path / "noise").exists()
    quantize_run(run, "ternary", out=tmp_path / "packed")
    with pytest.raises(InputError, match="is not empty; give a new folder"):
        quantize_run(run, "ternary", out=tmp_path / "packed")
    path = tmp_path / "packed" / "weights.clw"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="truncated or changed"):
        training.load_run(tmp_path / "packed")


def test_weights_of_another_run_are_refused(small_run, run, tmp_path):
    """A weights.clw of another run of the same shape is refused, although its own checksum is right."""
    small_run(tmp_path / "other", seed=4)
    for source, name in ((run, "a"), (tmp_path / "other", "b")):
        quantize_run(source, "int(b=4,g=16)", out=tmp_path / name)
    (tmp_path / "a" / "weights.clw").write_bytes((tmp_path / "b" / "weights.clw").read_bytes())
    with pytest.raises(InputError, match="weights.clw is not the file that .*config.json was written with"):
        training.load_run(tmp_path / "a")
