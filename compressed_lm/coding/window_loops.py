"""The rules of `coding.windows` as compiled loops over the 16-bit limbs of one window.

A number is an array int64[K] of limbs below 2**16, most significant first; results are modulo 2**(16 K). `shared` is
the part of the number line that the first bytes divide by their frequencies (`shared_limbs`). A sum `total` of 2**16
needs no division.
"""

import numpy as np

from compressed_lm.coding import limbs
from compressed_lm.coding.compiled import part
from compressed_lm.coding.windows import CellRule

_BITS, _MASK = limbs.LIMB_BITS, (1 << limbs.LIMB_BITS) - 1
_GUARD = CellRule.GUARD // limbs.LIMB_BITS
"""Limbs below a cell under the rule of arithmetic coding."""


def shared_limbs(bits: int, node: bool) -> np.ndarray:
    """Returns the part of the line that is divided at the root, int64[K]; it sets the number of limbs of intervals."""
    k = limbs.n_limbs(bits) + (0 if node else _GUARD)
    value = (1 << bits) - 256 if node else ((1 << bits) - 513) << CellRule.GUARD
    return np.array([int(limb) for limb in limbs.constant(value, k, np)], np.int64)


@part
def copy(a, out):
    """Writes the first limbs of a number, as many as there is space for."""
    for i in range(len(out)):
        out[i] = a[i]


@part
def _scale(frequency, total, size, out):
    """Writes floor(frequency * size / total)."""
    carry, n = np.int64(0), len(size)
    if total == 1 << _BITS:  # the product without its last limb
        for i in range(n - 1, -1, -1):
            value = frequency * size[i] + carry
            if i + 1 < n:
                out[i + 1] = value & _MASK
            carry = value >> _BITS
        out[0] = carry
        return
    for i in range(n - 1, -1, -1):
        value = frequency * size[i] + carry
        out[i], carry = value & _MASK, value >> _BITS
    for i in range(n):  # long division; the quotient is at most `size`, so the first limb is a remainder
        value = carry << _BITS | out[i]
        out[i] = value // total
        carry = value - out[i] * total


@part
def _add(a, b, out):
    carry = np.int64(0)
    for i in range(len(a) - 1, -1, -1):
        value = a[i] + b[i] + carry
        out[i], carry = value & _MASK, value >> _BITS


@part
def _add_small(a, value, place):
    """Adds a number of up to 32 bits at a limb, in place."""
    carry = np.int64(value)
    for i in range(place, -1, -1):
        carry += a[i]
        a[i], carry = carry & _MASK, carry >> _BITS


@part
def _subtract(a, b, out):
    borrow = np.int64(0)
    for i in range(len(a) - 1, -1, -1):
        value = a[i] - b[i] - borrow
        out[i], borrow = value & _MASK, np.int64(value < 0)


@part
def _subtract_one(a):
    for i in range(len(a) - 1, -1, -1):
        a[i] = (a[i] - 1) & _MASK
        if a[i] != _MASK:
            return


@part
def _less_equal(a, b):
    for i in range(len(a)):
        if a[i] != b[i]:
            return a[i] < b[i]
    return True


@part
def equal(a, b):
    """Returns whether two numbers are the same."""
    for i in range(len(a)):
        if a[i] != b[i]:
            return False
    return True


@part
def _is_zero(a):
    for i in range(len(a)):
        if a[i]:
            return False
    return True


@part
def _root_start(node, symbol, below, shared, out):
    _scale(below, 1 << _BITS, shared, out)
    if node:
        _add_small(out, symbol, len(out) - 1)
    else:
        _add_small(out, 2 * symbol, len(out) - 1 - _GUARD)


@part
def first(node, symbol, below, above, shared, lo, size):
    """Writes the interval of a window's first byte, as `Rule.root`."""
    _root_start(node, symbol, below, shared, lo)
    _root_start(node, symbol + 1, above, shared, size)
    _subtract(size, lo, size)


@part
def extended(node, below, above, total, lo, size, new_lo, new_size, buffer):
    """Writes the interval of a text extended by a byte, as `Rule.child`."""
    for i in range(len(size)):
        buffer[i], new_lo[i] = size[i], lo[i]
    if node:  # the text's own code is the first of its interval
        _subtract_one(buffer)
        _add_small(new_lo, 1, len(new_lo) - 1)
    _scale(above, total, buffer, new_size)
    start = np.empty(len(size), np.int64)
    _scale(below, total, buffer, start)
    _subtract(new_size, start, new_size)
    _add(new_lo, start, new_lo)


@part
def _cells(lo, size, begin, end):
    """Writes the first cell inside an interval and the one after the last."""
    whole, n = np.empty(len(lo), np.int64), len(lo) - _GUARD
    _add(lo, size, whole)
    copy(whole, end)
    for i in range(len(lo)):
        whole[i] = 0 if i < n else _MASK
    _add(lo, whole, whole)
    copy(whole, begin)


@part
def exists(node, lo, size):
    """Returns whether a text with this interval is a window, as `Rule.exists`."""
    if node:
        return not _is_zero(size)
    n = len(lo) - _GUARD
    begin, end = np.empty(n, np.int64), np.empty(n, np.int64)
    _cells(lo, size, begin, end)
    return not _less_equal(end, begin)


@part
def _keep_top_bit(a):
    """Clears all bits below the highest one."""
    for i in range(len(a)):
        if a[i]:
            top = np.int64(1)
            while top << 1 <= a[i]:
                top <<= 1
            a[i] = top
            for j in range(i + 1, len(a)):
                a[j] = 0
            return


@part
def code(node, lo, size, out):
    """Writes the code of a text with this interval, as `Rule.code`."""
    if node:
        copy(lo, out)
        return
    n = len(out)
    begin, end, middle, right = (
        np.empty(n, np.int64),
        np.empty(n, np.int64),
        np.empty(n, np.int64),
        np.empty(n, np.int64),
    )
    _cells(lo, size, begin, end)
    copy(begin, out)
    if _is_zero(begin):
        return
    # See `CellRule.code`: the largest aligned block of cells on either side of `middle`.
    _subtract_one(out)
    for i in range(n):
        middle[i] = out[i] ^ end[i]
    _keep_top_bit(middle)
    above = True
    for i in range(n):  # `end` with all bits below the one that differs cleared
        if above and middle[i]:
            middle[i], above = end[i] & ~(middle[i] - 1), False
        else:
            middle[i] = end[i] if above else 0
    _subtract(middle, begin, out)
    _keep_top_bit(out)
    _subtract(end, middle, right)
    _keep_top_bit(right)
    if _less_equal(right, out):
        _subtract(middle, out, out)
    else:
        copy(middle, out)


@part
def find(node, cdf, total, at_root, lo, size, wanted, shared):
    """Returns the byte whose interval contains the code `wanted`, as `Rule.target`, `root_start` and `child_start`.

    Args:
        cdf: int64[257], cumulative frequencies.
    """
    k, n = len(lo), len(wanted)
    target, start, divided = np.zeros(k, np.int64), np.empty(k, np.int64), np.empty(k, np.int64)
    copy(wanted, target[:n])
    if not at_root:
        copy(size, divided)
        _subtract(target, lo, target)
        if node:
            _subtract_one(divided)
            _subtract_one(target)
    symbol, step = 0, 128
    while step:
        if at_root:
            _root_start(node, symbol + step, cdf[symbol + step], shared, start)
        else:
            _scale(cdf[symbol + step], total, divided, start)
        if _less_equal(start, target):
            symbol += step
        step >>= 1
    return symbol
