"""Gradients summed over the parts of a batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from compressed_lm.models.transformer import unstack


def summed_gradient(
    loss_fn: Callable[..., tuple[jax.Array, jax.Array]], params: dict, parts: PyTree, *, n_layers: int = 0
) -> tuple[dict, jax.Array]:
    """Returns (gradient, loss), summed over the parts of a batch, one after the other.

    Args:
        loss_fn: function of (params, *part, layers=None) to (loss with all penalties, loss); `layers` are the
            parameters of each layer, as for `Transformer.features`.
        params: of the model.
        parts: arrays [parts, ...].
        n_layers: number of layers if the compiled program holds a copy of each, 0 if it loops over them. The layers are
            then taken from their stack once instead of for each part.
    """
    if not n_layers:
        return _scan(jax.grad(loss_fn, has_aux=True), params, parts)
    rest = {name: value for name, value in params.items() if name != "layers"}
    apart = rest, unstack(params["layers"], n_layers)

    def apart_loss(turned, *part):
        rest, layers = jax.tree.map_with_path(lambda path, x, y: _read(x, y) if _tall(path, x) else y, apart, turned)
        return loss_fn(rest | {"layers": params["layers"]}, *part, layers=layers)

    turned = jax.tree.map_with_path(lambda path, x: x.T if _tall(path, x) else x, apart)
    gradient, loss = _scan(jax.grad(apart_loss, has_aux=True), turned, parts)
    rest, layers = jax.tree.map_with_path(lambda path, x, y: y.T if _tall(path, x) else y, apart, gradient)
    return rest | {"layers": jax.tree.map(lambda *layers: jnp.stack(layers), *layers)}, loss


def _scan(grad_fn: Callable, params: PyTree, parts: PyTree) -> tuple[Any, jax.Array]:
    add = lambda total, part: (jax.tree.map(jnp.add, total, grad_fn(params, *part)), None)  # noqa: E731
    zeros = jax.tree.map(jnp.zeros_like, params), jnp.zeros(())
    return jax.lax.scan(add, zeros, parts)[0]


def _tall(path: tuple[Any, ...], x: jax.Array) -> bool:
    """Returns whether the gradient of a parameter is summed as its transpose.

    On CPU, the product that gives the gradient of a kernel with more inputs than outputs takes 1.4 to 2 times as long
    as the one that gives its transpose. Both have the same bits.
    """
    return path[-1].key == "kernel" and x.ndim == 2 and x.shape[0] > x.shape[1]


@jax.custom_vjp
def _read(kernel: jax.Array, transposed: jax.Array) -> jax.Array:
    """Returns the kernel; its gradient goes to its transpose."""
    del transposed
    return kernel


_read.defvjp(lambda kernel, transposed: (kernel, None), lambda _, gradient: (None, gradient.T))
