"""Cramming steps for a batch of texts: each slot has its own text, numbers and stopping rule.

Slots are independent, so the result of a text does not depend on the other texts. It depends on the number of slots and
the padded length only by rounding: with other shapes the compiler may sum the same products in another order.
"""

import functools
from collections.abc import Callable, Sequence
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
        maps: () or the learned maps to vectors: w float32[B, M, D] and b float32[B, D]; without B if they are shared.
        map_opt: their state of the optimizer, per slot unless they are shared.
        tokens: int32[B, L], padded; only the first tokens of each text if `CramConfig.crop` is set.
        length: int32[B], N.
        target: int32[B], number of first tokens in the loss.
        step: int32[B], measurements done.
        improved: int32[B], the last step with a better score.
        score: int32[B], the best score so far; -1 before the first measurement.
        nats: float32[B], summed loss of the whole text at `best`.
        best: float32[B, K, M], numbers with the best score; of equal scores, those with the lower loss, or the first
            ones if `CramConfig.crop` is set. With learned maps: float32[B, K, D], vectors.
        best_step: int32[B], updates before `best`.
        lowest_nats: float32[B], the lowest loss of `tokens` of any step.
        active: bool[B]; inactive slots do not change.
    """

    numbers: jax.Array
    opt: optax.OptState
    maps: Any
    map_opt: optax.OptState
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


def start(
    config: CramConfig, numbers: np.ndarray, tokens: np.ndarray, lengths: np.ndarray, maps: Sequence[dict] = ()
) -> Slots:
    """Returns slots before their first step; a slot with length 0 is empty.

    Args:
        config: the settings.
        numbers: float32[B, K, M].
        tokens: int32[B, L].
        lengths: int32[B].
        maps: the initial map of each slot if maps are learned (`vectors.initial_map`); the first one if shared.
    """
    n, initial, length = len(lengths), jnp.asarray(numbers), jnp.asarray(lengths, jnp.int32)
    zeros, infinite = jnp.zeros(n, jnp.int32), jnp.full(n, jnp.inf, jnp.float32)
    learned, best, init = (), initial, config.optimizer().init
    if config.projection != "signs":
        learned = (
            jax.tree.map(lambda *x: jnp.stack(x), *maps)
            if config.projection == "learned"
            else jax.tree.map(jnp.asarray, maps[0])
        )
        best = jnp.zeros((*initial.shape[:2], maps[0]["b"].shape[0]), jnp.float32)
    return Slots(
        numbers=initial,
        opt=jax.vmap(init)(initial),
        maps=learned,
        map_opt=() if not learned else init(learned) if config.projection == "shared" else jax.vmap(init)(learned),
        tokens=jnp.asarray(tokens, jnp.int32),
        length=length,
        target=length if config.method == "full" else jnp.minimum(length, config.grow),
        step=zeros,
        improved=zeros,
        score=zeros - 1,
        nats=infinite,
        best=best,
        best_step=zeros,
        lowest_nats=infinite,
        active=length > 0,
    )


@functools.partial(jax.jit, static_argnums=0)
def replaced(config: CramConfig, slots: Slots, fresh: Slots, which: jax.Array) -> Slots:
    """Returns `slots`, with those for which bool[B] `which` is true replaced by `fresh`; shared maps stay."""
    shared = slots if config.projection == "shared" else fresh
    fresh = fresh._replace(maps=shared.maps, map_opt=shared.map_opt)
    return _per_slot(config, functools.partial(_where, which), fresh, slots)


def taken(config: CramConfig, slots: Slots, which: Sequence[int]) -> Slots:
    """Returns only the slots of these indices, in this order."""
    return _per_slot(config, lambda x: x[jnp.asarray(which)], slots)


def _per_slot(config: CramConfig, function: Callable, slots: Slots, *others: Slots) -> Slots:
    """Returns the result of a function of each array with a slot axis; shared maps are those of `slots`."""
    if config.projection != "shared":
        return jax.tree.map(function, slots, *others)
    apart = [each._replace(maps=(), map_opt=()) for each in (slots, *others)]
    return jax.tree.map(function, *apart)._replace(maps=slots.maps, map_opt=slots.map_opt)


@functools.partial(jax.jit, static_argnums=(0, 1))
def advance(model_config: TransformerConfig, config: CramConfig, params: dict, slots: Slots, n_steps: int) -> Slots:
    """Returns the slots after up to `n_steps` more steps; fewer if none is active or a target exceeds the tokens."""
    mapping = Mapping.of(config, model_config.d_model)

    def more(carry: tuple[Any, Slots]) -> jax.Array:
        i, slots = carry
        enough = jnp.all(~slots.active | (slots.target <= slots.tokens.shape[1])) if config.crop else True
        return (i < n_steps) & jnp.any(slots.active) & enough

    def body(carry: tuple[Any, Slots]) -> tuple[Any, Slots]:
        i, slots = carry
        return i + 1, _step(model_config, config, mapping, params, slots)

    return jax.lax.while_loop(more, body, (0, slots))[1]


def _step(model_config: TransformerConfig, config: CramConfig, mapping: Mapping, params: dict, slots: Slots) -> Slots:
    """Measures the numbers of each active slot, stores them if they are its best, then updates them."""
    gradient, map_gradient, nats, gaps, vectors = _measure(model_config, config, mapping, params, slots)
    place = jnp.arange(slots.tokens.shape[1])[None]
    inside = place < slots.length[:, None]
    right = (gaps > config.margin) & inside
    prefix = jnp.min(jnp.where(right, slots.tokens.shape[1], place), axis=1).astype(jnp.int32)
    measured = jnp.sum(right, axis=1, dtype=jnp.int32) if config.method == "full" else prefix
    total = jnp.sum(jnp.where(inside, nats, 0.0), axis=1)

    higher = measured > slots.score
    tied = False if config.crop else (measured == slots.score) & (total < slots.nats)
    better = slots.active & (higher | tied)
    improved = jnp.where(higher, slots.step, slots.improved)
    step = slots.step + 1
    given_up = (step >= config.steps) | (slots.step - improved >= config.patience)
    target = jnp.maximum(slots.target, jnp.minimum(prefix + config.grow, slots.length))
    update = config.optimizer().update
    updates, opt = jax.vmap(update)(gradient, slots.opt, slots.numbers)
    going_on = slots.active & (measured < slots.length) & ~given_up
    maps, map_opt = slots.maps, slots.map_opt
    if config.projection != "signs":
        shared = config.projection == "shared"
        map_updates, map_opt = (update if shared else jax.vmap(update))(map_gradient, map_opt, maps)
        chosen = jnp.any(going_on) if shared else going_on
        where = functools.partial(jnp.where, chosen) if shared else functools.partial(_where, chosen)
        maps = jax.tree.map(where, optax.apply_updates(maps, map_updates), maps)
        map_opt = jax.tree.map(where, map_opt, slots.map_opt)

    return Slots(
        # A slot that stops keeps its last measured numbers.
        numbers=_where(going_on, optax.apply_updates(slots.numbers, updates), slots.numbers),
        opt=jax.tree.map(functools.partial(_where, going_on), opt, slots.opt),
        maps=maps,
        map_opt=map_opt,
        tokens=slots.tokens,
        length=slots.length,
        target=_where(slots.active, target, slots.target),
        step=_where(slots.active, step, slots.step),
        improved=_where(slots.active, improved, slots.improved),
        score=_where(better, measured, slots.score),
        nats=_where(better, total, slots.nats),
        best=_where(better, slots.numbers if config.projection == "signs" else vectors, slots.best),
        best_step=_where(better, slots.step, slots.best_step),
        lowest_nats=_where(slots.active, jnp.fmin(total, slots.lowest_nats), slots.lowest_nats),
        active=going_on,
    )


def _where(condition: jax.Array, new: Any, old: Any) -> jax.Array:
    """Returns new [B, ...] in the slots for which bool[B] is true, otherwise old."""
    return jnp.where(condition.reshape(-1, *(1,) * (new.ndim - 1)), new, old)


def _measure(
    model_config: TransformerConfig, config: CramConfig, mapping: Mapping, params: dict, slots: Slots
) -> tuple[jax.Array, Any, jax.Array, jax.Array, jax.Array]:
    """Returns (gradient [B, K, M] of the quantised numbers, gradient of the maps, nats [B, L], gaps, vectors)."""
    form = weights.representation(config.format)
    place = jnp.arange(slots.tokens.shape[1])[None]
    weight = jnp.where(place < 2, config.first_weight, 1.0) * (place < slots.target[:, None])
    weight = weight / jnp.maximum(jnp.sum(weight, axis=1, keepdims=True), 1e-9)
    if config.projection == "shared":  # texts that have stopped do not change the map
        weight = weight * slots.active[:, None]

    def loss(numbers: jax.Array, maps: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
        if config.projection == "signs":
            prefix = mapping.vectors(form.quantize(numbers, axis=-1))
        else:
            prefix = numbers @ maps["w"] + maps["b"][..., None, :]
        nats, gaps = score(teacher_forced(model_config, params, prefix, slots.tokens), slots.tokens)
        return jnp.sum(nats * weight), (nats, gaps, prefix)  # a sum over slots, so each gradient is that of its mean

    gradients, (nats, gaps, prefix) = jax.grad(loss, argnums=(0, 1), has_aux=True)(slots.numbers, slots.maps)
    return *gradients, nats, gaps, prefix
