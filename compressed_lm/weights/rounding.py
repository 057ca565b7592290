"""Rounding to stored number types in float32, with operations that compilers do not optimise away."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32

SMALLEST_SCALE = 2.0**-100  # below it, 1 / scale overflows: the block becomes zero


def to_bfloat16(x: Float32[Array, "*shape"]) -> Float32[Array, "*shape"]:
    """Returns x rounded to bfloat16."""
    # XLA removes a pair of casts as excess precision.
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)


def to_float(
    x: Float32[Array, "*shape"], *, exponent_bits: int, mantissa_bits: int, largest: float
) -> Float32[Array, "*shape"]:
    """Returns the nearest values of `grids.float_levels`, ties to even, clipped to +-largest."""
    lowest = 2 - 2 ** (exponent_bits - 1)  # exponent of the subnormal numbers
    exponent = jnp.maximum(floor_log2(x), lowest) - mantissa_bits
    # Both products are exact: powers of two.
    return without_sign_of_zero(
        jnp.clip(jnp.round(x * power_of_two(-exponent)) * power_of_two(exponent), -largest, largest)
    )


def without_sign_of_zero(x: Float32[Array, "*shape"]) -> Float32[Array, "*shape"]:
    """Returns x with 0 instead of -0; grids store both as the same level."""
    return jnp.where(x == 0, np.float32(0), x)


def floor_log2(x: Float[Array, "*shape"]) -> Int32[Array, "*shape"]:
    """Returns the exponents of float32 numbers; -127 for 0."""
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.int32)
    return ((bits >> 23) & 0xFF) - 127


def power_of_two(exponent: Int32[Array, "*shape"]) -> Float32[Array, "*shape"]:
    """Returns 2**exponent exactly, for exponents from -126 to 127."""
    return jax.lax.bitcast_convert_type((exponent.astype(jnp.int32) + 127) << 23, jnp.float32)


def stored_scale(x: Float32[Array, "*shape"]) -> Float32[Array, "*shape"]:
    """Returns the scales x >= 0 rounded to bfloat16, and 0 where division by the scale overflows."""
    x = to_bfloat16(x)
    return jnp.where(x < SMALLEST_SCALE, np.float32(0), x)


def divide(x: Float32[Array, "..."], scale: Float32[Array, "..."]) -> Float32[Array, "..."]:
    """Returns x / scale, and 0 where the scale is 0; the two are broadcast."""
    safe = jnp.where(scale > 0, scale, np.float32(1))
    return jnp.where(scale > 0, x / safe, np.float32(0))
