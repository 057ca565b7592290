"""Integer codes without a table: exp-Golomb and Rice codes of a given order, and fixed-width codes.

The exp-Golomb code of order k is v + 2**k in binary, preceded by (its number of bits - k - 1) zeros. Its length in bits
is 2 floor(log2(floor(v / 2**k) + 1)) + k + 1 (Teuhola 1978; papers/002 section 3). The Rice code of order k, which is
Golomb's with parameter 2**k, is floor(v / 2**k) zeros, a one and the low k bits of v.

Both are for numbers v >= 0 of which large ones are rare; `zigzag` maps signed levels to such numbers. Bits are written
most significant first, and the last byte is zero-padded.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from numba.cpython.unsafe.numbers import leading_zeros

from compressed_lm.coding.compiled import njit
from compressed_lm.errors import CorruptStream, InputError

MAX_LEVEL = (1 << 62) - 1
"""Largest magnitude of a level: its code of at most 125 bits fits in the decoder's two words."""

MAX_BITS = 1 << 38
"""Largest length of a stream in bits: a Rice code whose order is too small can have any length."""

_MAX_ORDER = 62
_LARGEST = (1 << 63) - 1
_EXP_GOLOMB, _RICE, _FIXED = range(3)
_COUNTED_SPAN = 1 << 22  # levels in a smaller range are counted in an array


def zigzag(levels: npt.ArrayLike) -> np.ndarray:
    """Maps signed levels to numbers >= 0: 0, 1, -1, 2, -2, ... become 0, 1, 2, 3, 4, ...

    Args:
        levels: integers[...], of magnitude at most `MAX_LEVEL`.

    Returns:
        int64[...].

    Raises:
        InputError: a level is too large, or not an integer.
    """
    levels = as_levels(levels)
    return np.where(levels > 0, 2 * levels - 1, -2 * levels)


def unzigzag(values: npt.ArrayLike) -> np.ndarray:
    """Returns signed levels, int64[...]; undoes `zigzag`."""
    values = np.asarray(values, np.int64)
    return np.where(values & 1, (values >> 1) + 1, -(values >> 1))


def as_levels(levels: npt.ArrayLike) -> np.ndarray:
    """Returns integers as int64[...]. Raises ValueError for other types and for magnitudes above `MAX_LEVEL`."""
    levels = np.asarray(levels)
    if levels.size == 0:
        return levels.astype(np.int64)
    if not np.issubdtype(levels.dtype, np.integer):
        raise InputError(f"An array of {levels.dtype} was given; integers were expected. Round the levels first.")
    low, high = int(levels.min()), int(levels.max())
    if max(-low, high) > MAX_LEVEL:
        raise InputError(
            f"Levels from {low} to {high} were given; magnitudes of at most 2**62 - 1 were expected. Use a larger step."
        )
    return levels.astype(np.int64, copy=False)


