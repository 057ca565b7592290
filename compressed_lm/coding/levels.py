"""Signed integers near their empirical entropy: the range coder under one table, which the stream brings along.

The table is a histogram of the levels. Where it would cost more than it saves, it is made coarser in two ways, which
together give the shortest stream: neighbouring levels share a symbol, 2**k of them, and the low k bits follow as they
are; and counts are rounded to fewer bits. Levels that do not occur cost nothing but the gaps between those that do, so
rare ones may lie anywhere.

Beside the entropy a stream costs its table, a byte or two for each symbol, and what `range_coder` tells: 0.0005 bits a
level, which is a hundredth of the stream only where 99 of 100 levels are equal.

A stream is: seven numbers (EG0); the gaps between the symbols (EG0); their weights, each as the difference from the one
before (exp-Golomb of the best order); the low bits; the range coder's bytes. Each part begins with a byte of its own.
"""

import dataclasses

import numpy as np

from compressed_lm.coding import exp_golomb, range_coder, tables
from compressed_lm.coding.exp_golomb import as_levels, histogram, unzigzag, zigzag
from compressed_lm.coding.range_coder import CorruptStream

MAX_SYMBOLS = 1 << 14
"""Most symbols of a table: each takes at least one of its 2**16 parts."""

_WEIGHT_BITS = (3, 5, 7, 9, 11, 13, 15)  # of the largest weight
_LOOKUP_SPAN = 1 << 22  # symbols that lie closer together are looked up in an array
_N_HEADER = 7


@dataclasses.dataclass(frozen=True)
class _Table:
    """What a stream brings along.

    Attributes:
        low_bits: k, bits of a level that are not in its symbol.
        places: int64[S], the levels of the symbols, shifted right by k; sorted.
        weights: int64[S], at most 2**15: counts, rounded.
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
        """int64[S] >= 0, from which `from_differences` makes the weights."""
        return zigzag(np.diff(self.weights, prepend=0))

    @property
    def gaps(self) -> np.ndarray:
        """int64[S - 1] >= 0, levels left out between one symbol and the next."""
        return np.diff(self.places) - 1


def empirical_entropy(levels) -> float:
    """Bits a level of the best code that knows the histogram of these levels, integers[...], and nothing else."""
    _, counts = histogram(levels)
    return _entropy(counts)


def _entropy(counts: np.ndarray) -> float:
    shares = counts / max(1, counts.sum())
    return float(-(shares * np.log2(shares)).sum()) + 0.0


def encode_levels(levels) -> bytes:
    """A stream of levels and of the table that it was coded with.

    Args:
        levels: integers[T], of magnitude at most 2**62 - 1.

    Raises:
        ValueError: a level is larger, or no integer.
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
    """The inverse of `encode_levels`.

    Cut and lengthened streams are found; of changed ones, those whose table or lengths are impossible. The rest give
    other levels: what must be safe needs a checksum around it, as files of weights have.

    Args:
        stream: what `encode_levels` returned, all of it.
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
    """The table, the low bits int64[T] and the range coder's bytes. Raises ValueError."""
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
    # Floats are exact enough to find sums that do not fit.
    if max(-first - 1, first + (gaps + 1.0).sum()) > limit * (1 + 1e-12):
        raise ValueError("levels that are too large")
    weights = np.cumsum(np.clip(differences, -tables.TABLE_TOTAL, tables.TABLE_TOTAL))
    if weights.min() < 0 or not 0 < weights.max() <= tables.MAX_WEIGHT:
        raise ValueError("an impossible table")
    places = first + np.concatenate([np.zeros(1, np.int64), np.cumsum(gaps + 1)])
    return _Table(low_bits, places, weights), low, parts[3]


def _symbols(places: np.ndarray, known: np.ndarray) -> np.ndarray:
    """int32[T], the number of each place int64[T] among the known ones, int64[S], sorted."""
    span = int(known[-1] - known[0]) + 1
    if span > _LOOKUP_SPAN:
        return np.searchsorted(known, places).astype(np.int32)
    numbers = np.zeros(span, np.int32)
    numbers[known - known[0]] = np.arange(len(known))
    return numbers[places - known[0]]


def _best_table(levels: np.ndarray, counts: np.ndarray) -> _Table:
    """The table of the shortest stream for a histogram, int64[S] and int64[S]."""
    best, least = None, np.inf
    for low_bits in range(63):
        places, first = np.unique(levels >> low_bits, return_index=True)
        merged = np.add.reduceat(counts, first)
        if len(places) > MAX_SYMBOLS:
            continue
        # What no table can undercut: more low bits only make it larger.
        if low_bits and _entropy(merged) * counts.sum() + low_bits * counts.sum() > least:
            break
        for bits in _WEIGHT_BITS:
            scale = min(1, (1 << bits) / merged.max())
            table = _Table(low_bits, places, np.rint(merged * scale).astype(np.int64))
            if (size := _size(table, merged)) < least:
                best, least = table, size
            if scale == 1:  # these are the counts; more bits hold no more
                break
        if len(places) == 1:
            break
    return best


def _size(table: _Table, counts: np.ndarray) -> float:
    """Bits of a stream with this table, int64[S] being the counts of its symbols; the header left out."""
    differences = table.differences
    order = exp_golomb.best_order(differences)
    bits = exp_golomb.code_lengths(differences, order=order).sum() + exp_golomb.code_lengths(table.gaps).sum()
    return bits + (counts * (tables.TABLE_BITS - np.log2(table.freqs) + table.low_bits)).sum()
