"""Range coder with 32-bit state and 16-bit tables (after Martin 1979), on the host.

The stream is a byte string, read as a base-256 fraction. The encoder keeps an interval `[low, low + size)`; a symbol
narrows it, and when `size` falls below 2**24 the top byte is written. An overflow of `low` carries into the bytes
before. A stream reads as zeros beyond its end, so the encoder ends with the value in the last interval that has the
most trailing zero bits, and omits them.

Overhead: truncating `size` to a multiple of 2**16 loses at most log2(1 + 2**-8) = 0.0056 bits per symbol and 0.0005 on
average; the end takes about one byte. `benchmarks/range_coder.py` measures speed and length.
"""

import itertools

import numpy as np
import numpy.typing as npt

from compressed_lm.coding.compiled import njit
from compressed_lm.coding.tables import TABLE_BITS, TABLE_TOTAL
from compressed_lm.errors import CorruptStream, InputError

TOP = 1 << 24
"""A byte is written when the size falls below this; so a symbol writes at most two bytes."""

OVERRUN = 8
"""Largest number of bytes that a decoder reads beyond the end of a valid stream."""

_MASK = (1 << 32) - 1  # also the size of the first interval
_GUIDE_SHIFT = TABLE_BITS - 10
_BLOCK = 16


# Kernels compute in int64, which holds all values: `low` is below 2**33 and `code` has 32 bits. Numba converts a mix of
# unsigned 64-bit and signed integers to float64.


@njit(nogil=True, inline="always")
def _carry(out, n):
    """Adds one to the number in the bytes before position n. Linear time in total, since a byte carries only once."""
    n -= 1
    while out[n] == 255:
        out[n] = 0
        n -= 1
    out[n] += 1


@njit(nogil=True, inline="always")
def _put(low, size, n, out, below, freq):
    """Encodes a symbol; returns the new interval and the number of bytes in `out`, at most two more than before."""
    step = size >> TABLE_BITS
    low, size = low + step * below, step * freq
    if low > _MASK:
        _carry(out, n)
        low &= _MASK
    # The number of bytes to write is unpredictable, so two are written and only the needed ones count: no branch.
    out[n], out[n + 1] = low >> 24, (low >> 16) & 255
    leaving = np.int64(size < TOP) + np.int64(size < TOP >> 8)
    return (low << 8 * leaving) & _MASK, size << 8 * leaving, n + leaving


@njit(nogil=True)
def _end(low, size, n, out, followed, spare):
    """Writes the end of a stream; returns its number of bytes.

    It is the value in the last interval with the most free trailing bits (zero or, if other bytes follow, arbitrary).
    At most `spare` zero bytes are omitted, counted from the decoder's read position.
    """
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
    """Encodes to out: uint8[2 T + 4]; returns the number of bytes, or -1 for invalid table entries."""
    low, size, n = np.int64(0), np.int64(_MASK), 0
    for i in range(len(below)):
        start, width = np.int64(below[i]), np.int64(freq[i])
        if width == 0 or start + width > TABLE_TOTAL:
            return -1
        low, size, n = _put(low, size, n, out, start, width)
    return _end(low, size, n, out, followed, spare)


@njit(nogil=True)
def _encode_symbols(symbols, cdfs, followed, spare, out):
    """Encodes as `_encode`, with the entries from the table of each symbol, or from the only table."""
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
        raise InputError("Symbols outside their table, or of frequency 0, cannot be encoded. Tables must sum to 2**16.")
    return out[:n_bytes].tobytes()


def _spare(stops: bool) -> int:
    return OVERRUN if stops else 1 << 62


def encode(below: np.ndarray, freq: np.ndarray, *, followed: bool = False, stops: bool = False) -> bytes:
    """Returns the stream of a sequence of symbols, given by their table entries.

    Args:
        below: uint32[T], cumulative frequency before each symbol.
        freq: uint32[T], frequency of each symbol, at least 1; tables sum to 2**16.
        followed: whether other bytes follow the stream directly. It then decodes with any bytes after it, and its
            length depends only on the symbols. Otherwise it is read as if zeros followed, which saves about one byte.
        stops: whether the last symbol is a stop symbol, for `decode_until`, which reads at most `OVERRUN` bytes beyond
            the end.

    Returns:
        The shortest such stream.

    Raises:
        InputError: an entry has frequency 0 or ends above 2**16.
    """
    return encode_batch(below, freq, (len(below),), followed=followed, stops=stops)[0]


