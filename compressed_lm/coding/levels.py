"""Entropy coding of signed integers: range coder with one table, which is part of the stream.

The table is a histogram of the levels. If that costs more than it saves, it is made coarser in two ways, chosen for the
shortest stream: 2**k neighbouring levels share a symbol and their low k bits are stored uncoded, and counts are rounded
to fewer bits. Unused levels cost only the gaps between the used ones, so outliers may be far away.

Beyond the entropy a stream costs its table, one or two bytes per symbol, and the overhead of `range_coder`: 0.0005 bits
per level, which is 1% of the stream only if 99% of the levels are equal.

Layout: seven numbers (EG0); the gaps between the symbols (EG0); their weights as differences (exp-Golomb of the best
order); the low bits; the range coder's bytes. Each part begins at a byte boundary.
"""

import dataclasses

import numpy as np
import numpy.typing as npt

from compressed_lm.coding import exp_golomb, range_coder, tables
from compressed_lm.coding.exp_golomb import as_levels, histogram, unzigzag, zigzag
from compressed_lm.errors import CorruptStream

MAX_SYMBOLS = 1 << 14
"""Largest number of symbols of a table: each needs a frequency of at least 1 of 2**16."""

_WEIGHT_BITS = (3, 5, 7, 9, 11, 13, 15)  # of the largest weight
_LOOKUP_SPAN = 1 << 22  # symbols in a smaller range are looked up in an array
_N_HEADER = 7


@dataclasses.dataclass(frozen=True)
class _Table:
    """Table of a stream.

    Attributes:
        low_bits: k, low bits of a level that are not part of its symbol.
        places: int64[S], sorted levels of the symbols, shifted right by k.
        weights: int64[S], at most 2**15: rounded counts.
    """

    low_bits: int
    places: np.ndarray
    weights: np.ndarray

    @property
    def freqs(self) -> np.ndarray:
        """uint32[S], summing to 2**16."""
        return tables.frequencies(self.weights.astype(np.uint32))

    @property
    def differences(self) -> np.ndarray:
        """int64[S] >= 0, zigzag differences of the weights."""
        return zigzag(np.diff(self.weights, prepend=0))

    @property
    def gaps(self) -> np.ndarray:
        """int64[S - 1] >= 0, unused levels between consecutive symbols."""
        return np.diff(self.places) - 1


def empirical_entropy(levels: npt.ArrayLike) -> float:
    """Returns the entropy of the histogram of levels, integers[...], in bits per level."""
    _, counts = histogram(levels)
    return _entropy(counts)


def _entropy(counts: np.ndarray) -> float:
    shares = counts / max(1, counts.sum())
    return float(-(shares * np.log2(shares)).sum()) + 0.0


def encode_levels(levels: npt.ArrayLike) -> bytes:
    """Returns the stream of levels, with its table.

    Args:
        levels: integers[T], of magnitude at most 2**62 - 1.

    Raises:
        ValueError: a level is larger, or not an integer.
    """
    levels = as_levels(levels).reshape(-1)
    if not len(levels):
        return b""
    table = _best_table(*histogram(levels))
    gaps, differences = table.gaps, table.differences
    order = exp_golomb.best_order(differences)
    symbols = _symbols(levels >> table.low_bits, table.places)
    low = exp_golomb.encode_fixed(levels & ((1 << table.low_bits) - 1), width=table.low_bits)
    coded = range_coder.encode_symbols(symbols, tables.cumulative(table.freqs))
    parts = [exp_golomb.encode(gaps), exp_golomb.encode(differences, order=order), low, coded]
    header = [zigzag(table.places[0]), len(table.places), table.low_bits, order]
    header += [len(parts[0]), len(parts[1]), len(coded)]
    return exp_golomb.encode(np.array(header)) + b"".join(parts)


