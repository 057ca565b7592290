"""Gradient rules: what the backward pass sees in the place of a quantised value."""

import jax
import jax.numpy as jnp

TRUST_ONE_BIT = 1.30  # QuEST: a 1-bit weight gets a gradient up to this multiple of its level (1.25 without Hadamard)
TRUST_ONE_BIT_PLAIN = 1.25


@jax.custom_vjp
def straight_through(surrogate: jax.Array, value: jax.Array) -> jax.Array:
    """Returns `value` exactly; its gradient goes to `surrogate`, as if that had been returned."""
    del surrogate
    return value


def _forward(surrogate, value):
    return straight_through(surrogate, value), None


def _backward(_, gradient):
    return gradient, jnp.zeros_like(gradient)


straight_through.defvjp(_forward, _backward)


def masked(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns x where the mask is true, else 0; the gradient likewise, and none for the mask."""
    return jnp.where(jax.lax.stop_gradient(mask), x, jnp.zeros((), x.dtype))


def lsq(x: jax.Array, scale: jax.Array, rounded, *, largest: float) -> jax.Array:
    """Returns `scale * rounded(x / scale)` with the gradients of learned step size quantisation (Esser et al. 2020).

    x gets a gradient within the grid; the scale gets the rounding error within and the outermost level outside, times
    1 / sqrt(weights * largest).

    Args:
        x: float32[..., R, N].
        scale: float32, of x's rank, positive; it broadcasts against x.
        rounded: the nearest level, elementwise.
        largest: the outermost level.
    """
    factor = (x.size / scale.size * largest) ** -0.5
    scale = straight_through(scale * factor, scale)
    position = jnp.clip(x / scale, -largest, largest)
    return straight_through(position, rounded(jax.lax.stop_gradient(position))) * scale
