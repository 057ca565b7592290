"""A finished run in one file: of the size claimed, and opened again as the quantised weights, bit for bit."""

import json
import math

import jax
import numpy as np
import pytest

from compressed_lm import training, weights
from compressed_lm.coding import exp_golomb, levels
from compressed_lm.errors import InputError
from compressed_lm.post_training import quantize
from compressed_lm.post_training.entropy_code import bits_per_weight, pack_run, unpack_run
from compressed_lm.post_training.quantize import quantize_run
from compressed_lm.weights import bitstream


@pytest.fixture(scope="module")
def run(small_run, tmp_path_factory):
    """The folder of a finished run."""
    out = tmp_path_factory.mktemp("coded") / "run"
    small_run(out)
    return out


def is_quantised(path):
    return path[-1].key in ("kernel", "embedding")


@pytest.mark.thinned(1, "trains models before and after")
@pytest.mark.parametrize("coder", ["range", "eg0", "eg", "rice", "raw"])
def test_an_unpacked_run_opens_as_the_quantised_weights(run, coder, tmp_path):
    """Kernels and embeddings are the levels times the step, to the bit; norm scales are the checkpoint's."""
    pack_run(run, step="0.25std", coder=coder, out=tmp_path / "file")
    unpack_run(tmp_path / "file", out=tmp_path / "unpacked")
    before, after = training.load_run(run), training.load_run(tmp_path / "unpacked")

    def expected(path, w):
        w = np.asarray(w)
        step = np.float32(0.25 * np.asarray(w, np.float64).std())
        return np.rint(w / np.float64(step)).astype(np.float32) * step

    wanted = jax.tree.map_with_path(lambda p, w: expected(p, w) if is_quantised(p) else w, before.params)
    jax.tree.map(np.testing.assert_array_equal, after.params, wanted)
    assert (after.step, after.weights, after.model_config) == (before.step, "dense", before.model_config)
    assert after.loss_nats_per_token == before.loss_nats_per_token
    assert (after.packed["step"], after.packed["coder"]) == ("0.25std", coder)


def test_the_file_has_the_bytes_that_are_claimed(run, tmp_path):
    """The file is its payloads, of the bits claimed for each parameter, and a header of names and settings."""
    rows = pack_run(run, step="0.25std", out=tmp_path / "file")
    sizes = {"/".join(k.key for k in p): w.size for p, w in jax.tree.leaves_with_path(training.load_run(run).params)}
    assert {row.name: math.prod(row.shape) for row in rows} == sizes
    payloads = sum(row.bits_per_weight * sizes[row.name] / 8 for row in rows)
    assert payloads + 200 < (tmp_path / "file").stat().st_size < payloads + 1500
    coded, record = bitstream.load(tmp_path / "file")
    assert sum(t.nbytes for t in coded.values()) == payloads
    assert record["packed"]["bits_per_weight"] == bits_per_weight(rows)


def test_the_rows_tell_the_truth(run, tmp_path):
    """Entropy, EG0 bits, error and step of each row are those of the levels in the file."""
    rows = pack_run(run, step="0.1", out=tmp_path / "new" / "file")
    coded, _ = bitstream.load(tmp_path / "new" / "file")
    leaves = jax.tree.leaves(training.load_run(run).params)
    for row, w in zip(rows, map(np.asarray, leaves), strict=True):
        if row.step is None:
            assert row.name.endswith("scale") and row.bits_per_weight == 32 and row.entropy is row.eg0 is None
            continue
        found = bitstream.unpack_levels(coded[row.name])
        assert row.step == float(np.float32(0.1))
        assert row.n_levels == len(np.unique(found))
        assert row.entropy == levels.empirical_entropy(found)
        assert row.eg0 == pytest.approx(exp_golomb.code_lengths(exp_golomb.zigzag(found)).mean())
        assert row.error == pytest.approx(np.square(bitstream.unpack(coded[row.name]) - w).mean() / np.square(w).mean())
        assert row.entropy <= row.bits_per_weight + 1e-9


def test_a_packed_run_packs_again(run, tmp_path):
    """A run in int(b=4), whose values are floats by then, and an unpacked run both pack like any other."""
    quantize_run(run, "int(b=4)", out=tmp_path / "int4")
    pack_run(tmp_path / "int4", step="0.01", out=tmp_path / "a")
    unpack_run(tmp_path / "a", out=tmp_path / "once")
    pack_run(tmp_path / "once", step="0.01", out=tmp_path / "b")
    unpack_run(tmp_path / "b", out=tmp_path / "twice")
    once, twice = (training.load_run(tmp_path / name) for name in ("once", "twice"))
    jax.tree.map(np.testing.assert_array_equal, once.params, twice.params)


def test_what_cannot_be_packed_is_refused(run, tmp_path):
    """Files and folders in use, bad steps, damaged files and files of no run are named; nothing is written over."""
    taken = tmp_path / "taken"
    taken.write_text("mine")
    with pytest.raises(InputError, match="taken was given for the packed run and exists; give a new file"):
        pack_run(run, step="0.25std", out=taken)
    assert taken.read_text() == "mine"
    with pytest.raises(InputError, match="embed/embedding: A step of .*Take a larger step"):
        pack_run(run, step="1e-12", out=tmp_path / "file")
    with pytest.raises(InputError, match="no coder 'huffman'"):
        pack_run(run, step="0.25std", coder="huffman", out=tmp_path / "file")
    assert not (tmp_path / "file").exists()
    pack_run(run, step="0.25std", out=tmp_path / "file")
    with pytest.raises(InputError, match="is not empty; give a new folder"):
        unpack_run(tmp_path / "file", out=run)
    (tmp_path / "cut").write_bytes((tmp_path / "file").read_bytes()[:-9])
    with pytest.raises(InputError, match="cut was truncated or changed"):
        unpack_run(tmp_path / "cut", out=tmp_path / "unpacked")
    bitstream.save(tmp_path / "bare", {}, record={})
    with pytest.raises(InputError, match="bare holds coded weights but no run"):
        unpack_run(tmp_path / "bare", out=tmp_path / "unpacked")
    assert not (tmp_path / "unpacked").exists()


def test_weights_that_are_not_finite_are_named(run, tmp_path):
    """A run that diverged is refused with the name of the parameter."""
    quantize_run(run, "dense", out=tmp_path / "bad")
    path = tmp_path / "bad" / "weights.clw"
    tensors = weights.load_packed(path)
    name = "layers/mlp/up/kernel"
    w = weights.unpack(tensors[name]).copy()
    w[0, 0, 0] = np.nan
    record = json.loads((tmp_path / "bad" / "config.json").read_text())
    quantize.write(tmp_path / "bad", record, tensors | {name: weights.pack(w, "dense")})
    with pytest.raises(InputError, match="1 of the 512 numbers of layers/mlp/up/kernel .* are NaN or infinite"):
        pack_run(tmp_path / "bad", step="0.25std", out=tmp_path / "file")
