"""Codecs are compared at equal FLOPs per byte, and extrapolation is reported."""

import pandas as pd
import pytest

from compressed_lm.scaling import bits_at, compare_at_equal_flops


def table(**codecs):
    rows = [
        {
            "codec": codec,
            "n_params": i,
            "flops_per_byte": cost,
            "flops_per_byte_softmax": 2 * cost,
            "bits_per_byte": bits,
        }
        for codec, points in codecs.items()
        for i, (cost, bits) in enumerate(points)
    ]
    return pd.DataFrame(rows)


RUNS = table(
    a=[(100, 3.0), (10_000, 2.0)], b=[(1000, 2.8), (100_000, 1.2)], far=[(1e6, 1.0), (1e8, 0.5)], one=[(1000, 2.0)]
)


def test_interpolation_is_linear_in_log_flops():
    """The middle in log FLOPs is the middle in bits; outside the sizes, the nearest segment is extended and flagged."""
    middle = bits_at(RUNS, "a", flops_per_byte=1000)
    assert middle.bits_per_byte == pytest.approx(2.5) and not middle.extrapolated
    outside = bits_at(RUNS, "a", flops_per_byte=100_000)
    assert outside.bits_per_byte == pytest.approx(1.5) and outside.extrapolated
    assert bits_at(RUNS, "a", flops_per_byte=2000, column="flops_per_byte_softmax").bits_per_byte == pytest.approx(2.5)


def test_seeds_are_averaged():
    """Two seeds of one size are one point."""
    runs = pd.concat([table(a=[(100, 3.0), (10_000, 2.0)]), table(a=[(100, 3.2), (10_000, 2.2)])])
    assert bits_at(runs, "a", flops_per_byte=1000).bits_per_byte == pytest.approx(2.6)


def test_comparison_uses_the_shared_range_and_finds_the_crossing():
    """Both codecs are evaluated at each measured cost in both ranges; the crossing between them is found."""
    result = compare_at_equal_flops(RUNS, "a", "b")
    assert list(result.flops_per_byte) == [1000, 10_000] and not result.extrapolated
    assert list(result.difference) == pytest.approx([2.5 - 2.8, 2.0 - 2.0], abs=1e-12)
    shifted = compare_at_equal_flops(
        RUNS.assign(bits_per_byte=RUNS["bits_per_byte"] + 0.1 * (RUNS["codec"] == "a")), "a", "b"
    )
    assert list(shifted.difference) == pytest.approx([-0.2, 0.1])
    assert shifted.crossing == pytest.approx(10 ** (3 + 2 / 3))


def test_ranges_without_a_shared_cost_are_called_extrapolated():
    """If the ranges do not overlap, both codecs are evaluated in the middle of the gap."""
    result = compare_at_equal_flops(RUNS, "a", "far")
    assert result.extrapolated and list(result.flops_per_byte) == pytest.approx([100_000])
    assert result.difference[0] == pytest.approx(1.5 - 1.25)


def test_a_single_size_is_read_only_where_it_was_measured():
    """A codec with one size is compared at its own cost only."""
    result = compare_at_equal_flops(RUNS, "one", "a")
    assert list(result.flops_per_byte) == [1000] and result.difference[0] == pytest.approx(-0.5)
    assert compare_at_equal_flops(RUNS, "one", "far").extrapolated
    with pytest.raises(ValueError, match="run in one size only, at 1000 FLOPs per byte"):
        bits_at(RUNS, "one", flops_per_byte=2000)


def test_an_unknown_codec_names_the_known_ones():
    """The message lists the codecs of the table."""
    with pytest.raises(ValueError, match="no run of the codec 'gzip'. It has: a, b, far, one"):
        bits_at(RUNS, "gzip", flops_per_byte=1000)
