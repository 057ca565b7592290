"""Integer building blocks of exact inference: every function gives the same bits on every backend, in any order,
under any compiler.

Allowed are add, subtract, multiply, shift, compare, select and floor division on 32-bit integers, and matrix products
whose partial sums stay below 2**24 when they are carried in float32 (such sums are exact, so their order does not
matter). Nothing here calls exp, rsqrt or a float division.
"""

import jax
import jax.numpy as jnp

FRACTION_BITS = 8
"""Scores and logits are integers in units of 2**-8 bits (base-2 logarithms)."""

EXP_BITS = 15
"""`exp2_negative(0)` is 2**15."""


def matmul(x, w):
    """x @ w exactly: int32[..., N] from integers x[..., K] and w[K, N] with K * max|x| * max|w| < 2**24."""
    product = jnp.matmul(x.astype(jnp.float32), w.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)
    return product.astype(jnp.int32)


def rescale(x, multiplier, shift):
    """round(x * multiplier / 2**shift), halves up, without a 64-bit product.

    Args:
        x: int32[...], |x| < 2**28.
        multiplier: int32, broadcast against x, 0 <= multiplier < 2**15 and |x| * multiplier < 2**43.
        shift: int32 scalar, 13 <= shift <= 42.
    """
    high, low = x >> 12, x & 0xFFF
    # x * m = high * m * 2**12 + low * m; what is dropped from the second term is below one unit of the last place kept.
    partial = high * multiplier + ((low * multiplier) >> 12)
    return (partial + (1 << (shift - 13))) >> (shift - 12)


def clip8(x):
    """Clipped to the symmetric int8 range, still int32."""
    return jnp.clip(x, -127, 127)


def isqrt(x):
    """floor(sqrt(x)) for uint32[...], bit by bit."""
    root = jnp.zeros_like(x)
    for bit in range(15, -1, -1):
        trial = root | jnp.uint32(1 << bit)
        root = jnp.where(trial * trial <= x, trial, root)
    return root


def normalise(h, multiplier):
    """RMS normalisation to int8 range: round(h_c * multiplier_c / |h|) with |h| the Euclidean norm over the last axis.

    The vector is first shifted so that its largest entry has 11 bits; its norm is then found to better than one part in
    a thousand.

    Args:
        h: int32[..., D], D <= 1024.
        multiplier: int32[D], below 2**18; 127 * sqrt(D) / (largest normalised entry) puts a channel on the whole int8
            range.
    """
    largest = jnp.max(jnp.abs(h), axis=-1, keepdims=True)
    shift = (32 - jax.lax.clz(largest)) - 11
    shifted = jnp.where(
        shift > 0, (h + ((1 << jnp.maximum(shift, 1)) >> 1)) >> jnp.maximum(shift, 0), h << jnp.maximum(-shift, 0)
    )
    squares = (shifted * shifted).astype(jnp.uint32)
    norm = jnp.maximum(isqrt(jnp.sum(squares, axis=-1, keepdims=True, dtype=jnp.uint32)).astype(jnp.int32), 1)
    return clip8((2 * shifted * multiplier + norm) // (2 * norm))


def exp2_negative(x):
    """2**15 * 2**(-x / 2**8) to about 1e-4, for int32 x >= 0; 0 once it falls below one half.

    A cubic in the fraction, evaluated in integers (coefficients fitted to 2**-t on [0, 1] with the end points kept
    exact).
    """
    t = x & ((1 << FRACTION_BITS) - 1)
    whole = jnp.minimum(x >> FRACTION_BITS, EXP_BITS + 2)
    # 2**-t ~ 1 - t * (0.69160 - t * (0.23116 - 0.03956 * t)), coefficients in units of 2**-15, t in units of 2**-8.
    inner = 7575 - ((1296 * t) >> 8)
    inner = 22662 - ((inner * t) >> 8)
    value = (1 << EXP_BITS) - ((inner * t) >> 8)
    return (value + ((1 << whole) >> 1)) >> whole
