"""A range coder with 32-bit state and 16-bit tables (after Martin 1979), on the host.

The stream is a string of bytes, read as a base-256 fraction. The encoder keeps an interval `[low, low + size)`; a
symbol narrows it, and whenever `size` falls below 2**24 the top byte leaves. An overflow of `low` carries into the
bytes before. Beyond its end a stream reads as zeros, so the encoder ends with the value of the last interval that ends
in most zero bits and drops them.

Cost: truncating `size` to a multiple of 2**16 loses at most log2(1 + 2**-8) = 0.0056 bits a symbol and 0.0005 on
average; the end takes about one byte. `benchmarks/range_coder.py` measures speed and length.
"""

import itertools

import numpy as np

from compressed_lm.coding.compiled import njit
from compressed_lm.coding.tables import TABLE_BITS, TABLE_TOTAL

TOP = 1 << 24
"""A size below this lets a byte leave; the smallest table entry therefore moves at most two bytes a symbol."""

OVERRUN = 8
"""A decoder that wants more than this many bytes past the end of its stream reads a truncated or corrupted one."""

_MASK = (1 << 32) - 1  # also the size of the first interval
_GUIDE_SHIFT = TABLE_BITS - 10
_BLOCK = 16


class CorruptStream(ValueError):
    """The bytes or ids are not what an encoder wrote."""


# Kernels compute in int64, which holds every value here: `low` stays below 2**33 and `code` is cut to 32 bits. Beside a
# signed number, Numba would turn the uint32 of a table into float64.


@njit(nogil=True, inline="always")
def _carry(out, n):
    """Adds one to the number that the bytes before position n spell; linear in all, since a byte carries once."""
    n -= 1
    while out[n] == 255:
        out[n] = 0
        n -= 1
    out[n] += 1


@njit(nogil=True, inline="always")
def _put(low, size, n, out, below, freq):
    """Encoder state after a symbol: the interval, and bytes written to `out`, at most two more than before."""
    step = size >> TABLE_BITS
    low, size = low + step * below, step * freq
    if low > _MASK:
        _carry(out, n)
        low &= _MASK
    # Whether a byte leaves is hard to foresee, so two are written and as many as leave are kept, without a branch.
    out[n], out[n + 1] = low >> 24, (low >> 16) & 255
    leaving = np.int64(size < TOP) + np.int64(size < TOP >> 8)
    return (low << 8 * leaving) & _MASK, size << 8 * leaving, n + leaving


@njit(nogil=True)
def _end(low, size, n, out, followed, spare):
    """Number of bytes of the whole stream. Picks the value in the last interval that ends in most free bits: bits that
    are zero or, if other bytes follow, may be anything. At most `spare` zero bytes are left out, counted from where a
    decoder has read to."""
    free, least = 32, n + 4 - spare
    while True:
        value = ((low + (1 << free) - 1) >> free) << free
        if value + ((1 << free) - 1 if followed else 0) < low + size:
            break
        free -= 1
    if value > _MASK:
        _carry(out, n)
    for shift in (24, 16, 8, 0):
        out[n] = (value >> shift) & 255
        n += 1
    n -= free >> 3
    while not followed and n > max(least, 0) and out[n - 1] == 0:
        n -= 1
    while not followed and n < least:
        out[n] = 0
        n += 1
    return n


@njit(nogil=True)
def _encode(below, freq, followed, spare, out):
    """Number of bytes written to out: uint8[2 T + 4]; -1 for entries that are no part of a table."""
    low, size, n = np.int64(0), np.int64(_MASK), 0
    for i in range(len(below)):
        start, width = np.int64(below[i]), np.int64(freq[i])
        if width == 0 or start + width > TABLE_TOTAL:
            return -1
        low, size, n = _put(low, size, n, out, start, width)
    return _end(low, size, n, out, followed, spare)


@njit(nogil=True)
def _encode_symbols(symbols, cdfs, followed, spare, out):
    """`_encode` with the entries looked up in the table of each symbol, or in the only table."""
    low, size, n, each = np.int64(0), np.int64(_MASK), 0, len(cdfs) > 1
    for i in range(len(symbols)):
        symbol, row = symbols[i], i if each else 0
        if not 0 <= symbol < cdfs.shape[1] - 1:
            return -1
        start, stop = np.int64(cdfs[row, symbol]), np.int64(cdfs[row, symbol + 1])
        if not start < stop <= TABLE_TOTAL:
            return -1
        low, size, n = _put(low, size, n, out, start, stop - start)
    return _end(low, size, n, out, followed, spare)


