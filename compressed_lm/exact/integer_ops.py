"""Integer operations for exact inference, with the same bits on every backend and compiler and in any order.

They use add, subtract, multiply, shift, compare, select and floor division of 32-bit integers, and matrix products in
float32 whose partial sums stay below 2**24 (such sums are exact, so their order does not matter). They never call exp,
rsqrt or a float division.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Int32, UInt32

FRACTION_BITS = 8
"""Scores and logits are integers in units of 2**-8 bits (base-2 logarithms)."""

EXP_BITS = 15
"""`exp2_negative(0)` is 2**15."""


def matmul(
    x: Int[Array, "*rows inputs"], w: Int[Array | np.ndarray, "inputs outputs"]
) -> Int32[Array, "*rows outputs"]:
    """Returns the exact product x @ w, if inputs * max|x| * max|w| < 2**24."""
    product = jnp.matmul(x.astype(jnp.float32), w.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)
    return product.astype(jnp.int32)


def rescale(
    x: Int32[Array, "*shape"], multiplier: Int32[Array | np.ndarray, "..."], shift: Array | np.ndarray | np.int32 | int
) -> Int32[Array, "*shape"]:
    """Returns round(x * multiplier / 2**shift), halves up, without a 64-bit product.

    Args:
        x: |x| < 2**28.
        multiplier: broadcasts against x, 0 <= multiplier < 2**15 and |x| * multiplier < 2**43.
        shift: int32 scalar, 13 <= shift <= 42.
    """
    high, low = x >> 12, x & 0xFFF
    # x * m = high * m * 2**12 + low * m; the part dropped from the second term is below one unit of the last place.
    partial = high * multiplier + ((low * multiplier) >> 12)
    return (partial + (1 << (shift - 13))) >> (shift - 12)


def clip8(x: Int32[Array, "*shape"]) -> Int32[Array, "*shape"]:
    """Returns x clipped to the symmetric int8 range, -127 to 127."""
    return jnp.clip(x, -127, 127)


def isqrt(x: UInt32[Array | np.ndarray, "*shape"]) -> UInt32[Array, "*shape"]:
    """Returns floor(sqrt(x)), computed bit by bit."""
    root = jnp.zeros_like(x)
    for bit in range(15, -1, -1):
        trial = root | jnp.uint32(1 << bit)
        root = jnp.where(trial * trial <= x, trial, root)
    return root


def normalise(h: Int32[Array, "*rows D"], multiplier: Int32[Array | np.ndarray, " D"]) -> Int32[Array, "*rows D"]:
    """Returns round(h_c * multiplier_c / |h|) in the int8 range, with |h| the Euclidean norm over the last axis.

    The vector is first shifted so that its largest entry has 11 bits; the error of its norm is then below 0.1 %.

    Args:
        h: D <= 1024.
        multiplier: below 2**18; with 127 * sqrt(D) / (largest normalised entry) a channel uses the whole int8 range.
    """
    largest = jnp.max(jnp.abs(h), axis=-1, keepdims=True)
    shift = (32 - jax.lax.clz(largest)) - 11
    shifted = jnp.where(
        shift > 0, (h + ((1 << jnp.maximum(shift, 1)) >> 1)) >> jnp.maximum(shift, 0), h << jnp.maximum(-shift, 0)
    )
    squares = (shifted * shifted).astype(jnp.uint32)
    norm = jnp.maximum(isqrt(jnp.sum(squares, axis=-1, keepdims=True, dtype=jnp.uint32)).astype(jnp.int32), 1)
    return clip8((2 * shifted * multiplier + norm) // (2 * norm))


def exp2_negative(x: Int32[Array, "*shape"]) -> Int32[Array, "*shape"]:
    """Returns 2**15 * 2**(-x / 2**8) for x >= 0, with an error of about 1e-4; 0 if the value is below one half.

    A cubic polynomial of the fraction in integer arithmetic; its coefficients are fitted to 2**-t on [0, 1] with exact
    end points.
    """
    t = x & ((1 << FRACTION_BITS) - 1)
    whole = jnp.minimum(x >> FRACTION_BITS, EXP_BITS + 2)
    # 2**-t ~ 1 - t * (0.69160 - t * (0.23116 - 0.03956 * t)), coefficients in units of 2**-15, t in units of 2**-8.
    inner = 7575 - ((1296 * t) >> 8)
    inner = 22662 - ((inner * t) >> 8)
    value = (1 << EXP_BITS) - ((inner * t) >> 8)
    return (value + ((1 << whole) >> 1)) >> whole
