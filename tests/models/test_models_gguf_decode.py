"""Tensors of GGUF files are decoded as the format describes it."""

import io
import math
import struct
from importlib.metadata import version

import ml_dtypes
import numpy as np
import pytest

from compressed_lm.errors import InputError
from compressed_lm.models.gguf import decode
from compressed_lm.models.gguf.decode import Kind
from compressed_lm.models.gguf.header import TensorPlace

gguf = pytest.importorskip("gguf")


class _File(io.BytesIO):
    name = "a.gguf"


def _half(raw):
    return struct.unpack("<e", bytes(raw))[0]


def _q4_1(block):  # scale, minimum, 16 bytes: low halves are elements 0 to 15, high halves 16 to 31
    d, m = _half(block[:2]), _half(block[2:4])
    return [d * (b & 15) + m for b in block[4:]] + [d * (b >> 4) + m for b in block[4:]]


def _q4_0(block):
    d = _half(block[:2])
    return [d * ((b & 15) - 8) for b in block[2:]] + [d * ((b >> 4) - 8) for b in block[2:]]


def _q8_0(block):
    d = _half(block[:2])
    return [d * struct.unpack("b", bytes([b]))[0] for b in block[2:]]


def _q5_0(block):  # 32 fifth bits after the scale
    d, high = _half(block[:2]), struct.unpack("<I", bytes(block[2:6]))[0]
    low = [b & 15 for b in block[6:]] + [b >> 4 for b in block[6:]]
    return [d * ((q | (high >> i & 1) << 4) - 16) for i, q in enumerate(low)]


def _scales_k4(packed):
    """6-bit scales and minima of 8 parts, in 12 bytes (get_scale_min_k4 in ggml-quants.c)."""
    found = []
    for j in range(8):
        if j < 4:
            found.append((packed[j] & 63, packed[j + 4] & 63))
        else:
            found.append((packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4))
    return found


def _q4_k(block):
    d, least, scales, q = _half(block[:2]), _half(block[2:4]), _scales_k4(block[4:16]), block[16:]
    values = []
    for j in range(8):  # 64 elements share 32 bytes: first the low halves, then the high ones
        part = q[j // 2 * 32 : j // 2 * 32 + 32]
        values += [d * scales[j][0] * (b >> 4 if j % 2 else b & 15) - least * scales[j][1] for b in part]
    return values


def _q6_k(block):
    low, high, scales, d = block[:128], block[128:192], block[192:208], _half(block[208:210])
    values = [0.0] * 256
    for n in range(2):  # halves of 128 elements
        for i in range(32):
            for k in range(4):
                four = low[64 * n + 32 * (k % 2) + i]
                four = four >> 4 if k > 1 else four & 15
                q = (four | (high[32 * n + i] >> 2 * k & 3) << 4) - 32
                at = 128 * n + 32 * k + i
                values[at] = d * struct.unpack("b", bytes([scales[at // 16]]))[0] * q
    return values


BY_HAND = {"Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q8_0": _q8_0, "Q4_K": _q4_k, "Q6_K": _q6_k}
SCALES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q8_0": [0], "Q4_K": [0, 2], "Q6_K": [208]}


def _kind(name):
    return Kind(int(gguf.GGMLQuantizationType[name]), "t")


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("slice_", [64, 1 << 18])
def test_blocks_are_decoded_as_described(name, slice_, monkeypatch):
    """Random blocks have the values of a second implementation, also when a tensor is decoded in several slices."""
    monkeypatch.setattr(decode, "SLICE", slice_)
    kind, rng = _kind(name), np.random.default_rng(len(name) + slice_)
    blocks = rng.integers(0, 256, (24, kind.block_bytes), dtype=np.uint8)
    for at in SCALES[name]:
        blocks[:, at : at + 2] = rng.normal(0, 1e-2, 24).astype(np.float16)[:, None].view(np.uint8)
    found = kind.read(_File(b"head" + blocks.tobytes()), 4, (4, 6 * kind.block))
    expected = np.array([BY_HAND[name](block.tolist()) for block in blocks], np.float64).reshape(found.shape)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-7 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_quantised_numbers_come_back_near(name):
    """What the package encodes is decoded with an error of at most one step."""
    kind, x = _kind(name), np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)
    raw = gguf.quants.quantize(x, gguf.GGMLQuantizationType[name])
    step = np.abs(x).max() / {"8": 127, "5": 15, "4": 7}[name[1]]
    assert np.abs(kind.read(_File(raw.tobytes()), 0, x.shape) - x).max() <= step


@pytest.mark.parametrize("name", ["Q2_K", "Q3_K", "Q5_K", "IQ4_NL", "IQ4_XS", "TQ1_0", "MXFP4"])
def test_other_types_are_those_of_the_package(name):
    """A tensor decoded in slices is that of gguf.quants, decoded at once."""
    if name not in gguf.GGMLQuantizationType.__members__:
        pytest.skip(f"gguf {version('gguf')} has no type {name}")
    kind = _kind(name)
    raw = np.zeros((6, kind.block_bytes), np.uint8)
    raw[:, 2:-4] = np.random.default_rng(1).integers(0, 60, (6, kind.block_bytes - 6))
    found = kind.read(_File(raw.tobytes()), 0, (6, kind.block))
    np.testing.assert_array_equal(found, gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[name]))


def test_plain_types_keep_their_bits():
    """F64, F32, F16 and BF16 are returned as they are stored, NaN included."""
    for name, dtype in dict(F64=np.float64, F32=np.float32, F16=np.float16, BF16=ml_dtypes.bfloat16).items():
        x = np.array([[1.5, -0.0, math.inf], [math.nan, 3e-6, -1e4]]).astype(dtype)
        found = _kind(name).read(_File(x.tobytes()), 0, (2, 3))
        assert found.dtype == dtype and _kind(name).dtype == np.dtype(dtype).name
        assert found.tobytes() == x.tobytes()


def test_a_large_tensor_takes_its_own_memory(tmp_path):
    """Decoding 64 MiB of float32 allocates at most 12 MiB more than the result."""
    import tracemalloc

    kind = _kind("Q4_K")
    path = tmp_path / "a.gguf"
    path.write_bytes(bytes((1 << 24) // kind.block * kind.block_bytes))
    tracemalloc.start()
    with open(path, "rb") as file:
        assert kind.read(file, 0, (1 << 12, 1 << 12)).nbytes == 64 << 20
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 76 << 20


def test_types_that_cannot_be_decoded_are_refused():
    """Integers, types without a decoder and unknown numbers name the tensor; rows are whole blocks."""
    for number, text in ((24, "type I8"), (26, "type I32"), (15, "type Q8_K"), (1000, "type number 1000")):
        with pytest.raises(InputError, match=f"The tensor w has the {text}, which"):
            Kind(number, "w")
    with pytest.raises(InputError, match="w of type Q4_K has rows of 128 elements; a multiple of 256"):
        _kind("Q4_K").nbytes(TensorPlace((2, 128), 12, 0), "w")
    assert _kind("Q4_K").nbytes(TensorPlace((2, 512), 12, 0), "w") == 4 * 144
    with pytest.raises(InputError, match="a.gguf ends inside a tensor"):
        _kind("F32").read(_File(bytes(15)), 0, (4,))
