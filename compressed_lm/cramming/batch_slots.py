"""Cramming steps for a batch of texts: each slot has its own text, numbers and stopping rule.

Slots are independent, so the result of a text does not depend on the other texts. It depends on the number of slots and
the padded length only by rounding: with other shapes the compiler may sum the same products in another order.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from compressed_lm import weights
from compressed_lm.cramming.config import CramConfig
from compressed_lm.cramming.frozen import score, teacher_forced
from compressed_lm.cramming.vectors import Mapping
from compressed_lm.models import TransformerConfig


class Slots(NamedTuple):
    """State of B texts.

    Attributes:
        numbers: float32[B, K, M], optimised numbers.
        opt: state of the optimizer, per slot.
        tokens: int32[B, L], padded.
        length: int32[B], N.
        target: int32[B], number of first tokens in the loss.
        step: int32[B], measurements done.
        improved: int32[B], the last step with a better score.
        score: int32[B], the best score so far; -1 before the first measurement.
        nats: float32[B], summed loss of the whole text at `best`.
        best: float32[B, K, M], numbers with the best score; of equal scores, those with the lower loss.
        best_step: int32[B], updates before `best`.
        lowest_nats: float32[B], the lowest loss of any step.
        active: bool[B]; inactive slots do not change.
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


def start(config: CramConfig, numbers: np.ndarray, tokens: np.ndarray, lengths: np.ndarray) -> Slots:
    """Returns slots before their first step; a slot with length 0 is empty."""
    n, initial, length = len(lengths), jnp.asarray(numbers), jnp.asarray(lengths, jnp.int32)
    zeros, infinite = jnp.zeros(n, jnp.int32), jnp.full(n, jnp.inf, jnp.float32)
    return Slots(
        numbers=initial,
        opt=jax.vmap(config.optimizer().init)(initial),
        tokens=jnp.asarray(tokens, jnp.int32),
        length=length,
        target=length if config.method == "full" else jnp.minimum(length, config.grow),
        step=zeros,
        improved=zeros,
        score=zeros - 1,
        nats=infinite,
        best=initial,
        best_step=zeros,
        lowest_nats=infinite,
        active=length > 0,
    )


@jax.jit
def replaced(slots: Slots, fresh: Slots, which: jax.Array) -> Slots:
    """Returns `slots`, with those for which bool[B] `which` is true replaced by `fresh`."""
    return jax.tree.map(functools.partial(_where, which), fresh, slots)


@functools.partial(jax.jit, static_argnums=(0, 1))
def advance(model_config: TransformerConfig, config: CramConfig, params: dict, slots: Slots, n_steps: int) -> Slots:
    """Returns the slots after up to `n_steps` more steps; fewer if none is active."""
    mapping = Mapping.of(config, model_config.d_model)

    def more(carry: tuple[Any, Slots]) -> jax.Array:
        i, slots = carry
        return (i < n_steps) & jnp.any(slots.active)

    def body(carry: tuple[Any, Slots]) -> tuple[Any, Slots]:
        i, slots = carry
        return i + 1, _step(model_config, config, mapping, params, slots)

    return jax.lax.while_loop(more, body, (0, slots))[1]


def _step(model_config: TransformerConfig, config: CramConfig, mapping: Mapping, params: dict, slots: Slots) -> Slots:
    """Measures the numbers of each active slot, stores them if they are its best, then updates them."""
    nats, gaps, gradient = _measure(model_config, config, mapping, params, slots)
    place = jnp.arange(slots.tokens.shape[1])[None]
    inside = place < slots.length[:, None]
    right = (gaps > config.margin) & inside
    prefix = jnp.min(jnp.where(right, slots.tokens.shape[1], place), axis=1).astype(jnp.int32)
    measured = jnp.sum(right, axis=1, dtype=jnp.int32) if config.method == "full" else prefix
    total = jnp.sum(jnp.where(inside, nats, 0.0), axis=1)

    higher = measured > slots.score
    better = slots.active & (higher | ((measured == slots.score) & (total < slots.nats)))
    improved = jnp.where(higher, slots.step, slots.improved)
    step = slots.step + 1
    given_up = (step >= config.steps) | (slots.step - improved >= config.patience)
    target = jnp.maximum(slots.target, jnp.minimum(prefix + config.grow, slots.length))
    updates, opt = jax.vmap(config.optimizer().update)(gradient, slots.opt, slots.numbers)
    going_on = slots.active & (measured < slots.length) & ~given_up

    return Slots(
        # A slot that stops keeps its last measured numbers.
        numbers=_where(going_on, optax.apply_updates(slots.numbers, updates), slots.numbers),
        opt=jax.tree.map(functools.partial(_where, going_on), opt, slots.opt),
        tokens=slots.tokens,
        length=slots.length,
        target=_where(slots.active, target, slots.target),
        step=_where(slots.active, step, slots.step),
        improved=_where(slots.active, improved, slots.improved),
        score=_where(better, measured, slots.score),
        nats=_where(better, total, slots.nats),
        best=_where(better, slots.numbers, slots.best),
        best_step=_where(better, slots.step, slots.best_step),
        lowest_nats=_where(slots.active, jnp.fmin(total, slots.lowest_nats), slots.lowest_nats),
        active=going_on,
    )


def _where(condition: jax.Array, new: Any, old: Any) -> jax.Array:
    """Returns new [B, ...] in the slots for which bool[B] is true, otherwise old."""
    return jnp.where(condition.reshape(-1, *(1,) * (new.ndim - 1)), new, old)


def _measure(
    model_config: TransformerConfig, config: CramConfig, mapping: Mapping, params: dict, slots: Slots
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns (nats [B, L], gaps [B, L], gradient [B, K, M]) of the quantised numbers."""
    form = weights.representation(config.format)
    place = jnp.arange(slots.tokens.shape[1])[None]
    weight = jnp.where(place < 2, config.first_weight, 1.0) * (place < slots.target[:, None])
    weight = weight / jnp.maximum(jnp.sum(weight, axis=1, keepdims=True), 1e-9)

    def loss(numbers: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        prefix = mapping.vectors(form.quantize(numbers, axis=-1))
        nats, gaps = score(teacher_forced(model_config, params, prefix, slots.tokens), slots.tokens)
        return jnp.sum(nats * weight), (nats, gaps)  # a sum over slots, so each gradient is that of the slot's mean

    gradient, (nats, gaps) = jax.grad(loss, has_aux=True)(slots.numbers)
    return nats, gaps, gradient
