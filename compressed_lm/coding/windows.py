"""The node rule of Equal-Info Windows: a bijection between b-bit codes and window texts.

Lester et al. 2024 fill a window greedily and pad it with zero bits, which is not uniquely decodable. Here a window's
text owns an interval `[lo, lo + size)` of the 2**b integer codes. The text's own code is `lo`; the remaining codes are
shared among its one-byte continuations in proportion to M1's frequencies, and a continuation whose share is empty does
not exist. Every code belongs to exactly one text, so every sequence of codes decodes, no window is padded, and the end
of a document needs no marker.

The arithmetic is 32-bit and unsigned, the same under NumPy and JAX, for 8 <= b <= 32.
"""

import numpy as np

MIN_BITS, MAX_BITS = 8, 32
WHITE_SPACE = np.zeros(256, bool)
WHITE_SPACE[list(b" \t\n\r\v\f")] = True


def scale(frequency, total, size, *, xp=np):
    """floor(frequency * size / total) without leaving 32 bits.

    Args:
      frequency: uint32[...], at most `total`.
      total: uint32[...], at most 2**16.
      size: uint32[...].
      xp: numpy or jax.numpy.

    Returns:
      uint32[...], at most `size`.
    """
    high, low = size >> xp.uint32(16), size & xp.uint32(0xFFFF)
    # Long division in base 2**16. Each product below fits because frequency and total are at most 2**16 and a remainder
    # is below total.
    carried = frequency * high
    shifted = (carried % total) << xp.uint32(16)
    tail = frequency * low
    remainders = shifted % total + tail % total
    return ((carried // total) << xp.uint32(16)) + shifted // total + tail // total + remainders // total


def root_child(symbol, below, above, total, *, bits: int, xp=np):
    """Interval of the window that holds one byte so far. It always exists: each byte is given a code before the rest is
    shared.

    Args:
      symbol: uint32[...], the byte.
      below: uint32[...], cumulative frequency up to the byte.
      above: uint32[...], cumulative frequency up to and with the byte.
      total: uint32[...], sum of the table.
      bits: window size b.
      xp: numpy or jax.numpy.

    Returns:
      (lo, size): uint32[...] each, size at least 1.
    """
    shared = xp.uint32((1 << bits) - 256)
    lo = symbol + scale(below, total, shared, xp=xp)
    return lo, symbol + xp.uint32(1) + scale(above, total, shared, xp=xp) - lo


def child(lo, size, below, above, total, *, xp=np):
    """Interval of the window text extended by one byte; a size of 0 says that there is no such text.

    Args:
      lo: uint32[...], start of the parent's interval, which is the parent's own code.
      size: uint32[...], length of the parent's interval, at least 1.
      below: uint32[...], cumulative frequency up to the byte.
      above: uint32[...], cumulative frequency up to and with the byte.
      total: uint32[...], sum of the table, forbidden continuations left out.
      xp: numpy or jax.numpy.

    Returns:
      (lo, size) of the child: uint32[...] each.
    """
    shared = size - xp.uint32(1)
    start = scale(below, total, shared, xp=xp)
    return lo + xp.uint32(1) + start, scale(above, total, shared, xp=xp) - start


def allowed_continuations(last_byte, *, xp=np):
    """Which bytes may follow `last_byte` inside a word-aligned window: bool[..., 256] from integer[...].

    A window never runs over the start of a word: after a byte that is not white space, white space has no child.
    """
    white = xp.asarray(WHITE_SPACE)
    return ~white | white[last_byte][..., None]