def decode_levels(stream: bytes, n_levels: int) -> np.ndarray:
    """Returns the levels of a stream; undoes `encode_levels`.

    Truncated and extended streams are detected. Changed streams are detected only if the table or the lengths are
    impossible; otherwise they decode to other levels. Add a checksum if this matters, as weight files do.

    Args:
        stream: the complete output of `encode_levels`.
        n_levels: T.

    Returns:
        int64[T].

    Raises:
        CorruptStream: the stream is not one of T levels.
    """
    if not n_levels and not stream:
        return np.zeros(0, np.int64)
    try:
        table, low, coded = _read(stream, n_levels)
    except ValueError as error:
        raise CorruptStream(
            f"A stream of {len(stream)} bytes does not hold {n_levels} levels: it was truncated or changed. Restore it "
            "from its source."
        ) from error
    levels = table.places[range_coder.decode(coded, tables.cumulative(table.freqs), n_levels)]
    if table.low_bits:
        levels <<= table.low_bits
        levels |= low
    return levels


def _read(stream: bytes, n_levels: int) -> tuple[_Table, np.ndarray, bytes]:
    """Returns the table, the low bits int64[T] and the range coder's bytes. Raises ValueError for a damaged stream."""
    header, start = exp_golomb.decode_prefix(stream, _N_HEADER)
    first, n_symbols, low_bits, order, *sizes = header.tolist()
    if not (1 <= n_symbols <= MAX_SYMBOLS and low_bits <= 62 and order <= 62 and n_levels):
        raise ValueError("an impossible header")
    sizes.insert(2, -(-n_levels * low_bits // 8))
    if start + sum(sizes) != len(stream):
        raise ValueError(f"its header says {start + sum(sizes)} bytes")
    parts = []
    for size in sizes:
        parts.append(stream[start : start + size])
        start += size
    gaps = exp_golomb.decode(parts[0], n_symbols - 1)
    differences = unzigzag(exp_golomb.decode(parts[1], n_symbols, order=order))
    low = exp_golomb.decode_fixed(parts[2], n_levels, width=low_bits)
    first, limit = int(unzigzag(first)), exp_golomb.MAX_LEVEL >> low_bits
    # Floats are exact enough to detect sums that are too large.
    if max(-first - 1, first + (gaps + 1.0).sum()) > limit * (1 + 1e-12):
        raise ValueError("levels that are too large")
    weights = np.cumsum(np.clip(differences, -tables.TABLE_TOTAL, tables.TABLE_TOTAL))
    if weights.min() < 0 or not 0 < weights.max() <= tables.MAX_WEIGHT:
        raise ValueError("an impossible table")
    places = first + np.concatenate([np.zeros(1, np.int64), np.cumsum(gaps + 1)])
    return _Table(low_bits, places, weights), low, parts[3]


def _symbols(places: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Returns the index int32[T] of each place int64[T] in the sorted known places int64[S]."""
    span = int(known[-1] - known[0]) + 1
    if span > _LOOKUP_SPAN:
        return np.searchsorted(known, places).astype(np.int32)
    numbers = np.zeros(span, np.int32)
    numbers[known - known[0]] = np.arange(len(known))
    return numbers[places - known[0]]


def _best_table(levels: np.ndarray, counts: np.ndarray) -> _Table:
    """Returns the table of the shortest stream for a histogram, int64[S] and int64[S]."""
    best, least = _Table(0, levels, counts), np.inf  # the loop always replaces it
    for low_bits in range(63):
        places, first = np.unique(levels >> low_bits, return_index=True)
        merged = np.add.reduceat(counts, first)
        if len(places) > MAX_SYMBOLS:
            continue
        # A lower bound for every table, which grows with the number of low bits.
        if low_bits and _entropy(merged) * counts.sum() + low_bits * counts.sum() > least:
            break
        for bits in _WEIGHT_BITS:
            scale = min(1, (1 << bits) / merged.max())
            table = _Table(low_bits, places, np.rint(merged * scale).astype(np.int64))
            if (size := _size(table, merged)) < least:
                best, least = table, size
            if scale == 1:  # the counts are exact; more bits do not help
                break
        if len(places) == 1:
            break
    return best


def _size(table: _Table, counts: np.ndarray) -> float:
    """Returns the bits of a stream with this table, without the header.

    Args:
        table: the table.
        counts: int64[S], counts of its symbols.
    """
    differences = table.differences
    order = exp_golomb.best_order(differences)
    bits = exp_golomb.code_lengths(differences, order=order).sum() + exp_golomb.code_lengths(table.gaps).sum()
    return bits + (counts * (tables.TABLE_BITS - np.log2(table.freqs) + table.low_bits)).sum()
