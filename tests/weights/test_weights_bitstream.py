"""Coded weights are decoded exactly, have the documented sizes near the entropy, and are safe to load."""

import hashlib
import json
import struct
import zlib

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from compressed_lm.coding import exp_golomb, levels
from compressed_lm.errors import InputError
from compressed_lm.weights import bitstream, packing

QUANTISED = ["range", "eg0", "eg", "rice", "raw"]
KNOWN = "Known: range, eg0, eg, rice, raw, float32"


@pytest.mark.parametrize("coder", QUANTISED)
@settings(max_examples=60, deadline=None)
@given(
    w=arrays(
        np.float32,
        st.sampled_from([(0,), (1,), (7,), (3, 4), (2, 3, 5)]),
        elements=st.one_of(st.just(0.0), st.floats(-1, 1, width=32), st.floats(-1000, 1000, width=32)),
    ),
    step=st.sampled_from(["0.001", "0.3", "7", "0.01std", "0.25std", "3std"]),
)
def test_unpack_is_quantize_bit_for_bit(coder, w, step):
    """Empty, single, equal, tiny and large weights are decoded to the nearest multiple of the step."""
    coded = bitstream.pack(w, step=step, coder=coder)
    found = bitstream.unpack(coded)
    assert found.dtype == np.float32 and found.shape == w.shape == coded.shape
    np.testing.assert_array_equal(found.view(np.int32), bitstream.quantize(w, step).view(np.int32))
    assert (np.abs(found.astype(np.float64) - w) <= coded.step / 2 + 1e-6 * np.abs(w)).all()
    nearest = np.rint(w / np.float64(coded.step))
    np.testing.assert_array_equal(bitstream.unpack_levels(coded), nearest)
    np.testing.assert_array_equal(found, nearest.astype(np.float32) * np.float32(coded.step))


@pytest.mark.parametrize("coder", QUANTISED)
def test_levels_up_to_the_largest_come_back(coder):
    """The largest levels of either sign, among zeros, are decoded exactly."""
    w = np.zeros(3_000, np.float32)
    w[[5, 1000, 2999]] = [2**31 - 128, -(2**31) + 128, 3]
    np.testing.assert_array_equal(bitstream.unpack(bitstream.pack(w, step=1, coder=coder)), w)
    np.testing.assert_array_equal(
        bitstream.unpack_levels(bitstream.pack(w[:6], step=2.0**-0, coder=coder)), w[:6].astype(np.int64)
    )


