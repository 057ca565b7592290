"""Intrinsics give the same results as Python integers and arrays."""

import gc
import sys

import numba
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from compressed_lm.coding.machine import borrowed, borrowed_all, multiply_high

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
