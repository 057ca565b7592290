"""Exp-Golomb and Rice codes: lengths and bits of their definition, and round trips."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from compressed_lm.coding import exp_golomb
from compressed_lm.coding.range_coder import CorruptStream

LARGEST = 2**63 - 2

# papers/002 section 3: bits of the entropy and of EG0 for levels of step / sigma 2, 1, 1/2, 1/4, 1/10, 1/32.
STEPS = [2, 1, 1 / 2, 1 / 4, 1 / 10, 1 / 32]
TABLE = {
    0.5: [(0.901, 1.362), (1.647, 1.851), (2.524, 2.616), (3.469, 3.658), (4.764, 5.411), (6.434, 8.107)],
    0.7: [(1.028, 1.440), (1.866, 2.052), (2.796, 2.966), (3.768, 4.160), (5.079, 6.092), (6.755, 8.955)],
    1.0: [(1.127, 1.515), (2.014, 2.240), (2.966, 3.275), (3.949, 4.582), (5.266, 6.640), (6.943, 9.610)],
    1.3: [(1.179, 1.565), (2.074, 2.356), (3.030, 3.456), (4.017, 4.822), (5.335, 6.941), (7.013, 9.962)],
    2.0: [(1.241, 1.640), (2.105, 2.502), (3.062, 3.672), (4.051, 5.101), (5.370, 7.287), (7.047, 10.356)],
}


def bits_of(values, order, *, rice=False):
    """Returns the codes by their definition, as a string of 0 and 1."""
    codes = []
    for v in map(int, values):
        if rice:
            low = format(v % 2**order, f"0{order}b") if order else ""
            codes.append("0" * (v // 2**order) + "1" + low)
        else:
            binary = format(v + 2**order, "b")
            codes.append("0" * (len(binary) - order - 1) + binary)
    return "".join(codes)


def as_bytes(bits):
    """Returns a string of 0 and 1 as bytes, zero-padded."""
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))


def numbers(largest):
    """Returns numbers of all magnitudes."""
    return st.integers(0, largest.bit_length()).flatmap(lambda bits: st.integers(0, min(largest, 2**bits)))


def test_lengths_of_the_first_ranks():
    """Golden lengths of EG0, and of higher orders computed by hand."""
    assert exp_golomb.code_lengths(np.arange(8)).tolist() == [1, 3, 3, 5, 5, 5, 5, 7]
    assert exp_golomb.code_lengths(np.arange(8), order=1).tolist() == [2, 2, 4, 4, 4, 4, 6, 6]
    assert exp_golomb.code_lengths(np.arange(8), order=3).tolist() == [4] * 8
    assert exp_golomb.rice_lengths(np.arange(8), order=1).tolist() == [2, 2, 3, 3, 4, 4, 5, 5]
    assert exp_golomb.code_lengths(np.array([LARGEST - 1, 2**32, 2**32 - 2])).tolist() == [125, 65, 63]


def test_zigzag():
    """Levels of growing magnitude map to growing numbers, and back."""
    levels = [0, 1, -1, 2, -2, 3, exp_golomb.MAX_LEVEL, -exp_golomb.MAX_LEVEL]
    assert exp_golomb.zigzag(levels).tolist() == [0, 1, 2, 3, 4, 5, LARGEST - 1, LARGEST]
    assert exp_golomb.unzigzag(exp_golomb.zigzag(levels)).tolist() == levels
    assert exp_golomb.zigzag(np.int8([-128, 127])).tolist() == [256, 253]


@settings(max_examples=300, deadline=None)
@given(st.lists(numbers(LARGEST), max_size=40), st.integers(0, 62))
def test_exp_golomb_is_its_definition(values, order):
    """Numbers of any size have the bits and lengths of the definition, and round-trip."""
    stream = exp_golomb.encode(values, order=order)
    assert stream == as_bytes(bits_of(values, order))
    assert exp_golomb.code_lengths(values, order=order).tolist() == [len(bits_of([v], order)) for v in values]
    assert exp_golomb.decode(stream, len(values), order=order).tolist() == values
    found, used = exp_golomb.decode_prefix(stream + b"\xff\x00\xff", len(values), order=order)
    assert (found.tolist(), used) == (values, len(stream))


@settings(max_examples=300, deadline=None)
@given(st.lists(numbers(LARGEST), max_size=20), st.integers(0, 12), st.integers(0, 9))
def test_rice_is_its_definition(values, order, more):
    """Numbers up to 1000 times the parameter have the bits and lengths of the definition, and round-trip."""
    values = [v % 2 ** (order + more) for v in values]
    stream = exp_golomb.encode_rice(values, order=order)
    assert stream == as_bytes(bits_of(values, order, rice=True))
    lengths = [len(bits_of([v], order, rice=True)) for v in values]
    assert exp_golomb.rice_lengths(values, order=order).tolist() == lengths
    assert exp_golomb.decode_rice(stream, len(values), order=order).tolist() == values


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 2**62 - 1), max_size=40), st.integers(0, 62))
def test_a_fixed_width_comes_back(values, width):
    """Numbers of a fixed width take that many bits each."""
    values = [v % 2**width for v in values]
    stream = exp_golomb.encode_fixed(values, width=width)
    assert len(stream) == -(-len(values) * width // 8)
    assert exp_golomb.decode_fixed(stream, len(values), width=width).tolist() == values


@settings(max_examples=100, deadline=None)
@given(st.lists(numbers(10**6), min_size=1, max_size=100))
def test_the_best_orders_are_the_best(values):
    """No order gives a shorter stream than the best one."""
    eg = [exp_golomb.code_lengths(values, order=k).sum() for k in range(30)]
    rice = [exp_golomb.rice_lengths(values, order=k).sum() for k in range(30)]
    assert exp_golomb.best_order(values) == int(np.argmin(eg))
    assert exp_golomb.best_rice(values) == int(np.argmin(rice))
    assert exp_golomb.best_order([]) == exp_golomb.best_rice([]) == 0


@pytest.mark.parametrize("shape", TABLE)
def test_entropy_and_eg0_of_generalised_gaussians(shape):
    """Lengths equal the table of papers/002 section 3 to one unit of its last digit."""
    unit = stats.gennorm(shape)
    for step, (entropy, eg0) in zip(STEPS, TABLE[shape], strict=True):
        levels = np.arange(-4000, 4001)
        edges = (np.arange(-4000, 4002) - 0.5) * step * unit.std()
        shares = np.where(
            levels > 0, unit.sf(edges[:-1]) - unit.sf(edges[1:]), unit.cdf(edges[1:]) - unit.cdf(edges[:-1])
        )
        assert -(shares[shares > 0] * np.log2(shares[shares > 0])).sum() == pytest.approx(entropy, abs=0.0011)
        lengths = exp_golomb.code_lengths(exp_golomb.zigzag(levels))
        assert (shares * lengths).sum() == pytest.approx(eg0, abs=0.0011)


def test_every_truncation_is_found():
    """A truncated or extended stream, or one with nonzero padding, raises CorruptStream."""
    values = np.random.default_rng(0).geometric(0.1, 500) - 1
    for encode, decode in [(exp_golomb.encode, exp_golomb.decode), (exp_golomb.encode_rice, exp_golomb.decode_rice)]:
        stream = encode(values, order=2)
        for n in range(len(stream)):
            with pytest.raises(CorruptStream, match="is not 500 codes of order 2: it was truncated or changed"):
                decode(stream[:n], 500, order=2)
        with pytest.raises(CorruptStream, match="continues after 500 codes"):
            decode(stream + b"\0", 500, order=2)
    with pytest.raises(CorruptStream, match="truncated or changed"):
        exp_golomb.decode(b"\x81", 1)
    with pytest.raises(CorruptStream, match="truncated or changed"):
        exp_golomb.decode(b"\0" * 40 + b"\xff" * 40, 1)
    with pytest.raises(CorruptStream, match="truncated or changed"):
        exp_golomb.decode_rice(b"\0" * 40 + b"\xff" * 40, 1, order=60)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40), st.integers(0, 50), st.integers(0, 62))
def test_any_bytes_decode_or_are_refused(stream, n, order):
    """Arbitrary bytes raise CorruptStream, or re-encode to the same bytes."""
    for encode, decode in [(exp_golomb.encode, exp_golomb.decode), (exp_golomb.encode_rice, exp_golomb.decode_rice)]:
        try:
            values = decode(stream, n, order=order)
        except CorruptStream:
            continue
        if values.max(initial=0) <= LARGEST:
            assert encode(values, order=order) == stream


def test_what_cannot_be_coded_is_refused():
    """Negative, fractional and too large numbers, orders and streams raise errors with their values."""
    with pytest.raises(ValueError, match="from -1 to 3 was given; integers from 0 to 2..63 - 2 .*`zigzag` first"):
        exp_golomb.encode([-1, 3])
    with pytest.raises(ValueError, match="float64 from 0.5 to 0.5"):
        exp_golomb.encode([0.5])
    with pytest.raises(ValueError, match="magnitudes of at most 2..62 - 1 were expected. Use a larger step"):
        exp_golomb.zigzag([2**62])
    with pytest.raises(ValueError, match="An array of float64 was given; integers"):
        exp_golomb.zigzag([0.5])
    with pytest.raises(ValueError, match="An order of 63 was given; 0 to 62"):
        exp_golomb.encode([1], order=63)
    with pytest.raises(ValueError, match="take more than 2..38 bits. Use a higher order"):
        exp_golomb.encode_rice([2**50], order=3)
    with pytest.raises(ValueError, match="8 was given to a code of 3 bits; numbers below 8"):
        exp_golomb.encode_fixed([8], width=3)
