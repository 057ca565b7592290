"""A range coder with 32-bit state and 16-bit tables (after Martin 1979), on the host.

The stream is a string of bytes, read as a base-256 fraction. The encoder keeps an interval `[low, low + size)`; a
symbol narrows it, and whenever `size` falls below 2**24 the top byte leaves. An overflow of `low` carries into the byte
before: here carries are added to the digits where they fall and resolved once at the end, which lets the same algorithm
run vectorised on a device (`codecs.device_coder`). Beyond its end a stream reads as zeros, so `finish` picks the value
of the last interval that ends in most zero bits and drops them.

Cost: truncating `size` to a multiple of 2**16 loses at most log2(1 + 2**-8) = 0.0056 bits a symbol and 0.0005 on
average; finishing takes about one byte.
"""

import numba
import numpy as np

from compressed_lm.coding.tables import TABLE_BITS

TOP = 1 << 24
"""A size below this lets a byte leave; the smallest table entry therefore moves at most two bytes a symbol."""

OVERRUN = 8
"""A decoder that wants more than this many bytes past the end of its stream reads a truncated or corrupted one."""


class CorruptStream(ValueError):
    """The bytes or ids are not what an encoder wrote."""


@numba.njit(cache=True, nogil=True)
def _encode(below, freq, digits):
    low, size, n = np.uint64(0), np.uint64(0xFFFFFFFF), 0
    for i in range(below.shape[0]):
        step = size >> np.uint64(TABLE_BITS)
        low += step * np.uint64(below[i])
        size = step * np.uint64(freq[i])
        if low >> np.uint64(32):
            digits[n - 1] += 1
            low &= np.uint64(0xFFFFFFFF)
        while size < np.uint64(TOP):
            digits[n] = low >> np.uint64(24)
            n += 1
            low = (low << np.uint64(8)) & np.uint64(0xFFFFFFFF)
            size <<= np.uint64(8)
    return low, size, n


def encode(below, freq, *, followed: bool = False) -> bytes:
    """The stream of a sequence of symbols, each given by its table entries.

    Args:
      below: uint32[T], cumulative frequency up to each symbol.
      freq: uint32[T], frequency of each symbol, at least 1; tables sum to 2**16.
      followed: other bytes will come right after the stream. It then decodes whatever they are, and its length depends
        on the symbols alone; otherwise it is read as if zeros came after it, which saves a byte or so.

    Returns:
      The shortest such stream.
    """
    digits = np.zeros(2 * len(below) + 1, np.uint16)
    low, size, n = _encode(np.asarray(below, np.uint32), np.asarray(freq, np.uint32), digits)
    stream, n_bytes = _finish(digits[:n], low, size, free_tail=followed)
    return stream[:n_bytes] if followed else stream.rstrip(b"\0")


def _finish(digits, low: int, size: int, *, free_tail: bool) -> tuple[bytes, int]:
    """The stream of an encoder's final state, and how many of its bytes matter.

    Picks the value in the last interval that ends in most free bits: bits that are zero or, with `free_tail`, may be
    anything.
    """
    low, last = int(low), int(low) + int(size) - 1
    values = [(k, -(-low >> k) << k) for k in range(32, -1, -1)]
    free, value = next((k, v) for k, v in values if v + ((1 << k) - 1 if free_tail else 0) <= last)
    digits = np.concatenate([digits, [(value >> shift) & 0xFF for shift in (24, 16, 8, 0)]]).astype(np.int64)
    if value >> 32:
        digits[len(digits) - 5] += 1
    return _carry(digits).tobytes(), len(digits) - free // 8


@numba.njit(cache=True, nogil=True)
def _carry(digits):
    out = np.empty(len(digits), np.uint8)
    carry = 0
    for i in range(len(digits) - 1, -1, -1):
        total = digits[i] + carry
        out[i] = total & 0xFF
        carry = total >> 8
    return out


class Decoder:
    """One stream, symbol by symbol, in plain Python: the readable form of the algorithm, for headers and tests."""

    def __init__(self, stream: bytes):
        self._stream, self.position = stream, 0
        self._code, self._size = 0, 0xFFFFFFFF
        for _ in range(4):
            self._code = self._code << 8 | self._next()

    def _next(self) -> int:
        self.position += 1
        return self._stream[self.position - 1] if self.position <= len(self._stream) else 0

    def symbol(self, cdf) -> int:
        """The next symbol under the cumulative table uint32[S + 1]."""
        step = self._size >> TABLE_BITS
        target = min(self._code // step, int(cdf[-1]) - 1)
        symbol = int(np.searchsorted(cdf, target, side="right")) - 1
        self._code -= step * int(cdf[symbol])
        self._size = step * int(cdf[symbol + 1] - cdf[symbol])
        while self._size < TOP:
            self._code, self._size = self._code << 8 | self._next(), self._size << 8
        return symbol


@numba.njit(cache=True, nogil=True)
def _decode(stream, cdf, stop_symbol, overrun, out):
    """Number of symbols written to `out`, and why it ended: 0 no room left, 1 the stop symbol came, 2 the stream is
    used up."""
    code, size, position = np.uint64(0), np.uint64(0xFFFFFFFF), 0
    for _ in range(4):
        code = (code << np.uint64(8)) | np.uint64(stream[position] if position < len(stream) else 0)
        position += 1
    for n in range(len(out)):
        if position > len(stream) + overrun:
            return n, 2
        step = size >> np.uint64(TABLE_BITS)
        target = min(code // step, np.uint64(cdf[-1] - 1))
        symbol = np.searchsorted(cdf, target, side="right") - 1
        if symbol == stop_symbol:
            return n, 1
        code -= step * np.uint64(cdf[symbol])
        size = step * np.uint64(cdf[symbol + 1] - cdf[symbol])
        while size < np.uint64(TOP):
            code = (code << np.uint64(8)) | np.uint64(stream[position] if position < len(stream) else 0)
            position += 1
            size <<= np.uint64(8)
        out[n] = symbol
    return len(out), 0


def _decode_all(stream: bytes, cdf, stop_symbol: int, overrun: int) -> tuple[np.ndarray, bool]:
    data, cdf = np.frombuffer(stream, np.uint8), np.asarray(cdf, np.uint32)
    capacity = 4 * len(data) + 64
    while True:
        out = np.empty(capacity, np.int32)
        n, reason = _decode(data, cdf, stop_symbol, overrun, out)
        if reason:
            return out[:n], reason == 1
        capacity *= 4


def decode_until(stream: bytes, cdf, stop_symbol: int) -> np.ndarray:
    """The symbols of a stream coded with one table throughout, up to and without `stop_symbol`.

    Args:
      stream: what `encode` returned.
      cdf: uint32[S + 1], cumulative table.
      stop_symbol: the symbol that ends the sequence.

    Returns:
      int32[T].

    Raises:
      CorruptStream: the stream ends before `stop_symbol` comes.
    """
    symbols, stopped = _decode_all(stream, cdf, stop_symbol, OVERRUN)
    if not stopped:
        raise CorruptStream(
            f"A stream of {len(stream)} bytes ended after {len(symbols)} symbols without its end symbol: it "
            "was truncated or changed. "
            "Restore it from its source."
        )
    return symbols


def decode_prefix(stream: bytes, cdf, stop_symbol: int) -> np.ndarray:
    """The symbols that the beginning of a stream determines, at most up to `stop_symbol`: int32[T]."""
    return _decode_all(stream, cdf, stop_symbol, 0)[0]
