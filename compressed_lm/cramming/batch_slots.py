"""One step of cramming for many texts at once: each lane has a text, its numbers and a stopping rule of its own.

Nothing here mixes lanes, so what becomes of a text does not depend on its neighbours. It depends on the number of lanes
and on the length that texts are padded to only as far as rounding does: with other shapes the compiler may add up the
same products in another order.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from compressed_lm import weights
from compressed_lm.cramming.config import CramConfig
from compressed_lm.cramming.frozen import score, teacher_forced
from compressed_lm.cramming.vectors import Mapping
from compressed_lm.models import TransformerConfig


class Lanes(NamedTuple):
    """The state of B texts.

    Attributes:
        numbers: float32[B, K, M], what is optimised.
        opt: optimizer's state, of each lane.
        tokens: int32[B, L], padded.
        length: int32[B], N.
        target: int32[B], tokens that the loss has, from the first on.
        step: int32[B], measurements done.
        improved: int32[B], the step with the last better score.
        score: int32[B], the best score so far; -1 before the first measurement.
        nats: float32[B], loss of the whole text at `best`, summed.
        best: float32[B, K, M], the numbers as they were when this score was measured; of equal scores, those with the
            lower loss.
        best_step: int32[B], updates before that.
        lowest_nats: float32[B], the lowest loss of any step.
        active: bool[B]; a lane that is not stays as it is.
    """

    numbers: jax.Array
    opt: optax.OptState
    tokens: jax.Array
    length: jax.Array
    target: jax.Array
    step: jax.Array
    improved: jax.Array
    score: jax.Array
    nats: jax.Array
    best: jax.Array
    best_step: jax.Array
    lowest_nats: jax.Array
    active: jax.Array


def start(config: CramConfig, numbers: np.ndarray, tokens: np.ndarray, lengths: np.ndarray) -> Lanes:
    """Returns lanes before their first step; a length of 0 makes an empty one."""
    n, numbers, length = len(lengths), jnp.asarray(numbers), jnp.asarray(lengths, jnp.int32)
    zeros, infinite = jnp.zeros(n, jnp.int32), jnp.full(n, jnp.inf, jnp.float32)
    return Lanes(
        numbers=numbers,
        opt=jax.vmap(config.optimizer().init)(numbers),
        tokens=jnp.asarray(tokens, jnp.int32),
        length=length,
        target=length if config.method == "full" else jnp.minimum(length, config.grow),
        step=zeros,
        improved=zeros,
        score=zeros - 1,
        nats=infinite,
        best=numbers,
        best_step=zeros,
        lowest_nats=infinite,
        active=length > 0,
    )


@jax.jit
def replaced(lanes: Lanes, fresh: Lanes, which: jax.Array) -> Lanes:
    """Returns the lanes, those for which bool[B] `which` is true being the fresh ones."""
    return jax.tree.map(functools.partial(_where, which), fresh, lanes)


@functools.partial(jax.jit, static_argnums=(0, 1))
def advance(model_config: TransformerConfig, config: CramConfig, params, lanes: Lanes, n_steps) -> Lanes:
    """Returns the lanes after up to `n_steps` more steps; fewer if none is active any more."""
    mapping = Mapping.of(config, model_config.d_model)

    def more(carry):
        i, lanes = carry
        return (i < n_steps) & jnp.any(lanes.active)

    def body(carry):
        i, lanes = carry
        return i + 1, _step(model_config, config, mapping, params, lanes)

    return jax.lax.while_loop(more, body, (0, lanes))[1]


def _step(model_config, config, mapping, params, lanes):
    """Measures the numbers of each active lane, keeps them if they are its best, then updates them."""
    nats, gaps, gradient = _measure(model_config, config, mapping, params, lanes)
    place = jnp.arange(lanes.tokens.shape[1])[None]
    inside = place < lanes.length[:, None]
    right = (gaps > config.margin) & inside
    prefix = jnp.min(jnp.where(right, lanes.tokens.shape[1], place), axis=1).astype(jnp.int32)
    measured = jnp.sum(right, axis=1, dtype=jnp.int32) if config.method == "full" else prefix
    total = jnp.sum(jnp.where(inside, nats, 0.0), axis=1)

    higher = measured > lanes.score
    better = lanes.active & (higher | ((measured == lanes.score) & (total < lanes.nats)))
    improved = jnp.where(higher, lanes.step, lanes.improved)
    step = lanes.step + 1
    given_up = (step >= config.steps) | (lanes.step - improved >= config.patience)
    target = jnp.maximum(lanes.target, jnp.minimum(prefix + config.grow, lanes.length))
    updates, opt = jax.vmap(config.optimizer().update)(gradient, lanes.opt, lanes.numbers)
    going_on = lanes.active & (measured < lanes.length) & ~given_up

    return Lanes(
        # What is measured last is not updated: a lane that has stopped holds what it stopped at.
        numbers=_where(going_on, optax.apply_updates(lanes.numbers, updates), lanes.numbers),
        opt=jax.tree.map(functools.partial(_where, going_on), opt, lanes.opt),
        tokens=lanes.tokens,
        length=lanes.length,
        target=_where(lanes.active, target, lanes.target),
        step=_where(lanes.active, step, lanes.step),
        improved=_where(lanes.active, improved, lanes.improved),
        score=_where(better, measured, lanes.score),
        nats=_where(better, total, lanes.nats),
        best=_where(better, lanes.numbers, lanes.best),
        best_step=_where(better, lanes.step, lanes.best_step),
        lowest_nats=_where(lanes.active, jnp.fmin(total, lanes.lowest_nats), lanes.lowest_nats),
        active=going_on,
    )


def _where(condition, new, old):
    """Returns new [B, ...] in the lanes for which bool[B] is true, old in the others."""
    return jnp.where(condition.reshape(-1, *(1,) * (new.ndim - 1)), new, old)


def _measure(model_config, config, mapping, params, lanes):
    """Returns (nats [B, L], gaps [B, L], gradient [B, K, M]) of the numbers as their format has them."""
    form = weights.representation(config.format)
    place = jnp.arange(lanes.tokens.shape[1])[None]
    weight = jnp.where(place < 2, config.first_weight, 1.0) * (place < lanes.target[:, None])
    weight = weight / jnp.maximum(jnp.sum(weight, axis=1, keepdims=True), 1e-9)

    def loss(numbers):
        prefix = mapping.vectors(form.quantize(numbers, axis=-1))
        nats, gaps = score(teacher_forced(model_config, params, prefix, lanes.tokens), lanes.tokens)
        return jnp.sum(nats * weight), (nats, gaps)  # a sum over lanes: the gradient of each is its own mean's

    gradient, (nats, gaps) = jax.grad(loss, has_aux=True)(lanes.numbers)
    return nats, gaps, gradient
