"""Range coder: lossless, close to the entropy, and equal to an independent coder in length."""

import constriction
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressed_lm.coding import range_coder, tables


def random_tables(n_symbols: int, seed: int, peak: float = 1.0, n: int = 1) -> np.ndarray:
    """Returns cumulative tables uint32[n, S + 1]; a higher peak makes them more uneven."""
    weights = np.random.default_rng(seed).gamma(0.2 / peak, size=(n, n_symbols)) + 1e-9
    scaled = np.ceil(weights * (tables.MAX_WEIGHT / weights.max(-1, keepdims=True)))
    return tables.cumulative(tables.frequencies(scaled.astype(np.uint32)))


def table(n_symbols: int, seed: int, peak: float = 1.0) -> np.ndarray:
    return random_tables(n_symbols, seed, peak)[0]


def draw(cdfs: np.ndarray, seed: int) -> np.ndarray:
    """Returns one symbol from each table."""
    targets = np.random.default_rng(seed).integers(0, 65536, (len(cdfs), 1))
    return (cdfs[:, 1:] <= targets).sum(-1).astype(np.int32)


def slow_decode(stream: bytes, cdfs: np.ndarray) -> list[int]:
    decoder = range_coder.Decoder(stream)
    return [decoder.symbol(cdf) for cdf in cdfs]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=300), st.integers(0, 5), st.sampled_from([0.05, 1.0, 20.0]))
def test_round_trip(symbols, seed, peak):
    """Any sequence with a stop symbol round-trips, for uniform and very peaked tables."""
    cdf = table(11, seed, peak)
    stream = range_coder.encode_symbols(symbols + [10], cdf, stops=True)
    found, written = range_coder.decode_until(stream, cdf, 10)
    assert (found.tolist(), written) == (symbols, stream)
    assert range_coder.decode(stream, cdf, len(symbols) + 1).tolist() == symbols + [10]


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([1, 2, 16, 17, 18, 33, 257]),
    st.integers(0, 200),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.05, 1.0, 20.0]),
    st.booleans(),
)
def test_round_trip_with_a_table_for_each_symbol(n_symbols, length, seed, peak, likely):
    """Symbols with a different table at every step round-trip, in both decoders."""
    cdfs = random_tables(n_symbols, seed, peak, length)
    symbols = draw(cdfs, seed + 1) if likely else np.random.default_rng(seed).integers(0, n_symbols, length)
    stream = range_coder.encode_symbols(symbols, cdfs)
    assert range_coder.decode(stream, cdfs).tolist() == symbols.tolist() == slow_decode(stream, cdfs)
    rows = np.arange(length)
    below, freq = cdfs[rows, symbols], cdfs[rows, symbols + 1] - cdfs[rows, symbols]
    assert range_coder.encode(below, freq) == stream
    assert 8 * len(stream) <= -np.log2(freq / 65536).sum() + 8 + 0.006 * length


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 60), max_size=20), st.integers(0, 1000), st.booleans())
def test_a_batch_is_its_members(lengths, seed, followed):
    """Sequences encoded together give the same streams as alone, including empty ones."""
    cdfs = random_tables(20, seed, n=sum(lengths))
    symbols = draw(cdfs, seed)
    rows = np.arange(len(symbols))
    below, freq = cdfs[rows, symbols], np.diff(cdfs)[rows, symbols]
    cuts = np.cumsum(lengths)[:-1] if lengths else []
    pieces = zip(np.split(below, cuts), np.split(freq, cuts), strict=True) if lengths else []
    wanted = [range_coder.encode(b, f, followed=followed) for b, f in pieces]
    assert range_coder.encode_batch(below, freq, lengths, followed=followed) == wanted


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 1000), st.sampled_from([1, 11, 257]))
def test_any_bytes_decode_alike(stream, seed, n_symbols):
    """Arbitrary bytes decode to the same symbols in every form of the decoder."""
    cdfs = random_tables(n_symbols, seed, n=100)
    assert range_coder.decode(stream, cdfs).tolist() == slow_decode(stream, cdfs)
    one = slow_decode(stream, [cdfs[0]] * 100)
    assert range_coder.decode(stream, cdfs[0], 100).tolist() == one
    prefix = range_coder.decode_prefix(stream, cdfs[0], n_symbols - 1).tolist() if n_symbols > 1 else []
    assert prefix[:100] == one[: len(prefix)]


