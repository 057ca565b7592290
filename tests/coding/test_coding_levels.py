"""Levels: lossless, and near their empirical entropy with the table included."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from compressed_lm.coding import levels
from compressed_lm.coding.range_coder import CorruptStream


def draw(shape, step, n, seed=0):
    """Returns levels of n generalized-Gaussian weights with standard deviation 1."""
    unit = stats.gennorm(shape)
    return np.rint(unit.rvs(n, random_state=seed) / unit.std() / step).astype(np.int64)


def excess(found, stream):
    """Returns the bits of a stream above the empirical entropy of its levels, as a fraction of it."""
    return 8 * len(stream) / (len(found) * levels.empirical_entropy(found)) - 1


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(st.integers(-3, 3), st.integers(-(2**20), 2**20), st.integers(-(2**62) + 1, 2**62 - 1)), max_size=300
    )
)
def test_round_trip(values):
    """Any integers round-trip: none, one, equal ones, and small ones among the largest."""
    stream = levels.encode_levels(values)
    assert levels.decode_levels(stream, len(values)).tolist() == values


@pytest.mark.parametrize("spread", [2**10, 2**17, 2**40, 2**61])
def test_round_trip_of_large_alphabets(spread):
    """Tens of thousands of distinct levels, at any distance, take little more than fixed-width codes."""
    found = np.random.default_rng(0).integers(-spread, spread, 50_000)
    stream = levels.encode_levels(found)
    np.testing.assert_array_equal(levels.decode_levels(stream, len(found)), found)
    assert 8 * len(stream) <= 50_000 * (np.log2(2 * spread) * 1.002 + 0.01)


@pytest.mark.parametrize("shape", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("step", [2, 1, 0.25, 0.1, 1 / 32])
def test_streams_are_within_one_percent_of_the_entropy(shape, step):
    """Streams with table and header exceed the entropy by less than 0.6 % at 200,000 weights.

    At 10,000 weights it is less than 2.5 %, or 6 % for small steps.
    """
    found = draw(shape, step, 200_000)
    stream = levels.encode_levels(found)
    np.testing.assert_array_equal(levels.decode_levels(stream, len(found)), found)
    assert -1e-4 < excess(found, stream) < 0.006
    few = found[:10_000]
    assert excess(few, levels.encode_levels(few)) < (0.025 if step >= 0.1 else 0.06)


@pytest.mark.parametrize("zeros, most", [(0.5, 0.002), (0.9, 0.003), (0.97, 0.006), (0.99, 0.012)])
def test_mostly_zeros(zeros, most):
    """A million levels of far less than one bit each take at most 0.001 bits per level more than the entropy."""
    rng = np.random.default_rng(0)
    found = np.where(rng.random(1_000_000) < zeros, 0, draw(1.0, 0.5, 1_000_000))
    stream = levels.encode_levels(found)
    assert 0 < excess(found, stream) < most
    np.testing.assert_array_equal(levels.decode_levels(stream, len(found)), found)


def test_equal_levels_cost_almost_nothing():
    """A million equal levels take at most five bytes."""
    for value, most in [(0, 3), (-7, 5)]:
        stream = levels.encode_levels(np.full(1_000_000, value))
        assert len(stream) <= most
        np.testing.assert_array_equal(levels.decode_levels(stream, 1_000_000), np.full(1_000_000, value))


def test_outliers_are_cheap():
    """An outlier takes about a hundred bits, not an alphabet up to its value."""
    found = draw(1.0, 0.25, 100_000)
    plain = len(levels.encode_levels(found))
    found[::10_000] = 2**40 + np.arange(10) * 2**35
    assert len(levels.encode_levels(found)) < plain + 10 * 100 / 8


def test_even_levels_are_not_smoothed():
    """Levels that are all even keep an exact table: the coarser table is used only if it is shorter."""
    found = 2 * draw(2.0, 0.25, 100_000)
    assert excess(found, levels.encode_levels(found)) < 0.003


def test_entropy_literal():
    """Two equally frequent levels have one bit; one level has none, and no levels have none."""
    assert levels.empirical_entropy([3, 3, 5, 5]) == 1
    assert levels.empirical_entropy([0, 0, 0, 1]) == pytest.approx(0.811278, abs=1e-6)
    assert levels.empirical_entropy([7]) == levels.empirical_entropy([]) == 0


def test_cut_and_changed_streams_are_refused():
    """Truncated and extended streams raise CorruptStream; a changed byte raises it or gives other levels."""
    found = draw(1.0, 0.01, 3_000)  # with low bits
    stream = levels.encode_levels(found)
    for n in range(0, len(stream), 11):
        with pytest.raises(CorruptStream, match="does not hold 3000 levels: it was truncated or changed"):
            levels.decode_levels(stream[:n], 3_000)
    for bad, n in [(stream + b"\0", 3_000), (stream, 2_000), (b"", 3), (stream, 0)]:
        with pytest.raises(CorruptStream, match="truncated or changed"):
            levels.decode_levels(bad, n)
    for place in range(0, len(stream), 7):
        changed = stream[:place] + bytes([stream[place] ^ 16]) + stream[place + 1 :]
        try:
            assert levels.decode_levels(changed, 3_000).shape == (3_000,)
        except CorruptStream:
            pass


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 200))
def test_any_bytes_are_refused_or_decode(stream, n):
    """Arbitrary bytes raise CorruptStream, or decode to the given number of levels."""
    try:
        assert len(levels.decode_levels(stream, n)) == n
    except CorruptStream:
        pass


def test_golden_stream():
    """The stream of a fixed input never changes, since old files must stay readable."""
    found = [0, 0, 1, -1, 0, 2, 0, 0, -3, 0, 0, 1, 0, 0, 0, 40]
    stream = levels.encode_levels(found)
    assert stream.hex() == "39f210a05c130051c35c76933570"
    assert levels.decode_levels(stream, len(found)).tolist() == found


def test_what_are_no_levels_is_refused():
    """Floats and levels of 2**62 raise errors."""
    with pytest.raises(ValueError, match="An array of float64 was given; integers were expected"):
        levels.encode_levels([0.5])
    with pytest.raises(ValueError, match="Levels from 0 to 4611686018427387904 were given"):
        levels.encode_levels([0, 2**62])