@settings(max_examples=60, deadline=None)
@given(arrays(np.float32, (5,), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_float32_keeps_the_bits(w):
    """The coder float32 stores all finite numbers exactly, including subnormal numbers and negative zero."""
    coded = bitstream.pack(w, coder="float32")
    assert (coded.step, coded.bits_per_weight) == (None, 32)
    np.testing.assert_array_equal(bitstream.unpack(coded).view(np.int32), w.view(np.int32))


def test_sizes_of_the_coders():
    """The sizes of a million Laplacian weights are the documented ones.

    range is within 1 % of the entropy, exp-Golomb and Rice have their computed lengths, raw has the least whole bits.
    """
    w = np.random.default_rng(0).laplace(size=(1000, 1000)).astype(np.float32)
    coded = {coder: bitstream.pack(w, step="0.25std", coder=coder) for coder in QUANTISED}
    found = bitstream.unpack_levels(coded["range"])
    entropy, values = levels.empirical_entropy(found), exp_golomb.zigzag(found)
    bits = {coder: tensor.bits_per_weight for coder, tensor in coded.items()}
    assert entropy == pytest.approx(3.949, rel=0.01)  # papers/002 section 3
    assert entropy < bits["range"] < 1.01 * entropy
    assert bits["eg0"] == pytest.approx(4.582, rel=0.01)
    assert bits["eg0"] == pytest.approx(exp_golomb.code_lengths(values).mean(), abs=1e-4)
    assert bits["eg"] == pytest.approx(min(exp_golomb.code_lengths(values, order=k).mean() for k in range(9)), abs=1e-4)
    assert bits["rice"] == pytest.approx(
        min(exp_golomb.rice_lengths(values, order=k).mean() for k in range(9)), abs=1e-4
    )
    assert bits["raw"] == pytest.approx(int(np.ptp(found)).bit_length(), abs=1e-3)
    assert bits["range"] < bits["rice"] < bits["eg0"] < bits["raw"]


def test_steps():
    """A step is a float32, either absolute or a multiple of the tensor's standard deviation."""
    w = np.float32([1, -1, 3, -3])
    assert bitstream.pack(w, step="0.25std", coder="range").step == float(np.float32(0.25 * 5**0.5))
    assert bitstream.pack(w, step=0.1, coder="range").step == float(np.float32(0.1))
    assert bitstream.quantize(np.float32([0.5, 1.5, -0.5, 2.4]), 1).tolist() == [0, 2, 0, 2]
    # If the deviation is 0, the root mean square is the unit, so equal weights are unchanged.
    assert bitstream.quantize(np.full(5, 0.75, np.float32), "0.25std").tolist() == [0.75] * 5
    assert bitstream.quantize(np.zeros(5, np.float32), "0.25std").tolist() == [0] * 5
    for spec, shown in [("0.25std", "0.25std"), (" 1 STD ", "1std"), ("1e-3", "0.001"), (2, "2"), (".5", "0.5")]:
        assert str(bitstream.parse_step(spec)) == shown
    for bad in ["0", "-1", "std", "", "nan", "inf", "1e999", "0.25sd", "1.2.3"]:
        with pytest.raises(InputError, match="expected a positive number, such as 0.01, or one with std"):
            bitstream.parse_step(bad)


def test_weights_that_cannot_be_coded_are_refused():
    """NaN, infinity, integers, a step that is too small or missing, and an unknown coder are reported."""
    for bad in (np.nan, np.inf, -np.inf):
        for coder in ("range", "float32"):
            with pytest.raises(InputError, match="1 of 3 weights are NaN or infinite"):
                bitstream.pack(np.float32([0, bad, 1]), step=1, coder=coder)
    with pytest.raises(InputError, match="An array of int64 was given"):
        bitstream.pack(np.arange(3), step=1, coder="range")
    with pytest.raises(InputError, match="step of 1e-10 was given for weights of up to 3, .*Take a larger step"):
        bitstream.pack(np.float32([3]), step=1e-10, coder="raw")
    with pytest.raises(InputError, match="No step was given for the coder eg0"):
        bitstream.pack(np.float32([3]), coder="eg0")
    with pytest.raises(InputError, match=f"There is no coder 'rage'. Did you mean range. {KNOWN}"):
        bitstream.pack(np.float32([3]), step=1, coder="rage")


def test_bfloat16_weights_are_taken_as_float32():
    """The levels of bfloat16 weights equal those of the same numbers in float32."""
    w = jnp.linspace(-1, 1, 50, dtype=jnp.bfloat16)
    np.testing.assert_array_equal(bitstream.quantize(w, 0.01), bitstream.quantize(np.asarray(w, np.float32), 0.01))


def _tensors():
    w = np.random.default_rng(0).laplace(size=(30, 8)).astype(np.float32)
    tensors = {f"layers/{coder}/kernel": bitstream.pack(w, step="0.25std", coder=coder) for coder in QUANTISED}
    return tensors | {"norm": bitstream.pack(np.ones(8, np.float32), coder="float32")}


def test_a_file_comes_back(tmp_path):
    """A loaded file has the same names, order, shapes, steps, payloads and record, and its header is short."""
    tensors, path = _tensors(), tmp_path / "w.clb"
    bitstream.save(path, tensors, record={"model": {"d_model": 8}})
    loaded, record = bitstream.load(path)
    assert loaded == tensors and list(loaded) == list(tensors) and record == {"model": {"d_model": 8}}
    assert path.stat().st_size - sum(t.nbytes for t in tensors.values()) < 400
    assert [p.name for p in tmp_path.iterdir()] == ["w.clb"]
    bitstream.save(path, {}, record={})
    assert bitstream.load(path) == ({}, {})


def test_every_truncation_and_change_is_found(tmp_path):
    """A file truncated or changed in one byte at any place raises an InputError."""
    path = tmp_path / "w.clb"
    bitstream.save(path, _tensors(), record={})
    content = path.read_bytes()
    for place in [*range(0, 60, 3), *range(60, len(content), 41), len(content) - 1]:
        changed = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        for bad in (content[:place], changed):
            path.write_bytes(bad)
            with pytest.raises(InputError, match="is not a file of coded weights|was truncated or changed"):
                bitstream.load(path)
    path.write_bytes(packing.MAGIC + content[8:])
    with pytest.raises(InputError, match="is not a file of coded weights: .* `compressed-lm pack` writes"):
        bitstream.load(path)
    with pytest.raises(InputError, match="cannot be read"):
        bitstream.load(tmp_path / "missing")


def _write(path, header, payload=b"abc", *, deflate=zlib.compress):
    text = deflate(json.dumps(header).encode())
    body = bitstream.MAGIC + struct.pack("<I", len(text)) + text + payload
    path.write_bytes(body + hashlib.sha256(body).digest())


def _entry(**changes):
    entry = {"name": "w", "shape": [3], "step": 1.0, "coder": "eg0", "nbytes": 3} | changes
    return {"format_version": 1, "record": {}, "tensors": [entry]}


@pytest.mark.parametrize(
    "header, message",
    [
        ({"format_version": 2}, "format version 2; this package reads version 1"),
        ({"format_version": 1}, "header that cannot be read"),
        ([], "header that cannot be read"),
        ({"format_version": 1, "tensors": []}, "3 bytes that no entry describes"),
        (_entry(nbytes=4), "header that cannot be read"),
        (_entry(shape=[-3]), "header that cannot be read"),
        (_entry(step=0), "header that cannot be read"),
        (_entry(step=float("nan")), "header that cannot be read"),
        (_entry(step="1"), "header that cannot be read"),
        (_entry(step=None), "header that cannot be read"),
        (_entry(coder="float32"), "header that cannot be read"),
        ({**_entry(), "tensors": [{"name": "w"}]}, "header that cannot be read"),
    ],
)
def test_foreign_headers_are_refused(tmp_path, header, message):
    """An invalid header with a valid checksum raises an InputError."""
    _write(tmp_path / "w", header)
    with pytest.raises(InputError, match=message):
        bitstream.load(tmp_path / "w")


@pytest.mark.parametrize(
    "deflate", [bytes, lambda text: zlib.compress(text)[:-1], lambda text: zlib.compress(text) + b"x"]
)
def test_headers_that_are_not_deflated_are_refused(tmp_path, deflate):
    """A header that is not deflated, truncated or followed by other bytes raises an InputError."""
    _write(tmp_path / "w", _entry(), deflate=deflate)
    with pytest.raises(InputError, match="header that cannot be read"):
        bitstream.load(tmp_path / "w")


def test_bad_payloads_are_refused():
    """Payloads that the coder did not write, and unknown coders, raise an InputError."""
    for coder in [*QUANTISED, "float32"]:
        for payload in (b"", b"\xff" * 50, b"\0" * 50):
            step = None if coder == "float32" else 1.0
            with pytest.raises(InputError, match=f"the coder {coder} and the shape .16, 2. cannot be read"):
                bitstream.unpack(bitstream.CodedTensor((16, 2), step, coder, payload))
    with pytest.raises(InputError, match=f"There is no coder 'huffman'. {KNOWN}"):
        bitstream.unpack(bitstream.CodedTensor((4,), 1.0, "huffman", b""))


def test_small_files_travel_with_the_weights(tmp_path):
    """Texts and bytes come back; files without them have no entry; too large ones do not fit."""
    files = {"a.json": '{"Ġ": "ü"}'.encode(), "b.model": bytes(range(256)), "c": b""}
    bitstream.save(tmp_path / "file", _tensors(), record={}, files=files)
    assert bitstream.load_with_files(tmp_path / "file")[2] == files
    bitstream.save(tmp_path / "bare", _tensors(), record={})
    bitstream.save(tmp_path / "none", _tensors(), record={}, files={})
    assert (tmp_path / "bare").read_bytes() == (tmp_path / "none").read_bytes()
    assert bitstream.fits(files) and not bitstream.fits({"a": bytes(50 << 20)})
