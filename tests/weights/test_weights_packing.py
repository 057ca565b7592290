"""Packed weights are exact, have the documented size, and are safe to load."""

import hashlib
import json
import math
import struct

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from compressed_lm import weights
from compressed_lm.errors import InputError
from compressed_lm.weights import packing

SHAPE = (2, 133, 5)  # shared by most tests: JAX compiles each operation once per shape


@pytest.mark.thinned(5, "compiles each format")
def test_unpack_is_quantize_bit_for_bit(stored, request):
    """Unpacked weights equal `quantize` for stacks of kernels with zeros, outliers and many orders of magnitude.

    Each family is also tested with activations and a single weight: odd, even and tiny sizes.
    """
    rep = weights.representation(stored)
    rng = np.random.default_rng(0)
    others = [((3, 64), -1), ((1,), -1)] if request.node.get_closest_marker("slow") is None else []
    for shape, axis in [(SHAPE, -2), *others]:
        w = (rng.standard_normal(shape) * np.exp(2 * rng.standard_normal(shape))).astype(np.float32)
        w[..., 0] = 0
        params = rep.init_params(w, axis=axis)
        packed = weights.pack(w, rep, params=params, axis=axis)
        expected = np.asarray(rep.quantize(w, params=params, axis=axis))
        np.testing.assert_array_equal(weights.unpack(packed).view(np.int32), expected.view(np.int32))
        assert packed.spec == str(rep)
        assert packed.bits_per_weight == rep.bits_per_weight(shape, axis=axis) == 8 * packed.nbytes / math.prod(shape)
        assert np.isfinite(expected).all()


@pytest.mark.thinned(6, "compiles each format")
def test_unpack_is_what_a_compiled_step_computes(stored):
    """Values in a jitted function, also for bfloat16 weights, equal the stored ones."""
    rep, w = weights.representation(stored), jax.random.normal(jax.random.key(0), SHAPE).astype(jnp.bfloat16)
    params = rep.init_params(w)
    unpacked = weights.unpack(weights.pack(w, rep, params=params))
    step = jax.jit(lambda w, p: [rep.quantize(x * 1.0, params=p) for x in (w.astype(jnp.float32), w)])
    from_float32, from_bfloat16 = step(w, params)
    np.testing.assert_array_equal(from_float32, unpacked)
    np.testing.assert_array_equal(from_bfloat16, jnp.asarray(unpacked).astype(jnp.bfloat16))


@pytest.mark.parametrize("spec, floor", [("ternary", 1.585), ("sparse(s=0.99)", 0.0808 + 0.32), ("nm+int(b=4)", 2.646)])
def test_sizes_are_near_the_entropy(spec, floor):
    """Base-3 digits, places of few weights and n:m choices take at most 15 % more than the entropy."""
    bits = weights.pack(jax.random.normal(jax.random.key(0), (512, 512)), spec).bits_per_weight
    assert floor < bits < 1.15 * floor


def _tensors():
    w = jax.random.normal(jax.random.key(0), (48, 8))
    return {
        "layer/kernel": weights.pack(w, "int(b=4,rule=quest)"),
        "mlp": weights.pack(w, "sparse(s=0.5)+mxfp4"),
        "norm": weights.pack(jnp.ones(8), "dense", axis=-1),
    }


def test_a_file_comes_back(tmp_path):
    """A loaded file has the same names, order, shapes and payloads, and its header is short."""
    tensors, path = _tensors(), tmp_path / "weights.clw"
    weights.save_packed(path, tensors)
    loaded = weights.load_packed(path)
    assert loaded == tensors and list(loaded) == list(tensors)
    assert path.stat().st_size - sum(t.nbytes for t in tensors.values()) < 500
    assert [p.name for p in tmp_path.iterdir()] == ["weights.clw"]
    weights.save_packed(path, {})
    assert weights.load_packed(path) == {}


@pytest.mark.parametrize(
    "spec", ["int(b=3)", "rf8", "nvfp4", "sparse(s=0.9,rule=rbbm,p=0.2)", "nm+int(b=4)", "sparse(s=1)"]
)
def test_size_on_disk_is_the_size_claimed(tmp_path, spec):
    """The file of a 512 x 512 kernel, with header, has the computed size of masks, scales and codes to 1 %."""
    rep, w = weights.representation(spec), jax.random.normal(jax.random.key(0), (512, 512))
    weights.save_packed(tmp_path / "w", {"w": weights.pack(w, rep)})
    size = 8 * (tmp_path / "w").stat().st_size / w.size
    # For 512 x 512 zeros, only the header is stored.
    assert size == pytest.approx(rep.bits_per_weight(w.shape), rel=0.01, abs=0.01 if spec == "sparse(s=1)" else 0)


