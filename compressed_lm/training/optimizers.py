"""Optimizers and learning-rate schedules, by name, out of optax."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from compressed_lm.training.config import TrainConfig

FINAL_COSINE = 0.1  # of the highest learning rate
WSD_DECAY = 0.2  # of all steps
Schedule = Callable[[jax.Array], jax.Array]


def schedule(config: TrainConfig) -> Schedule:
    """Returns the learning rate as a function of the number of updates done."""
    peak, warmup, steps = config.learning_rate, config.warmup_steps, config.steps

    def cosine(step):
        progress = jnp.clip((step - warmup) / max(steps - warmup, 1), 0, 1)
        return FINAL_COSINE + (1 - FINAL_COSINE) * 0.5 * (1 + jnp.cos(jnp.pi * progress))

    def wsd(step):
        return jnp.clip((steps - step) / max(WSD_DECAY * steps, 1), 0, 1)

    def constant(step):
        return jnp.ones(())

    def warmed(shape):
        return lambda step: peak * jnp.minimum(1, (step + 1) / max(warmup, 1)) * shape(step)

    def rsqrt(step):  # T5's: level until the warm-up is over (papers/000 section 3.2)
        return peak / jnp.sqrt(jnp.maximum(step, max(warmup, 1)))

    schedules = dict(cosine=warmed(cosine), wsd=warmed(wsd), constant=warmed(constant), rsqrt=rsqrt)
    return schedules[config.schedule]


def optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Returns the optimizer of a config: clipping, the named rule, decoupled weight decay, the schedule."""
    rate = schedule(config)

    def decayed(direction):
        decay = optax.add_decayed_weights(config.weight_decay, mask=is_matrix)
        return optax.chain(direction, decay, optax.scale_by_learning_rate(rate))

    def adamw():
        return decayed(optax.scale_by_adam(b1=config.b1, b2=config.b2))

    def adafactor():
        # -1: it descends by itself
        return decayed(optax.chain(per_layer(optax.adafactor(learning_rate=None)), optax.scale(-1.0)))

    def muon():
        return optax.contrib.muon(
            rate,
            weight_decay=config.weight_decay,
            weight_decay_mask=is_matrix,
            adam_b1=config.b1,
            adam_b2=config.b2,
            muon_weight_dimension_numbers=matrix_axes,
            consistent_rms=0.2,  # updates of the size of AdamW's, so that a learning rate serves both
        )

    rule = dict(adamw=adamw, adafactor=adafactor, muon=muon)[config.optimizer]()
    return optax.chain(optax.clip_by_global_norm(config.grad_clip), rule) if config.grad_clip else rule


def per_layer(rule: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns a rule that treats each layer of the stack on its own.

    What Adafactor takes from a whole array (the scale of a parameter, the clipping of an update) is that of one matrix.
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


def is_matrix(params):
    """Returns a tree of booleans: True for the kernels, which decay, and for what projections have in their place;
    False for norms, embeddings and bias tables."""
    return jax.tree.map_with_path(lambda path, _: _in_kernel(path), params)


def is_layer_kernel(path) -> bool:
    """Returns whether the parameter at a path is a matrix of the layers."""
    return path[0].key == "layers" and _in_kernel(path)


def matrix_axes(params):
    """Returns Muon's dimension numbers: which axes of a kernel are inputs and outputs; None for what Adam trains."""

    def axes(path, leaf):
        if not is_layer_kernel(path):
            return None
        return optax.contrib.MuonDimensionNumbers((leaf.ndim - 2,), (leaf.ndim - 1,))  # a stack of layers comes first

    return jax.tree.map_with_path(axes, params)


def _in_kernel(path):
    return any(entry.key == "kernel" for entry in path[-2:])