@njit(nogil=True)
def _encode_batch(below, freq, lengths, followed, spare, out, ends):
    start = position = 0
    for i in range(len(lengths)):
        stop = start + lengths[i]
        n = _encode(below[start:stop], freq[start:stop], followed, spare, out[position:])
        if n < 0:
            return -1
        start, position = stop, position + n
        ends[i] = position
    return position


def _written(out: np.ndarray, n_bytes: int) -> bytes:
    if n_bytes < 0:
        raise ValueError("Symbols outside their table, or of frequency 0, cannot be coded. Tables must sum to 2**16.")
    return out[:n_bytes].tobytes()


def _spare(stops: bool) -> int:
    return OVERRUN if stops else 1 << 62


def encode(below, freq, *, followed: bool = False, stops: bool = False) -> bytes:
    """The stream of a sequence of symbols, each given by its table entries.

    Args:
        below: uint32[T], cumulative frequency up to each symbol.
        freq: uint32[T], frequency of each symbol, at least 1; tables sum to 2**16.
        followed: other bytes will come right after the stream. It then decodes whatever they are, and its length
            depends on the symbols alone; otherwise it is read as if zeros came after it, which saves a byte or so.
        stops: the last symbol is a stop symbol, for `decode_until`, which reads at most `OVERRUN` bytes past the end.

    Returns:
        The shortest such stream.

    Raises:
        ValueError: an entry has frequency 0 or reaches beyond 2**16.
    """
    return encode_batch(below, freq, (len(below),), followed=followed, stops=stops)[0]


def encode_batch(below, freq, lengths, *, followed: bool = False, stops: bool = False) -> list[bytes]:
    """`encode` of many sequences in one call, which pays for short ones.

    Args:
        below, freq: uint32[T], table entries as in `encode`, one sequence after another.
        lengths: integers[N] that sum to T, symbols of each sequence.
        followed, stops: as in `encode`.

    Returns:
        N streams.

    Raises:
        ValueError: as in `encode`, or the lengths do not fit.
    """
    below, freq, lengths = np.asarray(below, np.uint32), np.asarray(freq, np.uint32), np.asarray(lengths, np.int64)
    if lengths.min(initial=0) < 0 or not lengths.sum() == len(below) == len(freq):
        raise ValueError(f"{len(below)} and {len(freq)} table entries were given for {lengths.sum()} symbols.")
    out, ends = np.empty(2 * len(below) + 4 * len(lengths), np.uint8), np.empty(len(lengths), np.int64)
    data = _written(out, _encode_batch(below, freq, lengths, followed, _spare(stops), out, ends))
    return [data[start:stop] for start, stop in itertools.pairwise([0, *ends.tolist()])]


def encode_symbols(symbols, cdfs, *, followed: bool = False, stops: bool = False) -> bytes:
    """`encode` of symbols given with their tables; `decode` is the inverse.

    Args:
        symbols: int32[T], below S.
        cdfs: uint32[T, S + 1], a cumulative table for each symbol, or uint32[S + 1], one for all.
        followed, stops: as in `encode`.

    Raises:
        ValueError: a symbol is not in its table, or there are more tables or fewer than symbols.
    """
    symbols, cdfs = np.asarray(symbols, np.int32), np.ascontiguousarray(cdfs, np.uint32)
    if cdfs.ndim == 2 and len(cdfs) != len(symbols):
        raise ValueError(f"{len(cdfs)} tables were given for {len(symbols)} symbols.")
    out = np.empty(2 * len(symbols) + 4, np.uint8)
    return _written(out, _encode_symbols(symbols, cdfs.reshape(-1, cdfs.shape[-1]), followed, _spare(stops), out))