def test_every_truncation_and_change_is_found(tmp_path):
    """A file truncated or changed in one byte at any place raises an InputError."""
    path = tmp_path / "weights.clw"
    weights.save_packed(path, _tensors())
    content = path.read_bytes()
    for place in [*range(0, 60, 7), *range(60, len(content), 97), len(content) - 1]:
        changed = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        for bad in (content[:place], changed):
            path.write_bytes(bad)
            with pytest.raises(InputError, match="is not a file of packed weights|was truncated or changed"):
                weights.load_packed(path)


def _write(path, header, payload=b""):
    text = json.dumps(header).encode()
    body = packing.MAGIC + struct.pack("<I", len(text)) + text + payload
    path.write_bytes(body + hashlib.sha256(body).digest())


@pytest.mark.parametrize(
    "header, message",
    [
        ({"format_version": 2}, "format version 2; this package reads version 1"),
        ({"format_version": 1}, "header that cannot be read"),
        ([], "header that cannot be read"),
        ({"format_version": 1, "tensors": []}, "3 bytes that no entry describes"),
        (
            {"format_version": 1, "tensors": [{"name": "w", "spec": "dense", "shape": [9], "axis": -1, "nbytes": 36}]},
            "header that cannot be read",
        ),
        (
            {"format_version": 1, "tensors": [{"name": "w", "spec": "dense", "shape": [-9], "axis": -1, "nbytes": 3}]},
            "header that cannot be read",
        ),
    ],
)
def test_foreign_headers_are_refused(tmp_path, header, message):
    """An invalid header with a valid checksum raises an InputError."""
    _write(tmp_path / "w", header, b"abc")
    with pytest.raises(InputError, match=message):
        weights.load_packed(tmp_path / "w")


def test_bad_payloads_are_refused():
    """A payload of the wrong size or with invalid codes, and a missing file, raise an InputError."""
    with pytest.raises(InputError, match="A payload of 3 bytes was given for int.b=4. .* expected 10"):
        weights.unpack(packing.PackedTensor("int(b=4)", (16, 1), -2, b"abc"))
    with pytest.raises(InputError, match="values has code 15"):
        weights.unpack(packing.PackedTensor("fp(e=2,m=1)", (16, 1), -2, b"\xff" * 10))
    with pytest.raises(InputError, match="mask has 16 of 16 are set"):
        weights.unpack(packing.PackedTensor("sparse(s=0.5)", (16, 1), -2, b"\xff" * 34))
    with pytest.raises(InputError, match="cannot be read"):
        weights.load_packed("no/such/file")


def test_an_unknown_spec_in_a_file_is_an_input_error():
    """Unknown formats, as in files of later versions, raise an InputError."""
    with pytest.raises(InputError, match="no representation 'fp3'"):
        weights.unpack(packing.PackedTensor("fp3", (4, 4), -2, b""))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_dense_arrays_keep_their_type(dtype, tmp_path):
    """Written in pieces, arrays come back to the bit in their type, and in float32 by `unpack`; a wrong size fails."""
    arrays = {"a": np.arange(12).reshape(3, 4).astype(dtype), "b": np.array([-0.0, 3e-5], dtype)}
    described = {name: (x.shape, x.dtype) for name, x in arrays.items()}
    for content in (arrays.values(), [x.tobytes() for x in arrays.values()]):
        weights.save_dense(tmp_path / "file", described, content)
        for name, packed in weights.load_packed(tmp_path / "file").items():
            assert weights.stored(packed).dtype == dtype
            assert weights.stored(packed).tobytes() == arrays[name].tobytes()
            assert weights.unpack(packed).dtype == np.float32
            np.testing.assert_array_equal(weights.unpack(packed), arrays[name].astype(np.float32))
    with pytest.raises(ValueError, match="bytes were given"):
        weights.save_dense(tmp_path / "other", described, [arrays["a"]])
    assert not (tmp_path / "other").exists()
