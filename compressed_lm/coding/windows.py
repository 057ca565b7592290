"""Equal-Info Windows: which texts share the 2**b codes of a window, and how.

A window's text owns an interval of a number line. M1's frequency table splits it among the text's one-byte
continuations, and a continuation whose share is too small does not exist: the window ends before it. Two rules say what
is too small and which code a text has. Both are plain integer arithmetic (`coding.limbs`) on NumPy or JAX arrays.

`NodeRule` (ours) is a bijection between the 2**b codes and the window texts. The text's own code is the first of its
interval and the rest is shared among its continuations. Every sequence of codes decodes, no window is padded, and the
end of a document needs no marker.

`CellRule` is arithmetic coding as Lester et al. 2024 describe it (section 2.4): a text exists while one of the 2**b
cells of the line lies inside its interval, and its code is the shortest bit string whose cells do, filled up with
zeros. Different texts share codes, which is the flaw of the paper's fill (`paper`) and what the variant `delay` avoids
by ending a window at the first text that has its code.
"""

import dataclasses
from typing import Protocol

import numpy as np

from compressed_lm.coding import limbs
from compressed_lm.coding.limbs import Limbs

MIN_BITS, MAX_BITS = 8, 128
MIN_CELL_BITS = 10
"""Each of the 256 bytes must be able to start a window, and `CellRule` gives it two cells to be sure."""

WHITE_SPACE = np.zeros(256, bool)
WHITE_SPACE[list(b" \t\n\r\v\f")] = True


def allowed_continuations(last_byte, *, xp=np):
    """Which bytes may follow `last_byte` inside a word-aligned window: bool[..., 256] from integer[...].

    A window never runs over the start of a word: after a byte that is not white space, white space has no child.
    """
    white = xp.asarray(WHITE_SPACE)
    return ~white | white[last_byte][..., None]


class Rule(Protocol):
    """How intervals split.

    Throughout, `symbol` is the byte uint32[...]; `below` and `above` are the cumulative frequencies up to it and with
    it, uint32[...]; `total` is their sum uint32[...], or None for 2**16; intervals are (lo, size), limbs [...] each.

    Attributes:
        bits: b.
    """

    bits: int

    def root(self, symbol, below, above, *, xp) -> tuple[Limbs, Limbs]:
        """Interval of a window's first byte; it always exists. Tables at the root sum to 2**16."""

    def child(self, lo: Limbs, size: Limbs, below, above, total) -> tuple[Limbs, Limbs]:
        """Interval of a text extended by one byte."""

    def exists(self, lo: Limbs, size: Limbs):
        """Whether a text with this interval is a window: bool[...]."""

    def code(self, lo: Limbs, size: Limbs, *, xp) -> Limbs:
        """The text's code, limbs of b bits."""

    def root_start(self, symbol, below, *, xp) -> Limbs:
        """Where a first byte's interval begins; grows with the byte."""

    def child_start(self, size: Limbs, below, total) -> Limbs:
        """Where a continuation begins, from the `origin` of its parent; grows with the byte."""

    def target(self, code: Limbs, *, xp) -> Limbs:
        """The point of the number line that a decoder of `code` goes to."""

    def origin(self, lo: Limbs, *, xp) -> Limbs:
        """Where the first continuation of a text begins."""


@dataclasses.dataclass(frozen=True)
class NodeRule:
    """A text owns its interval's first code; its continuations share the rest.

    At the root each byte is given one code before the others are shared out, so every byte can start a window.
    """

    bits: int

    def root_start(self, symbol, below, *, xp):
        k = limbs.n_limbs(self.bits)
        shared = limbs.constant((1 << self.bits) - 256, k, xp)
        return limbs.add(_small(symbol, k), limbs.scale(below, None, shared))

    def root(self, symbol, below, above, *, xp):
        lo = self.root_start(symbol, below, xp=xp)
        return lo, limbs.subtract(self.root_start(symbol + xp.uint32(1), above, xp=xp), lo)

    def child_start(self, size, below, total):
        return limbs.scale(below, total, _minus_one(size))

    def child(self, lo, size, below, above, total):
        shared = _minus_one(size)
        start = limbs.scale(below, total, shared)
        lo = limbs.add(_plus_one(lo), start)
        return lo, limbs.subtract(limbs.scale(above, total, shared), start)

    def exists(self, lo, size):
        return ~limbs.is_zero(size)

    def code(self, lo, size, *, xp):
        return lo

    def target(self, code, *, xp):
        return code

    def origin(self, lo, *, xp):
        return _plus_one(lo)


