"""Unsigned integers of any width as 16-bit limbs, so that windows of 128 bits need no 64-bit arithmetic.

A number is a tuple of K arrays uint32[...] below 2**16, most significant first. Its width is 16 K bits, and results are
modulo 2**(16 K). The same code runs on NumPy and JAX arrays, since it uses only Python operators.
"""

from typing import Any

LIMB_BITS = 16
_MASK = 0xFFFF

Limbs = tuple[Any, ...]
"""K arrays uint32[...] of NumPy or JAX."""


def n_limbs(bits: int) -> int:
    """Returns the number of limbs for a number of `bits` bits."""
    return -(-bits // LIMB_BITS)


def constant(value: int, k: int, xp: Any) -> Limbs:
    """Returns a Python integer as k scalar limbs of the array module `xp`."""
    return tuple(xp.uint32(value >> LIMB_BITS * i & _MASK) for i in reversed(range(k)))


def add(a: Limbs, b: Limbs) -> Limbs:
    """Returns a + b."""
    out: list[Any] = []
    carry: Any = 0
    for x, y in zip(reversed(a), reversed(b), strict=True):
        total = x + y + carry
        out.append(total & _MASK)
        carry = total >> LIMB_BITS
    return tuple(reversed(out))


def subtract(a: Limbs, b: Limbs) -> Limbs:
    """Returns a - b."""
    out: list[Any] = []
    borrow: Any = 0
    for x, y in zip(reversed(a), reversed(b), strict=True):
        total = x + (_MASK + 1) - y - borrow
        out.append(total & _MASK)
        borrow = 1 - (total >> LIMB_BITS)
    return tuple(reversed(out))


def is_zero(a: Limbs) -> Any:
    """Returns a == 0, bool[...]."""
    joined = a[0]
    for limb in a[1:]:
        joined = joined | limb
    return joined == 0


def equal(a: Limbs, b: Limbs) -> Any:
    """Returns a == b, bool[...]."""
    return is_zero(tuple(x ^ y for x, y in zip(a, b, strict=True)))


def less_equal(a: Limbs, b: Limbs) -> Any:
    """Returns a <= b, bool[...]."""
    result = a[-1] <= b[-1]
    for x, y in zip(reversed(a[:-1]), reversed(b[:-1]), strict=True):
        result = (x < y) | ((x == y) & result)
    return result


def select(condition: Any, a: Limbs, b: Limbs, *, xp: Any) -> Limbs:
    """Returns a where the condition bool[...] is true, otherwise b."""
    return tuple(xp.where(condition, x, y) for x, y in zip(a, b, strict=True))


def scale(frequency: Any, total: Any, size: Limbs) -> Limbs:
    """Returns floor(frequency * size / total), which is at most `size`.

    Args:
        frequency: uint32[...], at most `total`.
        total: uint32[...] from 1 to 2**16, or None for 2**16, which needs no division.
        size: the number to scale.
    """
    product: list[Any] = []
    carry: Any = 0
    for limb in reversed(size):
        value = frequency * limb + carry  # at most 2**16 * (2**16 - 1) + 2**16 - 1
        product.append(value & _MASK)
        carry = value >> LIMB_BITS
    product = [carry, *reversed(product)]
    if total is None:
        return tuple(product[:-1])
    # Long division in base 2**16. The quotient has no more limbs than `size`, so the first limb is the remainder.
    quotient, remainder = [], product[0]
    for limb in product[1:]:
        value = remainder << LIMB_BITS | limb
        digit = value // total
        quotient.append(digit)
        remainder = value - digit * total
    return tuple(quotient)


def below_top_bit(a: Limbs) -> tuple[Limbs, Limbs]:
    """Returns (the highest bit of a, the mask of all bits below it); zeros for zero."""
    tops: list[Any] = []
    masks: list[Any] = []
    seen: Any = None
    for limb in a:
        spread = limb
        for shift in (1, 2, 4, 8):
            spread = spread | spread >> shift
        mask, top = spread >> 1, spread - (spread >> 1)
        if seen is not None:
            mask, top = mask | seen, top & ~seen
        tops.append(top)
        masks.append(mask)
        full = _MASK * (spread != 0).astype(spread.dtype)
        seen = full if seen is None else seen | full
    return tuple(tops), tuple(masks)
