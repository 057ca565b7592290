"""Rules of Equal-Info Windows: the mapping between the texts of a window and its 2**b codes.

A window's text has an interval of a number line. M1's frequency table divides it among the text's one-byte
continuations, and a continuation whose share is too small does not exist: the window ends before it. Two rules define
"too small" and the code of a text. Both use integer arithmetic (`coding.limbs`) on NumPy or JAX arrays.

`NodeRule` (ours) is a bijection between the 2**b codes and the window texts. The text's own code is the first of its
interval, and its continuations share the rest. Every sequence of codes decodes, no window is padded, and the end of a
document needs no marker.

`CellRule` is arithmetic coding as in Lester et al. 2024 (section 2.4): a text exists if one of the 2**b cells of the
line lies inside its interval, and its code is the shortest bit string all of whose cells do, zero-padded. Different
texts can share a code, which is the flaw of the paper's fill (`paper`). The variant `delay` avoids it by ending a
window at the first text that has its code.
"""

import dataclasses
from typing import Any, Protocol

import numpy as np

from compressed_lm.coding import limbs
from compressed_lm.coding.limbs import Limbs

MIN_BITS, MAX_BITS = 8, 128
MIN_CELL_BITS = 10
"""Smallest b of `CellRule`: each of the 256 bytes must be able to start a window, and gets two cells for that."""

WHITE_SPACE = np.zeros(256, bool)
WHITE_SPACE[list(b" \t\n\r\v\f")] = True


def allowed_continuations(last_byte: Any, *, xp: Any = np) -> Any:
    """Returns which bytes may follow `last_byte` integer[...] in a word-aligned window, bool[..., 256].

    A window does not cross the start of a word: white space does not follow a byte that is not white space.
    """
    white = xp.asarray(WHITE_SPACE)
    return ~white | white[last_byte][..., None]


class Rule(Protocol):
    """Rule by which intervals are divided.

    Arguments of all methods: `symbol` is the byte, uint32[...]; `below` and `above` are the cumulative frequencies
    before and after it, uint32[...]; `total` is the sum of the table, uint32[...], or None for 2**16; an interval is
    (lo, size), limbs [...] each; `xp` is the array module.
    """

    @property
    def bits(self) -> int:
        """Window size b in bits."""
        ...

    def root(self, symbol: Any, below: Any, above: Any, *, xp: Any) -> tuple[Limbs, Limbs]:
        """Returns the interval of a window's first byte; it always exists. Tables at the root sum to 2**16."""
        ...

    def child(self, lo: Limbs, size: Limbs, below: Any, above: Any, total: Any) -> tuple[Limbs, Limbs]:
        """Returns the interval of a text extended by one byte."""
        ...

    def exists(self, lo: Limbs, size: Limbs) -> Any:
        """Returns whether a text with this interval is a window, bool[...]."""
        ...

    def code(self, lo: Limbs, size: Limbs, *, xp: Any) -> Limbs:
        """Returns the text's code, limbs of b bits."""
        ...

    def root_start(self, symbol: Any, below: Any, *, xp: Any) -> Limbs:
        """Returns the beginning of a first byte's interval; increases with the byte."""
        ...

    def child_start(self, size: Limbs, below: Any, total: Any) -> Limbs:
        """Returns the beginning of a continuation, relative to the parent's `origin`; increases with the byte."""
        ...

    def target(self, code: Limbs, *, xp: Any) -> Limbs:
        """Returns the point of the number line that `code` decodes to."""
        ...

    def origin(self, lo: Limbs, *, xp: Any) -> Limbs:
        """Returns the beginning of a text's first continuation."""
        ...


@dataclasses.dataclass(frozen=True)
class NodeRule:
    """Bijective rule: a text has the first code of its interval, and its continuations share the rest.

    At the root each byte gets one code before the others are divided, so every byte can start a window.
    """

    bits: int

    def root_start(self, symbol: Any, below: Any, *, xp: Any) -> Limbs:
        k = limbs.n_limbs(self.bits)
        shared = limbs.constant((1 << self.bits) - 256, k, xp)
        return limbs.add(_small(symbol, k), limbs.scale(below, None, shared))

    def root(self, symbol: Any, below: Any, above: Any, *, xp: Any) -> tuple[Limbs, Limbs]:
        lo = self.root_start(symbol, below, xp=xp)
        return lo, limbs.subtract(self.root_start(symbol + xp.uint32(1), above, xp=xp), lo)

    def child_start(self, size: Limbs, below: Any, total: Any) -> Limbs:
        return limbs.scale(below, total, _minus_one(size))

    def child(self, lo: Limbs, size: Limbs, below: Any, above: Any, total: Any) -> tuple[Limbs, Limbs]:
        shared = _minus_one(size)
        start = limbs.scale(below, total, shared)
        lo = limbs.add(_plus_one(lo), start)
        return lo, limbs.subtract(limbs.scale(above, total, shared), start)

    def exists(self, lo: Limbs, size: Limbs) -> Any:
        return ~limbs.is_zero(size)

    def code(self, lo: Limbs, size: Limbs, *, xp: Any) -> Limbs:
        return lo

    def target(self, code: Limbs, *, xp: Any) -> Limbs:
        return code

    def origin(self, lo: Limbs, *, xp: Any) -> Limbs:
        return _plus_one(lo)