def test_carries_run_through():
    """Intervals just below a carry for many bytes, which then cross it, round-trip."""
    cdf = np.array([0, 1, 65535, 65536], np.uint32)
    for tail in ([0], [1], [0] * 40, [2], [1, 1, 0]):
        symbols = np.array([1] * 3000 + [2] * 6 + tail + [2])
        stream = range_coder.encode_symbols(symbols, cdf)
        assert slow_decode(stream, [cdf] * len(symbols)) == symbols.tolist()
        assert range_coder.decode(stream, cdf, len(symbols)).tolist() == symbols.tolist()
        assert range_coder.decode(stream, np.tile(cdf, (len(symbols), 1))).tolist() == symbols.tolist()


def test_length_is_the_entropy_and_constrictions():
    """The stream exceeds the information content by less than 0.05 % plus two bytes.

    It is not longer than that of constriction's range coder.
    """
    cdf = table(257, 3)
    freqs = np.diff(cdf).astype(np.int64)
    symbols = np.random.default_rng(4).choice(257, 50_000, p=freqs / 65536)
    information = -np.log2(freqs[symbols] / 65536).sum() / 8
    ours = len(range_coder.encode_symbols(symbols, cdf))
    peer = constriction.stream.queue.RangeEncoder()
    peer.encode(symbols.astype(np.int32), constriction.stream.model.Categorical(freqs / 65536, perfect=False))
    assert information - 1 <= ours <= information * 1.0005 + 2
    assert ours <= 4 * peer.get_compressed().size * 1.0007 + 2


@pytest.mark.parametrize("peak", [0.2, 4.0, 20.0])
@pytest.mark.parametrize("length", [10, 300, 3000])
def test_length_under_changing_tables_is_constrictions(peak, length):
    """With a table per symbol, streams exceed the information content by at most two bytes.

    They exceed constriction's streams only by rounding.
    """
    cdfs = random_tables(257, length, peak, length)
    symbols = draw(cdfs, 9)
    freqs = np.diff(cdfs)
    information = -np.log2(freqs[np.arange(length), symbols] / 65536).sum() / 8
    ours = len(range_coder.encode_symbols(symbols, cdfs))
    peer = constriction.stream.queue.RangeEncoder()
    peer.encode(symbols, constriction.stream.model.Categorical(perfect=False), (freqs / 65536).astype(np.float32))
    assert information - 1 <= ours <= information + 2
    assert ours <= 4 * peer.get_compressed().size + 1


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=40), st.integers(0, 5), st.binary(max_size=8))
def test_a_followed_stream_ignores_what_follows(symbols, seed, tail):
    """With `followed`, the symbols decode before any other bytes, and the length does not depend on these."""
    cdf = table(11, seed)
    symbols = symbols + [10]
    stream = range_coder.encode_symbols(symbols, cdf, followed=True)
    assert slow_decode(stream + tail, [cdf] * len(symbols)) == symbols
    assert range_coder.decode(stream + tail, cdf, len(symbols)).tolist() == symbols


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=12), st.integers(0, 20), st.sampled_from([0.05, 1.0, 20.0]))
def test_what_decodes_is_known_to_be_what_the_encoder_writes(stream, seed, peak):
    """For arbitrary bytes, `decode_until` returns the stream that `encode` writes for the symbols.

    The plain decoder gives the same symbols beyond the end of the stream.
    """
    cdf = table(11, seed, peak)
    try:
        symbols, written = range_coder.decode_until(stream, cdf, 10)
    except range_coder.CorruptStream:
        return
    symbols = [*symbols.tolist(), 10]
    assert slow_decode(stream, [cdf] * len(symbols)) == symbols
    assert range_coder.encode_symbols(symbols, cdf, stops=True) == written


