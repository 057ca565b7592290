"""Rounding to stored number types, in float32 arithmetic that no compiler may shorten."""

import jax
import jax.numpy as jnp
import numpy as np

SMALLEST_SCALE = 2.0**-100  # below it 1 / scale would overflow: the block counts as zero


def to_bfloat16(x: jax.Array) -> jax.Array:
    """Returns float32, x rounded to bfloat16. (Two casts would be removed by XLA as excess precision.)"""
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)


def to_float(x: jax.Array, *, exponent_bits: int, mantissa_bits: int, largest: float) -> jax.Array:
    """Returns float32, the nearest value of `grids.float_levels`, ties to even, clipped to +-largest."""
    lowest = 2 - 2 ** (exponent_bits - 1)  # exponent of the subnormal numbers
    exponent = jnp.maximum(floor_log2(x), lowest) - mantissa_bits
    # Both products are exact: powers of two.
    return without_sign_of_zero(
        jnp.clip(jnp.round(x * power_of_two(-exponent)) * power_of_two(exponent), -largest, largest)
    )


def without_sign_of_zero(x: jax.Array) -> jax.Array:
    """Returns x with 0 for -0, which a grid stores as the same level."""
    return jnp.where(x == 0, np.float32(0), x)


def floor_log2(x: jax.Array) -> jax.Array:
    """Returns int32, the exponent of float32 x; -127 for 0."""
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.int32)
    return ((bits >> 23) & 0xFF) - 127


def power_of_two(exponent: jax.Array) -> jax.Array:
    """Returns float32, 2**exponent exactly, for int32 exponents from -126 to 127."""
    return jax.lax.bitcast_convert_type((exponent.astype(jnp.int32) + 127) << 23, jnp.float32)


def stored_scale(x: jax.Array) -> jax.Array:
    """Returns float32, the scale x >= 0 rounded to bfloat16, and 0 where a division by it would overflow."""
    x = to_bfloat16(x)
    return jnp.where(x < SMALLEST_SCALE, np.float32(0), x)


def divide(x: jax.Array, scale: jax.Array) -> jax.Array:
    """Returns x / scale, and 0 where the scale is 0."""
    safe = jnp.where(scale > 0, scale, np.float32(1))
    return jnp.where(scale > 0, x / safe, np.float32(0))
