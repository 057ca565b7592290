"""Optax optimizers and learning-rate schedules by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax

from compressed_lm.training.durations import whole

if TYPE_CHECKING:
    from compressed_lm.training.config import TrainConfig

FINAL_COSINE = 0.1  # of the highest learning rate
WSD_DECAY = 0.2  # of all steps
Schedule = Callable[[jax.Array], jax.Array]


def schedule(config: TrainConfig) -> Schedule:
    """Returns the learning rate as a function of the number of updates done."""
    return SCHEDULES[config.schedule](config)


def optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Returns the optimizer of a config: clipping, the named rule, decoupled weight decay, the schedule."""
    rule = OPTIMIZERS[config.optimizer](config, schedule(config))
    return optax.chain(optax.clip_by_global_norm(config.grad_clip), rule) if config.grad_clip else rule


def _cosine(config: TrainConfig) -> Schedule:
    """Decays to a tenth along a cosine."""
    steps, warmup = whole(config.steps), whole(config.warmup_steps)

    def shape(step):
        progress = jnp.clip((step - warmup) / max(steps - warmup, 1), 0, 1)
        return FINAL_COSINE + (1 - FINAL_COSINE) * 0.5 * (1 + jnp.cos(jnp.pi * progress))

    return _warmed(config, shape)


def _wsd(config: TrainConfig) -> Schedule:
    """Stays constant, then falls linearly to 0 over the last fifth of the steps."""
    steps = whole(config.steps)
    return _warmed(config, lambda step: jnp.clip((steps - step) / max(WSD_DECAY * steps, 1), 0, 1))


def _constant(config: TrainConfig) -> Schedule:
    """Stays constant after the warm-up."""
    return _warmed(config, lambda step: jnp.ones(()))


def _rsqrt(config: TrainConfig) -> Schedule:
    """T5's: constant during the warm-up, then falls as 1 / sqrt(step) (papers/000 section 3.2)."""
    peak, warmup = config.learning_rate, max(whole(config.warmup_steps), 1)
    return lambda step: peak / jnp.sqrt(jnp.maximum(step, warmup))


def _warmed(config: TrainConfig, shape: Schedule) -> Schedule:
    peak, warmup = config.learning_rate, max(whole(config.warmup_steps), 1)
    return lambda step: peak * jnp.minimum(1, (step + 1) / warmup) * shape(step)


SCHEDULES: dict[str, Callable[[TrainConfig], Schedule]] = {
    "cosine": _cosine,
    "wsd": _wsd,
    "constant": _constant,
    "rsqrt": _rsqrt,
}
"""Schedules by name: config -> function from step to learning rate."""


def _adamw(config: TrainConfig, rate: Schedule) -> optax.GradientTransformation:
    """AdamW, with decay rates `b1` and `b2`."""
    return _decayed(optax.scale_by_adam(b1=config.b1, b2=config.b2), config, rate)


def _adafactor(config: TrainConfig, rate: Schedule) -> optax.GradientTransformation:
    """Adafactor, on each layer separately."""
    rule = per_layer(optax.adafactor(learning_rate=None))
    return _decayed(optax.chain(rule, optax.scale(-1.0)), config, rate)  # Adafactor already negates the update


def _muon(config: TrainConfig, rate: Schedule) -> optax.GradientTransformation:
    """Muon on the matrices of the layers, AdamW on all other parameters."""
    return optax.contrib.muon(
        rate,
        weight_decay=config.weight_decay,
        weight_decay_mask=is_matrix,
        adam_b1=config.b1,
        adam_b2=config.b2,
        muon_weight_dimension_numbers=matrix_axes,
        consistent_rms=0.2,  # updates as large as AdamW's, so that both use the same learning rates
    )


def _decayed(
    direction: optax.GradientTransformation, config: TrainConfig, rate: Schedule
) -> optax.GradientTransformation:
    decay = optax.add_decayed_weights(config.weight_decay, mask=is_matrix)
    return optax.chain(direction, decay, optax.scale_by_learning_rate(rate))


OPTIMIZERS: dict[str, Callable[[TrainConfig, Schedule], optax.GradientTransformation]] = {
    "adamw": _adamw,
    "adafactor": _adafactor,
    "muon": _muon,
}
"""Optimizers by name: (config, learning rate) -> gradient transformation."""


def per_layer(rule: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns an optimizer that treats each layer of the stack separately.

    So the values that Adafactor computes over a whole array (parameter scale, update clipping) are per matrix.
    """

    def parts(tree):
        return tree["layers"], {name: part for name, part in tree.items() if name != "layers"}

    def init(params):
        layers, rest = parts(params)
        return {"layers": jax.vmap(rule.init)(layers), "rest": rule.init(rest)}

    def update(updates, state, params):
        (layers, rest), (layer_params, rest_params) = parts(updates), parts(params)
        layers, layer_state = jax.vmap(rule.update)(layers, state["layers"], layer_params)
        rest, rest_state = rule.update(rest, state["rest"], rest_params)
        return rest | {"layers": layers}, {"layers": layer_state, "rest": rest_state}

    return optax.GradientTransformation(init, update)


def is_matrix(params: Any) -> Any:
    """Returns a tree of booleans: True for parameters with weight decay.

    These are the kernels and the factors of projected kernels; norms, embeddings and bias tables do not decay.
    """
    return jax.tree.map_with_path(lambda path, _: _in_kernel(path), params)


def is_layer_kernel(path: tuple[Any, ...]) -> bool:
    """Returns whether the parameter at a key path is a matrix of the layers."""
    return path[0].key == "layers" and _in_kernel(path)


def matrix_axes(params: Any) -> Any:
    """Returns Muon's dimension numbers: input and output axes of each kernel, None for parameters trained by Adam."""

    def axes(path, leaf):
        if not is_layer_kernel(path):
            return None
        return optax.contrib.MuonDimensionNumbers((leaf.ndim - 2,), (leaf.ndim - 1,))  # the first axis is the layer

    return jax.tree.map_with_path(axes, params)


def _in_kernel(path):
    return any(entry.key == "kernel" for entry in path[-2:])
