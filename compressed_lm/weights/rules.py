"""Gradient rules of quantised values."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32

TRUST_ONE_BIT = 1.30  # QuEST: a 1-bit weight gets a gradient up to this multiple of its level
TRUST_ONE_BIT_PLAIN = 1.25  # the same without a Hadamard transform


@jax.custom_vjp
def straight_through(surrogate: Float[Array, "*shape"], value: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns `value` exactly; its gradient goes to `surrogate`."""
    del surrogate
    return value


def _forward(surrogate: Array, value: Array) -> tuple[Array, None]:
    return straight_through(surrogate, value), None


def _backward(_: None, gradient: Array) -> tuple[Array, Array]:
    return gradient, jnp.zeros_like(gradient)


straight_through.defvjp(_forward, _backward)


def masked(x: Float[Array, "*shape"], mask: Bool[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns x where the mask is true, else 0; the gradient is masked too, and the mask has none."""
    return jnp.where(jax.lax.stop_gradient(mask), x, jnp.zeros((), x.dtype))


def lsq(
    x: Float32[Array, "*stack R N"], scale: Float32[Array, "..."], rounded: Callable[[Array], Array], *, largest: float
) -> Float32[Array, "*stack R N"]:
    """Returns `scale * rounded(x / scale)` with the gradients of learned step size quantisation (Esser et al. 2020).

    x gets a gradient inside the grid. The scale gets the rounding error inside the grid and the outermost level
    outside, times 1 / sqrt(weights * largest).

    Args:
        x: the weights.
        scale: positive, of x's rank; broadcasts against x.
        rounded: returns the nearest levels, elementwise.
        largest: the outermost level.
    """
    factor = (x.size / scale.size * largest) ** -0.5
    scale = straight_through(scale * factor, scale)
    position = jnp.clip(x / scale, -largest, largest)
    return straight_through(position, rounded(jax.lax.stop_gradient(position))) * scale