def histogram(levels: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sorted distinct levels of integers[...] and their counts, int64[S] and int64[S]."""
    levels = as_levels(levels).reshape(-1)
    if not levels.size:
        return levels, levels
    low, high = int(levels.min()), int(levels.max())
    if high - low >= _COUNTED_SPAN:
        return np.unique(levels, return_counts=True)
    counts = np.bincount(levels - low)
    (places,) = np.nonzero(counts)
    return places + low, counts[places]


def code_lengths(values: npt.ArrayLike, *, order: int = 0) -> np.ndarray:
    """Returns the length in bits of the exp-Golomb code of each number, int64[...].

    Args:
        values: integers[...], at least 0: ranks, or levels after `zigzag`.
        order: k, 0 to 62; 0 for EG0.
    """
    return 2 * _bit_length((_numbers(values) >> _checked(order)) + 1) + order - 1


def rice_lengths(values: npt.ArrayLike, *, order: int) -> np.ndarray:
    """Returns the length in bits of the Rice code of each number, int64[...]; arguments as in `code_lengths`."""
    return (_numbers(values) >> _checked(order)) + order + 1


def best_order(values: npt.ArrayLike) -> int:
    """Returns the lowest order that gives the shortest exp-Golomb code of numbers, integers[...]."""
    return _best(values, code_lengths)


def best_rice(values: npt.ArrayLike) -> int:
    """Returns the lowest order that gives the shortest Rice code of numbers, integers[...]."""
    return _best(values, rice_lengths)


def encode(values: npt.ArrayLike, *, order: int = 0) -> bytes:
    """Returns the concatenated exp-Golomb codes of numbers.

    Args:
        values: integers[T], at least 0.
        order: k, 0 to 62.

    Raises:
        InputError: a number is below 0 or above 2**63 - 2, the order is invalid, or the stream is longer than
            `MAX_BITS`.
    """
    return _encode(values, _EXP_GOLOMB, order)


def decode(stream: bytes, n_values: int, *, order: int = 0) -> np.ndarray:
    """Returns the numbers of a stream of exp-Golomb codes; undoes `encode`.

    Args:
        stream: the complete output of `encode`.
        n_values: T.
        order: k.

    Returns:
        int64[T].

    Raises:
        CorruptStream: the stream is not T codes and zero padding of the last byte.
    """
    return _decode_all(stream, n_values, _EXP_GOLOMB, order)


def decode_prefix(stream: bytes, n_values: int, *, order: int = 0) -> tuple[np.ndarray, int]:
    """Decodes the beginning of a stream; returns the numbers, int64[T], and the bytes that their codes take."""
    return _decode(stream, n_values, _EXP_GOLOMB, order)


def encode_rice(values: npt.ArrayLike, *, order: int) -> bytes:
    """Returns the concatenated Rice codes of numbers; arguments and errors as in `encode`."""
    return _encode(values, _RICE, order)


def decode_rice(stream: bytes, n_values: int, *, order: int) -> np.ndarray:
    """Returns the numbers of a stream of Rice codes; arguments and errors as in `decode`."""
    return _decode_all(stream, n_values, _RICE, order)


def encode_fixed(values: npt.ArrayLike, *, width: int) -> bytes:
    """Returns numbers below 2**width as `width` bits each; errors as in `encode`."""
    values = _numbers(values)
    if values.size and int(values.max()) >> width:
        raise InputError(
            f"{values.max()} was given to a code of {width} bits; numbers below {1 << width} were expected."
        )
    return _encode(values, _FIXED, width)


def decode_fixed(stream: bytes, n_values: int, *, width: int) -> np.ndarray:
    """Returns the numbers of a stream of `width` bits each; errors as in `decode`."""
    return _decode_all(stream, n_values, _FIXED, width)


def _checked(order: int) -> int:
    if not 0 <= order <= _MAX_ORDER:
        raise InputError(f"An order of {order} was given; 0 to {_MAX_ORDER} was expected.")
    return order


def _numbers(values: npt.ArrayLike) -> np.ndarray:
    values = np.asarray(values)
    if values.size == 0:
        return values.astype(np.int64)
    low, high = values.min(), values.max()
    if not np.issubdtype(values.dtype, np.integer) or low < 0 or high > 2 * MAX_LEVEL:
        raise InputError(
            f"{values.dtype} from {low} to {high} was given; integers from 0 to 2**63 - 2 were expected. Signed levels "
            "go through `zigzag` first."
        )
    return values.astype(np.int64, copy=False)


def _bit_length(values: np.ndarray) -> np.ndarray:
    """Returns floor(log2(v)) + 1 of integers from 1 to 2**63 - 1."""
    high = values >> 32
    # A float64 holds each half exactly.
    return np.where(high > 0, np.frexp(high)[1] + 32, np.frexp(values & 0xFFFFFFFF)[1]).astype(np.int64)


def _best(values: npt.ArrayLike, lengths: Callable[..., np.ndarray]) -> int:
    numbers = _numbers(values)
    distinct, counts = histogram(numbers) if numbers.size else (np.zeros(1, np.int64), np.ones(1, np.int64))
    orders = range(min(_MAX_ORDER, int(distinct[-1]).bit_length()) + 1)
    # float64, since Rice codes of a small order can take more than 2**63 bits in total.
    return min(orders, key=lambda order: (lengths(distinct, order=order).astype(np.float64) * counts).sum())


def _encode(values: npt.ArrayLike, kind: int, order: int) -> bytes:
    values = _numbers(values).reshape(-1)
    if kind == _FIXED:
        n_bits = len(values) * _checked(order)
    else:
        lengths = (code_lengths if kind == _EXP_GOLOMB else rice_lengths)(values, order=order)
        n_bits = int(lengths.sum()) if lengths.sum(dtype=np.float64) <= MAX_BITS else MAX_BITS + 1
    if n_bits > MAX_BITS:
        raise InputError(
            f"Codes of order {order} for {len(values)} numbers up to {values.max()} take more than 2**38 bits. Use a "
            "higher order, such as that of `best_order` or `best_rice`."
        )
    words = np.zeros(n_bits // 32 + 1, np.uint32)
    _write(values, kind, order, words)
    return words.astype(">u4").tobytes()[: -(-n_bits // 8)]


def _decode(stream: bytes, n_values: int, kind: int, order: int) -> tuple[np.ndarray, int]:
    """Returns the numbers, and the bytes that their codes take. Raises CorruptStream."""
    n_bits, least = 8 * len(stream), order if kind == _FIXED else order + 1
    end = -1
    if n_values * least <= n_bits:
        words = np.frombuffer(bytes(stream) + bytes(24 - len(stream) % 8), ">u8").astype(np.uint64)
        out = np.empty(n_values, np.int64)
        end = _read(words, n_bits, kind, _checked(order), out)
    if end < 0:
        raise CorruptStream(
            f"A stream of {len(stream)} bytes is not {n_values} codes of order {order}: it was truncated or changed. "
            "Restore it from its source."
        )
    n_bytes = -(-end // 8)
    return out, n_bytes


def _decode_all(stream: bytes, n_values: int, kind: int, order: int) -> np.ndarray:
    values, n_bytes = _decode(stream, n_values, kind, order)
    if n_bytes != len(stream):
        raise CorruptStream(
            f"A stream of {len(stream)} bytes continues after {n_values} codes of order {order}, which take {n_bytes} "
            "bytes: it was changed. Restore it from its source."
        )
    return values


# Kernels compute in uint64 only: Numba converts a mix of uint64 and signed integers to float64.


@njit(nogil=True, inline="always")
def _put(number, width, buffer, held, words, n):
    """Writes up to 32 bits; returns the bits of the unfinished word, their number, and the words written."""
    buffer, held = (buffer << np.uint64(width)) | number, held + width
    if held >= 32:
        held -= 32
        words[n] = np.uint32((buffer >> np.uint64(held)) & np.uint64(0xFFFFFFFF))
        n += 1
    return buffer, held, n


@njit(nogil=True)
def _write(values, kind, order, words):
    """Writes the codes of values[T] to words, most significant bit first."""
    buffer, held, n, none = np.uint64(0), np.int64(0), 0, np.uint64(0)
    one = np.uint64(1) << np.uint64(order)
    for i in range(len(values)):
        number = np.uint64(values[i])
        if kind == _FIXED:
            zeros, width = np.int64(0), np.int64(order)
        elif kind == _RICE:
            zeros, width = np.int64(number >> np.uint64(order)), np.int64(order + 1)
            number = (number & (one - np.uint64(1))) | one
        else:
            number += one
            width = np.int64(64) - np.int64(leading_zeros(number))
            zeros = width - order - 1
        while zeros > 32:
            buffer, held, n = _put(none, 32, buffer, held, words, n)
            zeros -= 32
        buffer, held, n = _put(none, zeros, buffer, held, words, n)
        if width > 32:
            buffer, held, n = _put(number >> np.uint64(32), width - 32, buffer, held, words, n)
            number, width = number & np.uint64(0xFFFFFFFF), np.int64(32)
        buffer, held, n = _put(number, width, buffer, held, words, n)
    if held:
        _put(none, 32 - held, buffer, held, words, n)


@njit(nogil=True, inline="always")
def _window(words, position):
    """Returns the 64 bits that begin at a position."""
    word, offset = position >> 6, np.uint64(position & 63)
    return (words[word] << offset) | ((words[word + 1] >> np.uint64(1)) >> (np.uint64(63) - offset))


@njit(nogil=True)
def _read(words, n_bits, kind, order, out):
    """Decodes out[T]; returns the bit position after the codes, or -1 if the codes or the zero padding are invalid.

    The words extend at least 64 bits beyond n_bits.
    """
    position, one = np.int64(0), np.uint64(1) << np.uint64(order)
    for i in range(len(out)):
        width = np.int64(order)
        zeros = np.int64(0)
        if kind != _FIXED:
            window = _window(words, position)
            while window == 0:
                zeros, position = zeros + 64, position + 64
                if position >= n_bits:
                    return -1
                window = _window(words, position)
            run = np.int64(leading_zeros(window))
            zeros, position = zeros + run, position + run
            width += 1 if kind == _RICE else zeros + 1
        if width > 64 or position + width > n_bits or zeros > _LARGEST >> order:
            return -1
        number = np.uint64(0)
        if width:
            number = _window(words, position) >> np.uint64(64 - width)
        position += width
        if kind == _RICE:
            number += (np.uint64(zeros) << np.uint64(order)) - one
        elif kind == _EXP_GOLOMB:
            number -= one
        if number >> np.uint64(63):
            return -1
        out[i] = np.int64(number)
    if position & 7 and _window(words, position) >> np.uint64(56 + (position & 7)):
        return -1
    return position
