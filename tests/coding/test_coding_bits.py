"""Packing of codes into tokens."""

import numpy as np
import pytest

from compressed_lm.coding import bits


def test_repack_literal():
    """Three 12-bit codes are nine 4-bit fields, four and a half bytes, or two and a quarter 16-bit fields."""
    codes = [0xABC, 0xDEF, 0x123]
    assert bits.repack(codes, 12, 4).tolist() == [0xA, 0xB, 0xC, 0xD, 0xE, 0xF, 1, 2, 3]
    assert bits.repack(codes, 12, 8).tolist() == [0xAB, 0xCD, 0xEF, 0x12, 0x30]
    assert bits.repack(codes, 12, 16).tolist() == [0xABCD, 0xEF12, 0x3000]
    assert bits.unpack([0xAB, 0xCD, 0xEF, 0x12, 0x30], 8, 12).tolist() == codes


@pytest.mark.parametrize("code_bits", [12, 16, 24, 32])
@pytest.mark.parametrize("to", [8, 12, 16])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 17])
def test_unpack_undoes_repack(code_bits, to, n):
    """If a code is at least as wide as a token, the padding is shorter than a code and the codes round-trip."""
    codes = np.random.default_rng(n).integers(0, 2**code_bits, n).astype(np.uint32)
    if code_bits >= to:
        assert bits.unpack(bits.repack(codes, code_bits, to), to, code_bits).tolist() == codes.tolist()


def test_vocabulary_must_be_a_power_of_two():
    """The error of token_bits contains the given and the expected value."""
    assert [bits.token_bits(v) for v in (2, 256, 4096, 65536)] == [1, 8, 12, 16]
    with pytest.raises(ValueError, match="5000 was given; a power of two"):
        bits.token_bits(5000)