class Decoder:
    """One stream, symbol by symbol, in plain Python: the readable form of the algorithm, for headers and tests."""

    def __init__(self, stream: bytes):
        self._stream, self.position = stream, 0
        self._code, self._size = 0, _MASK
        for _ in range(4):
            self._code = self._code << 8 | self._next()

    def _next(self) -> int:
        self.position += 1
        return self._stream[self.position - 1] if self.position <= len(self._stream) else 0

    def symbol(self, cdf) -> int:
        """The next symbol under the cumulative table uint32[S + 1]."""
        step = self._size >> TABLE_BITS
        target = min(self._code // step, TABLE_TOTAL - 1)
        symbol = int(np.searchsorted(cdf, target, side="right")) - 1
        self._code -= step * int(cdf[symbol])
        self._size = step * int(cdf[symbol + 1] - cdf[symbol])
        while self._size < TOP:
            self._code, self._size = (self._code << 8 | self._next()) & _MASK, self._size << 8
        return symbol


@njit(nogil=True, inline="always")
def _narrow(stream, code, size, position, below, above):
    """Decoder state after a symbol: the code within its interval, the interval's size, bytes read."""
    step = size >> TABLE_BITS
    code, size = code - step * np.int64(below), step * (np.int64(above) - np.int64(below))
    while size < TOP:
        code = (code << 8 | (np.int64(stream[position]) if position < len(stream) else 0)) & _MASK
        size, position = size << 8, position + 1
    return code, size, position


@njit(nogil=True, inline="always")
def _target(code, size):
    return min(np.int64(np.uint32(code) // np.uint32(size >> TABLE_BITS)), TABLE_TOTAL - 1)


@njit(nogil=True)
def _first_code(stream):
    code = np.int64(0)
    for i in range(4):
        code = code << 8 | (np.int64(stream[i]) if i < len(stream) else 0)
    return code


@njit(nogil=True, error_model="numpy")
def _decode_each(stream, cdfs, out):
    """One symbol from each of the tables cdfs[T, S + 1]; False where one of them is none."""
    code, size, position, last = _first_code(stream), np.int64(_MASK), 4, cdfs.shape[1] - 2
    for n in range(len(out)):
        cdf, target = cdfs[n], _target(code, size)
        # A table is new to the cache. Every sixteenth entry, then within sixteen, is an order that the processor
        # foresees: two to four times as fast as bisection.
        symbol = 0
        while symbol + _BLOCK <= last and np.int64(cdf[symbol + _BLOCK]) <= target:
            symbol += _BLOCK
        while symbol < last and np.int64(cdf[symbol + 1]) <= target:
            symbol += 1
        if not np.int64(cdf[symbol]) <= target < np.int64(cdf[symbol + 1]):
            return False
        out[n] = symbol
        code, size, position = _narrow(stream, code, size, position, cdf[symbol], cdf[symbol + 1])
    return True


@njit(nogil=True, error_model="numpy")
def _decode_shared(stream, cdf, stop_symbol, used_up, out):
    """Number of symbols written to `out`; why it ended (0 no room left, 1 the stop symbol came, 2 it has read more than
    `used_up` bytes or what no encoder writes); code, size and bytes read."""
    guide = np.empty(TABLE_TOTAL >> _GUIDE_SHIFT, np.int32)  # symbol at which the search for a target starts
    first = 0
    for i in range(len(guide)):
        while np.int64(cdf[first + 1]) <= i << _GUIDE_SHIFT:
            first += 1
        guide[i] = first
    code, size, position = _first_code(stream), np.int64(_MASK), 4
    for n in range(len(out)):
        target = _target(code, size)
        if position > used_up or (stop_symbol >= 0 and code >= (size >> TABLE_BITS) * TABLE_TOTAL):
            return n, 2, code, size, position
        symbol = np.int64(guide[target >> _GUIDE_SHIFT])
        while np.int64(cdf[symbol + 1]) <= target:
            symbol += 1
        code, size, position = _narrow(stream, code, size, position, cdf[symbol], cdf[symbol + 1])
        if symbol == stop_symbol:
            return n, 1, code, size, position
        out[n] = symbol
    return len(out), 0, code, size, position


def _not_tables(cdfs: np.ndarray) -> ValueError:
    return ValueError(f"{cdfs.dtype}{list(cdfs.shape)} was given; cumulative tables from 0 to 2**16 were expected.")


def _one_table(cdf) -> np.ndarray:
    """A table that `_decode_shared` cannot leave."""
    cdf = np.ascontiguousarray(cdf, np.uint32)
    if cdf.ndim != 1 or len(cdf) < 2 or cdf[0] != 0 or cdf[-1] != TABLE_TOTAL:
        raise _not_tables(cdf)
    return cdf


def decode(stream: bytes, cdfs, n_symbols: int | None = None) -> np.ndarray:
    """Symbols from a stream and their tables: the inverse of `encode_symbols`.

    The number of symbols is given, and beyond its end a stream reads as zeros: one that was cut or changed gives other
    symbols, not an error. Sequences that end in a symbol of their own are for `decode_until`.

    Args:
        stream: what an `encode` function returned.
        cdfs: uint32[T, S + 1], a cumulative table for each symbol, or uint32[S + 1], one for all.
        n_symbols: T, where one table is given for all.

    Returns:
        int32[T].

    Raises:
        ValueError: `cdfs` are no cumulative tables, or `n_symbols` is given with many or missing with one.
    """
    data, cdfs = np.frombuffer(stream, np.uint8), np.ascontiguousarray(cdfs, np.uint32)
    if (cdfs.ndim == 1) != (n_symbols is not None):
        raise ValueError("A number of symbols was expected with one table for all, and only then.")
    if n_symbols is not None:
        out = np.empty(n_symbols, np.int32)
        _decode_shared(data, _one_table(cdfs), -1, np.iinfo(np.int64).max, out)
        return out
    out = np.empty(len(cdfs), np.int32)
    if cdfs.ndim != 2 or cdfs.shape[1] < 2 or not _decode_each(data, cdfs, out):
        raise _not_tables(cdfs)
    return out


def _decode_all(stream: bytes, cdf, stop_symbol: int, overrun: int) -> tuple[np.ndarray, bool, tuple[int, int, int]]:
    """Symbols; whether the stop symbol came; the decoder's state then, see `rewritten`."""
    data, cdf = np.frombuffer(stream, np.uint8), _one_table(cdf)
    capacity = 4 * len(data) + 64
    while True:
        out = np.empty(capacity, np.int32)
        n, reason, *state = _decode_shared(data, cdf, stop_symbol, len(data) + overrun, out)
        if reason:
            return out[:n], reason == 1, state
        capacity *= 4


def rewritten(stream: bytes, code: int, size: int, n_read: int) -> bytes:
    """What `encode` writes for the symbols that were decoded from a stream, the last one being a stop symbol.

    No tables are needed: the stream decodes to the same symbols wherever it lies within the last interval, and the
    encoder's choice in there is known. A stream that differs from this is not what the encoder wrote.

    Args:
        stream: what was decoded.
        code, size, n_read: the decoder's state after the last symbol: where the stream lies within the interval, the
            interval's size, and bytes read.
    """
    low, free = int.from_bytes(stream[:n_read].ljust(n_read, b"\0"), "big") - code, 32
    while (value := -(-low >> free) << free) >= low + size:
        free -= 1
    least = max(n_read - OVERRUN, 0)
    written = value.to_bytes(n_read, "big")
    return written[:least] + written[least:].rstrip(b"\0")


def decode_until(stream: bytes, cdf, stop_symbol: int) -> tuple[np.ndarray, bytes]:
    """The symbols of a stream coded with one table throughout, up to and without `stop_symbol`.

    Args:
        stream: what `encode(..., stops=True)` returned.
        cdf: uint32[S + 1], cumulative table.
        stop_symbol: the symbol that ends the sequence.

    Returns:
        int32[T], and the stream that `encode` writes for them. If it is not the stream given, but for zeros at the end,
        that one was changed.

    Raises:
        CorruptStream: the stream ends before `stop_symbol` comes.
    """
    symbols, stopped, state = _decode_all(stream, cdf, stop_symbol, OVERRUN)
    if not stopped:
        raise CorruptStream(
            f"A stream of {len(stream)} bytes ended after {len(symbols)} symbols without its end symbol: it "
            "was truncated or changed. Restore it from its source."
        )
    return symbols, rewritten(stream, *state)


def decode_prefix(stream: bytes, cdf, stop_symbol: int) -> np.ndarray:
    """The symbols that the beginning of a stream determines, at most up to `stop_symbol`: int32[T]."""
    return _decode_all(stream, cdf, stop_symbol, 0)[0]