def encode_batch(
    below: npt.ArrayLike, freq: npt.ArrayLike, lengths: npt.ArrayLike, *, followed: bool = False, stops: bool = False
) -> list[bytes]:
    """Returns `encode` of many sequences; faster than single calls for short ones.

    Args:
        below, freq: uint32[T], table entries as in `encode`, concatenated.
        lengths: integers[N] that sum to T, symbols of each sequence.
        followed, stops: as in `encode`.

    Returns:
        N streams.

    Raises:
        InputError: as in `encode`, or the lengths do not sum to T.
    """
    below, freq, lengths = np.asarray(below, np.uint32), np.asarray(freq, np.uint32), np.asarray(lengths, np.int64)
    if lengths.min(initial=0) < 0 or not lengths.sum() == len(below) == len(freq):
        raise InputError(f"{len(below)} and {len(freq)} table entries were given for {lengths.sum()} symbols.")
    out, ends = np.empty(2 * len(below) + 4 * len(lengths), np.uint8), np.empty(len(lengths), np.int64)
    data = _written(out, _encode_batch(below, freq, lengths, followed, _spare(stops), out, ends))
    return [data[start:stop] for start, stop in itertools.pairwise([0, *ends.tolist()])]


def encode_symbols(
    symbols: npt.ArrayLike, cdfs: npt.ArrayLike, *, followed: bool = False, stops: bool = False
) -> bytes:
    """Returns the stream of symbols, given with their tables; `decode` is the inverse.

    Args:
        symbols: int32[T], below S.
        cdfs: uint32[T, S + 1], a cumulative table for each symbol, or uint32[S + 1], one for all.
        followed, stops: as in `encode`.

    Raises:
        InputError: a symbol is not in its table, or the number of tables is not that of the symbols.
    """
    symbols, cdfs = np.asarray(symbols, np.int32), np.ascontiguousarray(cdfs, np.uint32)
    if cdfs.ndim == 2 and len(cdfs) != len(symbols):
        raise InputError(f"{len(cdfs)} tables were given for {len(symbols)} symbols.")
    out = np.empty(2 * len(symbols) + 4, np.uint8)
    return _written(out, _encode_symbols(symbols, cdfs.reshape(-1, cdfs.shape[-1]), followed, _spare(stops), out))


class Decoder:
    """Decoder of one stream, symbol by symbol, in plain Python: a readable reference, for headers and tests."""

    def __init__(self, stream: bytes) -> None:
        self._stream, self.position = stream, 0
        self._code, self._size = 0, _MASK
        for _ in range(4):
            self._code = self._code << 8 | self._next()

    def _next(self) -> int:
        self.position += 1
        return self._stream[self.position - 1] if self.position <= len(self._stream) else 0

    def symbol(self, cdf: np.ndarray) -> int:
        """Returns the next symbol, given its cumulative table uint32[S + 1]."""
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
    """Returns the decoder state after a symbol: the code within its interval, the interval's size, bytes read."""
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
    """Decodes one symbol with each of the tables cdfs[T, S + 1]; returns False if a table is invalid."""
    code, size, position, last = _first_code(stream), np.int64(_MASK), 4, cdfs.shape[1] - 2
    for n in range(len(out)):
        cdf, target = cdfs[n], _target(code, size)
        # The table is not in the cache yet. Searching every sixteenth entry and then within sixteen is predictable
        # for the processor: 2 to 4 times as fast as bisection.
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
    """Decodes symbols to `out` with one table.

    Returns:
        Number of symbols; reason of the end (0: `out` is full, 1: stop symbol, 2: more than `used_up` bytes were read,
        or bytes that no encoder writes); code, size and bytes read.
    """
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


def _one_table(cdf: npt.ArrayLike) -> np.ndarray:
    """Returns a checked table, so that `_decode_shared` does not read outside it."""
    cdf = np.ascontiguousarray(cdf, np.uint32)
    if cdf.ndim != 1 or len(cdf) < 2 or cdf[0] != 0 or cdf[-1] != TABLE_TOTAL:
        raise _not_tables(cdf)
    return cdf


