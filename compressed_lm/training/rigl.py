"""RigL: sparse training with masks updated by magnitude and gradient (Evci et al. 2020, "Rigging the Lottery")."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from compressed_lm.training.optimizers import is_layer_kernel
from compressed_lm.weights.sparsity import magnitude_mask

DROP = 0.3  # share of the kept weights that the first mask update replaces; it falls to 0 along a cosine
UNTIL = 0.75  # fraction of the run after which the masks are fixed


class RigLState(NamedTuple):
    """State of `rigl`.

    Attributes:
        inner: state of the inner optimizer.
        masks: tree like the parameters: bool arrays for the kernels of the layers, a scalar True for other arrays.
        step: updates done, int32[].
    """

    inner: optax.OptState
    masks: Any
    step: jax.Array


def rigl(
    inner: optax.GradientTransformation, *, sparsity: float, every: int, n_steps: int
) -> optax.GradientTransformation:
    """Returns an optimizer that trains a share of each kernel of the layers and keeps the rest at 0.

    The first mask keeps the largest weights. Each mask update drops the smallest kept weights and adds as many with the
    largest gradients. Gradients must be dense: those of all weights, kept or not.

    Args:
        inner: optimizer of the kept weights.
        sparsity: share of zeros in each matrix.
        every: steps between mask updates.
        n_steps: steps of the run.
    """

    def ones(w):
        return round((1 - sparsity) * w.shape[-1] * w.shape[-2])

    def init(params):

        def first(path, w):
            return magnitude_mask(w, ones(w))[0] if is_layer_kernel(path) else jnp.ones((), bool)

        masks = jax.tree.map_with_path(first, params)
        return RigLState(inner.init(params), masks, jnp.zeros((), jnp.int32))

    def update(gradients, state, params):
        end = UNTIL * n_steps
        share = DROP / 2 * (1 + jnp.cos(jnp.pi * state.step / end))
        moved = lambda mask, g, w: _moved(mask, g, w, share, ones(w)) if mask.ndim else mask  # noqa: E731
        masks = jax.lax.cond(
            (state.step > 0) & (state.step % every == 0) & (state.step < end),
            lambda masks: jax.tree.map(moved, masks, gradients, params),
            lambda masks: masks,
            state.masks,
        )
        gradients = jax.tree.map(lambda mask, g: jnp.where(mask, g, 0), masks, gradients)
        updates, inner_state = inner.update(gradients, state.inner, params)
        updates = jax.tree.map(lambda mask, update, w: jnp.where(mask, update, -w), masks, updates, params)
        return updates, RigLState(inner_state, masks, state.step + 1)

    return optax.GradientTransformation(init, update)


def _moved(mask, gradient, w, share, ones):
    """Returns the mask [..., N, M] with a share of its `ones` moved."""
    stay = ones - jnp.round(share * ones).astype(jnp.int32)
    size = jnp.where(mask, jnp.abs(w) + jnp.finfo(w.dtype).tiny, 0)  # a kept 0 ranks above a dropped one
    kept, _ = magnitude_mask(size, stay)
    return magnitude_mask(jnp.where(kept, jnp.inf, jnp.abs(gradient)), ones)[0]
