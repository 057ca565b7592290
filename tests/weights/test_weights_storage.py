"""Stored types: arrays as bytes."""

import numpy as np
import pytest

from compressed_lm.weights.storage import Choices, Codes, Floats, Levels, Mask


def test_codes_literal():
    """Codes are packed most significant bit first, without gaps, and the last byte is zero-padded."""
    assert Codes((3,), 4).to_bytes(np.array([0xA, 0xB, 0xC])) == b"\xab\xc0"
    assert Codes((3,), 3).to_bytes(np.array([5, 2, 7])) == bytes([0b10101011, 0b10000000])
    assert Codes((3,), 3).from_bytes(bytes([0b10101011, 0b10000000])).tolist() == [5, 2, 7]


def test_five_ternary_weights_a_byte():
    """Five ternary weights are one base-3 number, the first weight least significant."""
    trits = Levels((6,), (-1.0, 0.0, 1.0))
    assert trits.to_bytes(np.array([0, 1, -1, -1, 1, 1.0])) == bytes([1 + 2 * 3 + 0 + 0 + 2 * 81, 2])
    assert trits.from_bytes(bytes([169, 2])).tolist() == [0, 1, -1, -1, 1, 1]


def test_small_floats_literal():
    """bfloat16 is the upper half of float32, E8M0 is the biased exponent, and E4M3 is that of OCP OFP8."""
    assert Floats((2,), "bfloat16").to_bytes([1.0, -2.5]) == b"\x80\x3f\x20\xc0"
    assert Floats((3,), "float8_e8m0fnu").to_bytes([1.0, 0.25, 8.0]) == bytes([127, 125, 130])
    assert Floats((3,), "float8_e4m3fn").to_bytes([1.0, 448.0, 0.0]) == bytes([0x38, 0x7E, 0])


@pytest.mark.parametrize("width", range(1, 13))
@pytest.mark.parametrize("count", [0, 1, 7, 300_000])
def test_codes_come_back(width, count):
    """Codes of every width are restored, also across the blocks in which long arrays are packed."""
    codes = np.random.default_rng(0).integers(0, 2**width, count)
    stored = Codes((count,), width)
    content = stored.to_bytes(codes)
    assert len(content) == stored.nbytes == -(-count * width // 8)
    assert np.array_equal(stored.from_bytes(content), codes)


@pytest.mark.parametrize("count, ones", [(1, 0), (1, 1), (64, 0), (64, 64), (1000, 500), (1000, 249), (1000, 1)])
@pytest.mark.parametrize("place", ["random", "first", "last"])
def test_masks_come_back(count, ones, place):
    """Bitmaps and Elias-Fano codes are restored for true values at any place, and are at most as long as a bitmap."""
    mask = np.zeros(count, bool)
    if place == "random":
        mask[np.random.default_rng(ones).choice(count, ones, replace=False)] = True
    else:
        mask[slice(0, ones) if place == "first" else slice(count - ones, count)] = True
    stored = Mask((count,), ones)
    content = stored.to_bytes(mask)
    assert len(content) == stored.nbytes <= -(-count // 8)
    assert np.array_equal(stored.from_bytes(content), mask)


def test_sparse_masks_cost_less_than_half_a_bit_more_than_their_entropy():
    """Elias-Fano for 1 % of the weights takes at most 0.6 bit per place more than the entropy."""
    count, ones = 100_000, 1000
    entropy = -(0.01 * np.log2(0.01) + 0.99 * np.log2(0.99)) * count
    assert entropy < 8 * Mask((count,), ones).nbytes < entropy + 0.6 * ones


@pytest.mark.parametrize("n, m", [(1, 2), (2, 4), (1, 4), (4, 8), (3, 5), (8, 16), (4, 4)])
@pytest.mark.parametrize("length", [48, 13, 1])
def test_choices_come_back(n, m, length):
    """Masks of n of each m are restored, also if the row ends inside a group."""
    rng, mask = np.random.default_rng(0), np.zeros((3, length), bool)
    for row in mask:
        for start in range(0, length, m):
            size = min(m, length - start)
            row[start + rng.choice(size, min(n, size), replace=False)] = True
    stored = Choices((3, length), n, m)
    content = stored.to_bytes(mask)
    assert len(content) == stored.nbytes
    assert np.array_equal(stored.from_bytes(content), mask)


def test_bytes_that_no_array_has_are_errors():
    """Codes above the levels, masks with another count, and unknown combinations raise a ValueError."""
    with pytest.raises(ValueError, match="code 7 in a grid of 5 levels"):
        Levels((2,), (0.0, 1.0, 2.0, 3.0, 4.0)).from_bytes(b"\xff")
    with pytest.raises(ValueError, match="8 of 8 are set in a mask of 4"):
        Mask((8,), 4).from_bytes(b"\xff")
    with pytest.raises(ValueError, match="in a mask of 1"):
        Mask((1000,), 1).from_bytes(b"\xff" * Mask((1000,), 1).nbytes)
    with pytest.raises(ValueError, match="combination 7 of 6"):
        Choices((1, 4), 2, 4).from_bytes(b"\xff")