def decode(stream: bytes, cdfs: npt.ArrayLike, n_symbols: int | None = None) -> np.ndarray:
    """Returns the symbols of a stream, given their tables; undoes `encode_symbols`.

    A stream reads as zeros beyond its end. So a truncated or changed stream gives other symbols, not an error. Use
    `decode_until` for sequences that end in a stop symbol.

    Args:
        stream: output of an `encode` function.
        cdfs: uint32[T, S + 1], a cumulative table for each symbol, or uint32[S + 1], one for all.
        n_symbols: T; required with one table, and not allowed with several.

    Returns:
        int32[T].

    Raises:
        InputError: `cdfs` are not cumulative tables, or `n_symbols` is wrong for them.
    """
    data, cdfs = np.frombuffer(stream, np.uint8), np.ascontiguousarray(cdfs, np.uint32)
    if (cdfs.ndim == 1) != (n_symbols is not None):
        raise InputError("A number of symbols was expected with one table, and only then.")
    if n_symbols is not None:
        out = np.empty(n_symbols, np.int32)
        _decode_shared(data, _one_table(cdfs), -1, np.iinfo(np.int64).max, out)
        return out
    out = np.empty(len(cdfs), np.int32)
    if cdfs.ndim != 2 or cdfs.shape[1] < 2 or not _decode_each(data, cdfs, out):
        raise _not_tables(cdfs)
    return out


def _decode_all(
    stream: bytes, cdf: npt.ArrayLike, stop_symbol: int, overrun: int
) -> tuple[np.ndarray, bool, tuple[int, int, int]]:
    """Returns the symbols, whether the stop symbol was read, and the decoder's last state (see `rewritten`)."""
    data, cdf = np.frombuffer(stream, np.uint8), _one_table(cdf)
    capacity = 4 * len(data) + 64
    while True:
        out = np.empty(capacity, np.int32)
        n, reason, *state = _decode_shared(data, cdf, stop_symbol, len(data) + overrun, out)
        if reason:
            return out[:n], reason == 1, state
        capacity *= 4


def rewritten(stream: bytes, code: int, size: int, n_read: int) -> bytes:
    """Returns what `encode` writes for the symbols of a decoded stream that ended in a stop symbol.

    No tables are needed: all values within the last interval decode to the same symbols, and the encoder's choice among
    them is known. A stream that differs from the result was not written by the encoder.

    Args:
        stream: the decoded stream.
        code, size, n_read: the decoder's state after the last symbol: the stream's position within the interval, the
            interval's size, and bytes read.
    """
    low, free = int.from_bytes(stream[:n_read].ljust(n_read, b"\0"), "big") - code, 32
    while (value := -(-low >> free) << free) >= low + size:
        free -= 1
    least = max(n_read - OVERRUN, 0)
    written = value.to_bytes(n_read, "big")
    return written[:least] + written[least:].rstrip(b"\0")


def decode_until(stream: bytes, cdf: npt.ArrayLike, stop_symbol: int) -> tuple[np.ndarray, bytes]:
    """Returns the symbols of a stream with one table, up to `stop_symbol` (exclusive).

    Args:
        stream: output of `encode(..., stops=True)`.
        cdf: uint32[S + 1], cumulative table.
        stop_symbol: the symbol that ends the sequence.

    Returns:
        int32[T], and the stream that `encode` writes for them. If this differs from the given stream, other than by
        zeros at the end, the given stream was changed.

    Raises:
        CorruptStream: the stream ends before `stop_symbol`.
    """
    symbols, stopped, state = _decode_all(stream, cdf, stop_symbol, OVERRUN)
    if not stopped:
        raise CorruptStream(
            f"A stream of {len(stream)} bytes ended after {len(symbols)} symbols without its end symbol: it "
            "was truncated or changed. Restore it from its source."
        )
    return symbols, rewritten(stream, *state)


def decode_prefix(stream: bytes, cdf: npt.ArrayLike, stop_symbol: int) -> np.ndarray:
    """Returns the symbols int32[T] that the beginning of a stream determines, up to `stop_symbol` (exclusive)."""
    return _decode_all(stream, cdf, stop_symbol, 0)[0]
