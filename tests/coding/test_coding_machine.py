"""Intrinsics give the same results as Python integers and arrays."""

import gc
import sys

import numba
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from compressed_lm.coding.machine import (
    borrowed,
    borrowed_all,
    bytes_between,
    bytes_repeated,
    count_ones,
    load,
    load_byte,
    load_half,
    low_bytes_differ,
    multiply_high,
    select,
    store,
    store_byte,
    store_half,
)

words = st.integers(0, 2**64 - 1)


@numba.njit
def product(x, y):
    return multiply_high(x, y)


@numba.njit
def doubled(array, others):
    a, (b, c) = borrowed(array), borrowed_all(others)
    for i in range(len(a)):
        a[i] = 2 * b[i] + c[i, 0]
    return a[0]


@numba.njit
def sets(data, low, high):
    address = np.uint64(data.ctypes.data)
    return bytes_between(address, low, high), bytes_repeated(address)


@numba.njit
def differing(words, data):
    return low_bytes_differ(np.uint64(words.ctypes.data), np.uint64(data.ctypes.data))


@numba.njit
def moved(data, begin, width, value):
    address = np.uint64(data.ctypes.data + begin)
    before = load(address), load_half(address), load_byte(address)
    if width == 8:
        store(address, value)
    elif width == 4:
        store_half(address, value)
    else:
        store_byte(address, value)
    return before


@numba.njit
def chosen(condition, yes, no):
    return select(condition, yes, no)


@numba.njit
def ones(x):
    return count_ones(x)


@settings(deadline=None)
@given(st.binary(min_size=65, max_size=65), st.integers(0, 255), st.integers(0, 255))
def test_sets_of_64_bytes(data, a, b):
    """Bit j of `bytes_between` and of `bytes_repeated` is a comparison of byte j."""
    low, high = min(a, b), max(a, b)
    inside, repeated = sets(np.frombuffer(data, np.uint8), np.uint8(low), np.uint8(high))
    assert int(inside) == sum(1 << j for j in range(64) if low <= data[j] <= high)
    assert int(repeated) == sum(1 << j for j in range(64) if data[j] == data[j + 1])
    assert ones(np.uint64(inside)) == int(inside).bit_count()


@settings(deadline=None)
@given(st.binary(min_size=64, max_size=64), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))
def test_low_bytes_of_64_words(data, changed, above):
    """Bit j of `low_bytes_differ` is set if word j has another lowest byte than byte j."""
    flips = np.array([changed >> j & 1 for j in range(64)], np.uint32) * 0x81
    array = np.frombuffer(data, np.uint8)
    words = (array ^ flips) | np.uint32(above & 0xFFFFFF00)
    assert int(differing(words.astype(np.uint32), array)) == changed


@settings(deadline=None)
@given(st.binary(min_size=20, max_size=20), st.integers(0, 12), st.sampled_from([1, 4, 8]), words)
def test_words_at_any_address(data, begin, width, value):
    """Loads and stores of 8, 4 and 1 bytes are little-endian and leave the bytes around them alone."""
    array, written = np.frombuffer(data, np.uint8).copy(), value.to_bytes(8, "little")[:width]
    before = [int.from_bytes(data[begin : begin + n], "little") for n in (8, 4, 1)]
    assert list(moved(array, begin, width, np.uint64(value))) == before
    assert array.tobytes() == data[:begin] + written + data[begin + width :]


@settings(deadline=None)
@given(st.booleans(), words, words)
def test_selection(condition, yes, no):
    """`select` is a conditional expression."""
    assert int(chosen(condition, np.uint64(yes), np.uint64(no))) == (yes if condition else no)


@given(words, words)
def test_the_upper_half_of_a_product(x, y):
    """`multiply_high` is the upper half of the 128-bit product."""
    assert int(product(np.uint64(x), np.uint64(y))) == x * y >> 64


def test_borrowed_arrays_are_the_same_memory_and_leave_counts_alone():
    """Borrowed arrays share memory with their owner, and reference counts do not change."""
    a, b, c = np.zeros(4, np.int64), np.arange(4, dtype=np.uint8), np.ones((4, 2), np.float32)
    before = [sys.getrefcount(x) for x in (a, b, c)]
    for _ in range(1000):
        assert doubled(a, (b, c)) == 1
    gc.collect()
    assert [sys.getrefcount(x) for x in (a, b, c)] == before
    assert a.tolist() == [1, 3, 5, 7] and b.tolist() == [0, 1, 2, 3]