@pytest.mark.parametrize("first", [1, 64, 128, 192])
def test_streams_that_end_in_many_zeros_decode(first):
    """A stream of one byte and then only zeros decodes up to the stop symbol.

    The decoder reads only `OVERRUN` bytes beyond the end.
    """
    cdf = table(40, 2)
    decoder, symbols = range_coder.Decoder(bytes([first])), []
    while not symbols or symbols[-1] != 39:
        symbols.append(decoder.symbol(cdf))
        assert len(symbols) < 100_000
    if len(symbols) > 40:
        assert len(range_coder.encode_symbols(symbols, cdf)) == 1
    stream = range_coder.encode_symbols(symbols, cdf, stops=True)
    assert range_coder.decode_until(stream, cdf, 39)[0].tolist() == symbols[:-1]


def test_truncated_stream_is_refused():
    """A truncated stream raises CorruptStream; it does not loop or return a wrong tail."""
    cdf = table(5, 1)
    stream = range_coder.encode_symbols([0, 1, 2, 3] * 2000 + [4], cdf)
    never = np.array([0, 20000, 40000, 65535, 65536], np.uint32)
    assert len(stream) > 100
    with pytest.raises(range_coder.CorruptStream, match="truncated or changed"):
        range_coder.decode_until(stream[:50], never, 7)


def test_golden_stream():
    """The stream of a fixed input never changes, since old files must stay readable."""
    cdf = np.array([0, 10, 1000, 40000, 65536], np.uint32)
    symbols = [2, 2, 1, 3, 0, 2, 3, 3, 1, 2] * 3
    assert range_coder.encode_symbols(symbols, cdf).hex() == "07143cc4bdde1e26f7eb96fb"
    assert range_coder.encode(cdf[symbols], np.diff(cdf)[symbols]).hex() == "07143cc4bdde1e26f7eb96fb"


def test_what_is_no_table_is_refused():
    """Zero frequencies, symbols outside their table and invalid tables raise errors.

    They do not loop or read outside the array.
    """
    cdf = np.array([0, 10, 10, 65536], np.uint32)
    for symbol in (-1, 1, 3):
        with pytest.raises(ValueError, match="cannot be encoded"):
            range_coder.encode_symbols([0, symbol], cdf)
    for below, freq in ((0, 0), (65536, 1), (65535, 2)):
        with pytest.raises(ValueError, match="cannot be encoded"):
            range_coder.encode([0, below], [1, freq])
    for lengths in ([1], [3], [-1, 3]):
        with pytest.raises(ValueError, match="2 and 2 table entries"):
            range_coder.encode_batch([0, 0], [1, 1], lengths)
    for broken in ([0, 10, 65535], [1, 10, 65536], [0], [0, 0, 0]):
        with pytest.raises(ValueError, match="from 0 to 2\\*\\*16"):
            range_coder.decode(b"\xff" * 8, np.array(broken, np.uint32), 5)
        with pytest.raises(ValueError, match="from 0 to 2\\*\\*16"):
            range_coder.decode(b"\xff" * 8 if broken[0] == 0 else b"", np.array([broken], np.uint32))
    with pytest.raises(ValueError, match="1 tables were given for 2 symbols"):
        range_coder.encode_symbols([0, 0], cdf[None])
    with pytest.raises(ValueError, match="with one table, and only then"):
        range_coder.decode(b"", cdf)


def test_frequencies_literal():
    """Every symbol gets at least one, the sum is 2**16, and the remainder goes to the first heaviest symbol."""
    got = tables.frequencies(np.array([[0, 5, 5, 1]], np.uint32))
    assert got.tolist() == [[1, 29789, 29788, 5958]]
    assert tables.cumulative(got)[0].tolist() == [0, 1, 29790, 59578, 65536]
    with pytest.raises(ValueError, match="non-negative"):
        tables.frequencies_from_counts([0, 0])
