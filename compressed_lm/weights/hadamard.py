"""Blockwise Hadamard transform: orthogonal and its own inverse, so it cancels in the product of two operands."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32
from scipy.linalg import hadamard


def block_size(length: int, largest: int = 128) -> int:
    """Returns the largest power of two of at most `largest` that divides `length`."""
    return math.gcd(length, 1 << (largest.bit_length() - 1))


def rotate(x: Float[Array, "*shape"], *, axis: int = -1, largest: int = 128) -> Float[Array, "*shape"]:
    """Returns x after an orthonormal Hadamard transform of each block of `block_size` along an axis.

    Args:
        x: array of any float type; the result has the same type.
        axis: the transformed axis. To cancel in `x @ w`, rotate the last axis of x and the first of w.
        largest: the largest block size, a power of two.
    """
    size = block_size(x.shape[axis], largest)
    moved = jnp.moveaxis(x, axis, -1)
    rotated = unscaled(moved.astype(jnp.float32), largest) * np.float32(size**-0.5)
    return jnp.moveaxis(rotated, -1, axis).astype(x.dtype)


def unscaled(x: Float32[Array, "*shape"], largest: int) -> Float32[Array, "*shape"]:
    """Returns the transform along the last axis without the factor `block_size**-0.5`.

    It is exact for integers below 2**16, also if they are multiplied by a power of two.
    """
    size = block_size(x.shape[-1], largest)
    if size == 1:
        return x
    # In full float32: otherwise accelerators round the operands of a product.
    return jnp.matmul(x.reshape(-1, size), _matrix(size), precision=jax.lax.Precision.HIGHEST).reshape(x.shape)


@functools.cache
def _matrix(size: int) -> np.ndarray:
    return hadamard(size).astype(np.float32)
