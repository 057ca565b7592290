"""Blockwise Hadamard transform: orthogonal, symmetric, its own inverse, and cancelling in a product of two operands."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import hadamard


def block_size(length: int, largest: int = 128) -> int:
    """Returns the largest power of two up to `largest` that divides `length`."""
    return math.gcd(length, 1 << (largest.bit_length() - 1))


def rotate(x: jax.Array, *, axis: int = -1, largest: int = 128) -> jax.Array:
    """Returns x after an orthonormal Hadamard transform of each block of `block_size` along an axis.

    Args:
        x: [..., N, ...], any float type, which is kept.
        axis: the axis of length N. To cancel in `x @ w`, rotate the last axis of x and the first of w.
        largest: the block size wanted, a power of two.
    """
    size = block_size(x.shape[axis], largest)
    moved = jnp.moveaxis(x, axis, -1)
    rotated = unscaled(moved.astype(jnp.float32), largest) * np.float32(size**-0.5)
    return jnp.moveaxis(rotated, -1, axis).astype(x.dtype)


def unscaled(x: jax.Array, largest: int) -> jax.Array:
    """Returns float32[..., N], the transform along the last axis without the factor `block_size**-0.5`.

    Of integers below 2**16, or their like in multiples of a power of two, it is exact.
    """
    size = block_size(x.shape[-1], largest)
    if size == 1:
        return x
    # In full float32: accelerators would round the operands of a product otherwise.
    return jnp.matmul(x.reshape(-1, size), _matrix(size), precision=jax.lax.Precision.HIGHEST).reshape(x.shape)


@functools.cache
def _matrix(size):
    return hadamard(size).astype(np.float32)