@dataclasses.dataclass(frozen=True)
class CellRule:
    """A text exists while one of the 2**b cells lies inside its interval (Lester et al. 2024, section 2.4).

    The number line has `GUARD` bits below a cell, so that truncation costs at most one part in 2**16 a byte. At the
    root each byte is given two cells before the others are shared out.
    """

    bits: int

    GUARD = 32
    _GUARD_LIMBS = GUARD // limbs.LIMB_BITS

    @property
    def _k(self) -> int:
        return limbs.n_limbs(self.bits) + self._GUARD_LIMBS

    def root_start(self, symbol, below, *, xp):
        # The last cell stays empty, so that rounding up to a cell cannot overflow.
        shared = limbs.constant(((1 << self.bits) - 513) << self.GUARD, self._k, xp)
        return limbs.add(
            self.target(_small(symbol * 2, self._k - self._GUARD_LIMBS), xp=xp), limbs.scale(below, None, shared)
        )

    def root(self, symbol, below, above, *, xp):
        lo = self.root_start(symbol, below, xp=xp)
        return lo, limbs.subtract(self.root_start(symbol + xp.uint32(1), above, xp=xp), lo)

    def child_start(self, size, below, total):
        return limbs.scale(below, total, size)

    def child(self, lo, size, below, above, total):
        start = limbs.scale(below, total, size)
        return limbs.add(lo, start), limbs.subtract(limbs.scale(above, total, size), start)

    def _cells(self, lo, size):
        """First cell inside the interval and the one after the last."""
        guard = (lo[0] * 0 + 0xFFFF,) * self._GUARD_LIMBS
        last = limbs.add(lo, size)[: -self._GUARD_LIMBS]
        return limbs.add(lo, (lo[0] * 0,) * (self._k - self._GUARD_LIMBS) + guard)[: -self._GUARD_LIMBS], last

    def exists(self, lo, size):
        first, end = self._cells(lo, size)
        return ~limbs.less_equal(end, first)

    def code(self, lo, size, *, xp):
        # The largest aligned block of cells inside [first, end). first - 1 and end part at some bit; `middle`, which
        # is end with everything below that bit cleared, is the multiple of the highest power of two in between. The
        # block lies against it, on one side or the other, and is as large as that side has room.
        first, end = self._cells(lo, size)
        differ = tuple(x ^ y for x, y in zip(_minus_one(first), end, strict=True))
        middle = tuple(x & ~mask for x, mask in zip(end, limbs.below_top_bit(differ)[1], strict=True))
        left, _ = limbs.below_top_bit(limbs.subtract(middle, first))
        right, _ = limbs.below_top_bit(limbs.subtract(end, middle))
        code = limbs.select(limbs.less_equal(right, left), limbs.subtract(middle, left), middle, xp=xp)
        return limbs.select(limbs.is_zero(first), first, code, xp=xp)

    def target(self, code, *, xp):
        return (*code, *(code[0] * 0,) * self._GUARD_LIMBS)

    def origin(self, lo, *, xp):
        return lo


def _small(value, k: int) -> Limbs:
    return (*(value * 0,) * (k - 1), value)


def _plus_one(a: Limbs) -> Limbs:
    return limbs.add(a, _small(a[0] * 0 + 1, len(a)))


def _minus_one(a: Limbs) -> Limbs:
    return limbs.subtract(a, _small(a[0] * 0 + 1, len(a)))
