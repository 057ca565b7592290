"""The range coder: lossless, close to the entropy, and agreeing with an independent coder."""

import constriction
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressed_lm.coding import range_coder, tables


def table(n_symbols: int, seed: int, peak: float = 1.0) -> np.ndarray:
    weights = np.random.default_rng(seed).gamma(0.2 / peak, size=n_symbols)
    return tables.cumulative(tables.frequencies_from_counts(weights + 1e-9))


def code(symbols, cdf) -> bytes:
    return range_coder.encode(cdf[symbols], (cdf[1:] - cdf[:-1])[symbols])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=300), st.integers(0, 5), st.sampled_from([0.05, 1.0, 20.0]))
def test_round_trip(symbols, seed, peak):
    """Any sequence that ends in the stop symbol comes back, for flat and for very peaked tables."""
    cdf = table(11, seed, peak)
    stream = code(np.array(symbols + [10]), cdf)
    assert range_coder.decode_until(stream, cdf, 10).tolist() == symbols


def test_carries_run_through():
    """Intervals that sit just below a carry for many bytes, and then cross it, decode."""
    cdf = np.array([0, 1, 65535, 65536], np.uint32)
    for tail in ([0], [1], [0] * 40, [2], [1, 1, 0]):
        symbols = np.array([1] * 3000 + [2] * 6 + tail + [2])
        below, freq = cdf[symbols], np.diff(cdf)[symbols]
        stream = range_coder.encode(below, freq)
        decoder = range_coder.Decoder(stream)
        assert [decoder.symbol(cdf) for _ in symbols] == symbols.tolist()


def test_length_is_the_entropy_and_constrictions():
    """The stream exceeds the information content by under 0.05 % plus two bytes, and constriction's range coder by no
    more."""
    cdf = table(257, 3)
    freqs = np.diff(cdf).astype(np.int64)
    symbols = np.random.default_rng(4).choice(257, 50_000, p=freqs / 65536)
    information = -np.log2(freqs[symbols] / 65536).sum() / 8
    ours = len(code(symbols, cdf))
    peer = constriction.stream.queue.RangeEncoder()
    peer.encode(symbols.astype(np.int32), constriction.stream.model.Categorical(freqs / 65536, perfect=False))
    assert information - 1 <= ours <= information * 1.0005 + 2
    assert ours <= 4 * peer.get_compressed().size * 1.0007 + 2


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=40), st.integers(0, 5), st.binary(max_size=8))
def test_a_followed_stream_ignores_what_follows(symbols, seed, tail):
    """With `followed`, the symbols decode before any other bytes, and the length does not depend on those."""
    cdf = table(11, seed)
    symbols = np.array(symbols + [10])
    stream = range_coder.encode(cdf[symbols], np.diff(cdf)[symbols], followed=True)
    decoder = range_coder.Decoder(stream + tail)
    assert [decoder.symbol(cdf) for _ in symbols] == symbols.tolist()


def test_truncated_stream_is_refused():
    """A stream cut in the middle raises CorruptStream instead of running on for ever or returning a wrong tail
    silently past its end."""
    cdf = table(5, 1)
    stream = code(np.array([0, 1, 2, 3] * 2000 + [4]), cdf)
    never = np.array([0, 20000, 40000, 65535, 65536, 65536], np.uint32)
    assert len(stream) > 100
    with pytest.raises(range_coder.CorruptStream, match="truncated or changed"):
        range_coder.decode_until(stream[:50], never[:-1], 7)


def test_golden_stream():
    """The stream of a fixed input never changes: old files must stay readable."""
    cdf = np.array([0, 10, 1000, 40000, 65536], np.uint32)
    assert code(np.array([2, 2, 1, 3, 0, 2, 3, 3, 1, 2] * 3), cdf).hex() == "07143cc4bdde1e26f7eb96fb"


def test_frequencies_literal():
    """Every symbol keeps one, the sum is 2**16, and the remainder goes to the first heaviest symbol."""
    got = tables.frequencies(np.array([[0, 5, 5, 1]], np.uint32))
    assert got.tolist() == [[1, 29789, 29788, 5958]]
    assert tables.cumulative(got)[0].tolist() == [0, 1, 29790, 59578, 65536]
    with pytest.raises(ValueError, match="non-negative"):
        tables.frequencies_from_counts([0, 0])