@dataclasses.dataclass(frozen=True)
class CellRule:
    """Rule of arithmetic coding: a text exists if one of the 2**b cells lies inside its interval.

    Source: Lester et al. 2024, section 2.4. The number line has `GUARD` bits below a cell, so that truncation costs at
    most one part in 2**16 per byte. At the root each byte gets two cells before the others are divided.
    """

    bits: int

    GUARD = 32
    _GUARD_LIMBS = GUARD // limbs.LIMB_BITS

    @property
    def _k(self) -> int:
        return limbs.n_limbs(self.bits) + self._GUARD_LIMBS

    def root_start(self, symbol: Any, below: Any, *, xp: Any) -> Limbs:
        # The last cell is unused, so that rounding up to a cell cannot overflow.
        shared = limbs.constant(((1 << self.bits) - 513) << self.GUARD, self._k, xp)
        return limbs.add(
            self.target(_small(symbol * 2, self._k - self._GUARD_LIMBS), xp=xp), limbs.scale(below, None, shared)
        )

    def root(self, symbol: Any, below: Any, above: Any, *, xp: Any) -> tuple[Limbs, Limbs]:
        lo = self.root_start(symbol, below, xp=xp)
        return lo, limbs.subtract(self.root_start(symbol + xp.uint32(1), above, xp=xp), lo)

    def child_start(self, size: Limbs, below: Any, total: Any) -> Limbs:
        return limbs.scale(below, total, size)

    def child(self, lo: Limbs, size: Limbs, below: Any, above: Any, total: Any) -> tuple[Limbs, Limbs]:
        start = limbs.scale(below, total, size)
        return limbs.add(lo, start), limbs.subtract(limbs.scale(above, total, size), start)

    def _cells(self, lo: Limbs, size: Limbs) -> tuple[Limbs, Limbs]:
        """Returns the first cell inside the interval and the one after the last."""
        guard = (lo[0] * 0 + 0xFFFF,) * self._GUARD_LIMBS
        last = limbs.add(lo, size)[: -self._GUARD_LIMBS]
        return limbs.add(lo, (lo[0] * 0,) * (self._k - self._GUARD_LIMBS) + guard)[: -self._GUARD_LIMBS], last

    def exists(self, lo: Limbs, size: Limbs) -> Any:
        first, end = self._cells(lo, size)
        return ~limbs.less_equal(end, first)

    def code(self, lo: Limbs, size: Limbs, *, xp: Any) -> Limbs:
        # The largest aligned block of cells inside [first, end). first - 1 and end first differ at some bit; `middle`,
        # which is end with all bits below that one cleared, is the multiple of the highest power of two in between. The
        # block ends or begins at it, and is the largest that fits on that side.
        first, end = self._cells(lo, size)
        differ = tuple(x ^ y for x, y in zip(_minus_one(first), end, strict=True))
        middle = tuple(x & ~mask for x, mask in zip(end, limbs.below_top_bit(differ)[1], strict=True))
        left, _ = limbs.below_top_bit(limbs.subtract(middle, first))
        right, _ = limbs.below_top_bit(limbs.subtract(end, middle))
        code = limbs.select(limbs.less_equal(right, left), limbs.subtract(middle, left), middle, xp=xp)
        return limbs.select(limbs.is_zero(first), first, code, xp=xp)

    def target(self, code: Limbs, *, xp: Any) -> Limbs:
        return (*code, *(code[0] * 0,) * self._GUARD_LIMBS)

    def origin(self, lo: Limbs, *, xp: Any) -> Limbs:
        return lo


def _small(value: Any, k: int) -> Limbs:
    return (*(value * 0,) * (k - 1), value)


def _plus_one(a: Limbs) -> Limbs:
    return limbs.add(a, _small(a[0] * 0 + 1, len(a)))


def _minus_one(a: Limbs) -> Limbs:
    return limbs.subtract(a, _small(a[0] * 0 + 1, len(a)))
