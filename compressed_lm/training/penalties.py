"""BackSlash: penalty on the bits of the weights under a generalized Gaussian (papers/002 section 3).

A weight w of a tensor with shape v and scale a costs (|w| / a)**v + log(2 a Gamma(1 / v) / v) nats, plus a constant for
the step of quantisation. `TrainConfig.penalty` selects how this cost is minimised together with the loss:

    none                             no penalty
    backslash(rate=0.1,arm=loss)     a term of the loss; its gradient passes through clipping and the optimizer
    backslash(rate=1)                arm=prox: a proximal step after each update, which makes exact zeros
    backslash(rate=10,arm=decoupled) the authors' step after each update
    l1(rate=1)                       any arm with the shape fixed at 1, the same as backslash(rate=1,shape=1)

A rate of 0 changes nothing and records the shapes. Each layer of a stack is a separate tensor. `BackSlash` explains
`rate` for each arm.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from compressed_lm import specs
from compressed_lm.errors import InputError
from compressed_lm.models.partitioning import path_name
from compressed_lm.specs import Option, text
from compressed_lm.weights.gennorm import BOUNDS, shape_from_ratio

EPS = {"loss": 0.01, "decoupled": 1.0, "prox": 0.01}
"""Default `eps` of each arm: relative to the tensor's root mean square, absolute for decoupled."""

EVERY = 1
EXAMPLE = "none, backslash(rate=0.1,arm=loss) or l1(rate=1)"
_TINY = 1e-12  # smallest scale, used for a tensor of zeros
_SHARED = {"arm": Option(str, "prox"), "every": Option(int, EVERY), "embed": Option(int, 0)}
_SHAPED = {"shape": Option(float, 0), "eps": Option(float, 0.01), "pool": Option(int, 0)}
_FAMILIES: dict[str, dict[str, Option]] = {
    "none": {},
    "backslash": {"rate": Option(float), **_SHARED, **_SHAPED},
    "l1": {"rate": Option(float), **_SHARED},
}
Params = dict  # the tree in "params", as in models/transformer.py
Tensors = dict[str, jax.Array]  # penalised parameters, or one number for each of their matrices, by path


@dataclasses.dataclass(frozen=True)
class BackSlash:
    """Penalty on the kernels of the layers; norms and bias tables are never penalised.

    With s the root mean square of a tensor, v its shape and n the number of penalised weights:

    loss: the objective is D + rate * R, D in nats per token and R the mean over the weights of ((|w| + eps s) / a)**v.
        a**v = v mean((|w| + eps s)**v) is the maximum-likelihood scale; the gradient is that of the mean code length in
        nats per weight. So `rate` is a price: the nats per token that a nat per weight (a bit for a bit) may cost. At
        the optimum it is minus the slope of loss against code length. Loss depends on the relative error of the
        weights, not on their number, so a rate has about the same effect at every size (the tests require a factor of
        at most 2 in bits saved, from width 64 to 128). rate = n / tokens of training minimises the description length
        of weights and text together.
    prox: after each update of the optimizer, w <- sign(w) max(|w| - t, 0) with t = learning rate * rate * s * v *
        (|w| / s + eps)**(v - 1). `rate` is relative shrinkage per unit of learning rate, like `weight_decay`: v = 2 is
        a weight decay of 2 rate. It does not depend on size or steps, only on the sum of the learning rates. An
        estimated shape above 1 counts as 1, because a penalty that is flat at 0 makes no zeros.
    decoupled: the authors' code: after each update, w <- w - rate * v / n * sign(w) * (|w| + eps)**(v - 1), eps = 1,
        without the learning rate. Their n counts all parameters, norms too. `rate` / n is a weight per update, so it
        must be chosen again for another size, another number of steps, or another scale of the weights.

    Attributes:
        rate: strength, at least 0.
        arm: loss, prox or decoupled.
        shape: v; 0 to estimate it from the weights by the ratio of moments.
        every: steps between estimates of shapes and root mean squares.
        eps: keeps the slope at 0 finite if v < 1; None for `EPS[arm]`.
        pool: 1 for one shape, estimated from all penalised weights together as the authors do; 0 for one per tensor.
        embed: 1 to penalise the embedding tables and the output matrix too.

    Raises:
        InputError: an unknown arm, or a value out of range.
    """

    rate: float
    arm: str = "prox"
    shape: float = 0.0
    every: int = EVERY
    eps: float | None = None
    pool: int = 0
    embed: int = 0

    def __post_init__(self) -> None:
        if self.arm not in EPS:
            raise InputError(
                f"arm={self.arm} was given to a penalty.{specs.did_you_mean(self.arm, EPS)} Valid: {', '.join(EPS)}."
            )
        if self.eps is None:
            object.__setattr__(self, "eps", EPS[self.arm])
        ranges = dict(
            rate=(0, 1e12), shape=(0, BOUNDS[1]), every=(1, 2**31), eps=(1e-6, 1e6), pool=(0, 1), embed=(0, 1)
        )
        for option, (low, high) in ranges.items():
            if not low <= getattr(self, option) <= high:
                raise InputError(
                    f"{option}={getattr(self, option)} was given to a penalty; expected a number from "
                    f"{text(low)} to {text(high)}."
                )
        if 0 < self.shape < BOUNDS[0]:
            raise InputError(
                f"shape={self.shape} was given to a penalty; expected 0, to estimate it, or a number from {BOUNDS[0]} "
                f"to {BOUNDS[1]}."
            )
        # Options without effect get their default, so that equal settings have equal records.
        if self.shape:
            object.__setattr__(self, "pool", 0)
        if self.shape == 1 and self.arm != "loss":
            object.__setattr__(self, "eps", EPS[self.arm])
        if self.shape and self.arm == "decoupled":
            object.__setattr__(self, "every", EVERY)

    def __str__(self) -> str:
        """Returns the canonical spec, with the options that are not the default."""
        l1 = self.shape == 1 and self.eps == EPS[self.arm]
        defaults = dict(arm="prox", shape=1 if l1 else 0, every=EVERY, eps=EPS[self.arm], pool=0, embed=0)
        changed = [f"{k}={text(getattr(self, k))}" for k, default in defaults.items() if getattr(self, k) != default]
        return f"{'l1' if l1 else 'backslash'}({','.join([f'rate={text(self.rate)}', *changed])})"

    def select(self, params: Params) -> Tensors:
        """Returns the penalised parameters, [..., N, M] each, by path."""

        def chosen(path):
            in_layers = path[0].key == "layers"
            return path[-1].key == "kernel" if in_layers else self.embed and path[-1].key in ("kernel", "embedding")

        return {path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(params) if chosen(path)}

    def fit(self, params: Params) -> tuple[Tensors, Tensors]:
        """Returns (shapes, root mean squares) of the penalised tensors, float32[...] for kernels [..., N, M]."""
        own, pooled, scales = _estimates(self.select(params))
        if self.shape or self.pool:
            shape = jnp.float32(self.shape) if self.shape else pooled
            own = {name: jnp.broadcast_to(shape, scale.shape) for name, scale in scales.items()}
        if self.arm == "prox" and not self.shape:
            own = {name: jnp.minimum(shape, 1.0) for name, shape in own.items()}
        return own, scales

    def gradient(self, params: Params, shapes: Tensors, scales: Tensors) -> Tensors:
        """Returns the gradient of `rate` R with respect to the penalised parameters, for arm=loss."""
        tensors = self.select(params)
        n = _count(tensors)

        def one(w, shape, scale):
            u = jnp.abs(w) / scale + self.eps
            mean = jnp.mean(u**shape, axis=(-2, -1), keepdims=True)
            return self.rate / n * jnp.sign(w) * u ** (shape - 1) / (mean * scale)

        return {name: one(w, _wide(shapes[name]), _wide(scales[name])) for name, w in tensors.items()}

    def shrink(self, params: Params, shapes: Tensors, scales: Tensors, learning_rate: jax.Array) -> Tensors:
        """Returns the penalised parameters after the step of arm=prox or arm=decoupled."""
        tensors = self.select(params)
        n = _count(tensors)

        def one(w, shape, scale):
            if self.arm == "decoupled":
                return w - self.rate * shape / n * jnp.sign(w) * (jnp.abs(w) + self.eps) ** (shape - 1)
            slope = scale * shape * (jnp.abs(w) / scale + self.eps) ** (shape - 1)
            return jnp.sign(w) * jnp.maximum(jnp.abs(w) - learning_rate * self.rate * slope, 0)

        return {name: one(w, _wide(shapes[name]), _wide(scales[name])) for name, w in tensors.items()}

    def metrics(self, params: Params) -> dict[str, jax.Array]:
        """Returns metrics of the penalised weights, float32[] each.

        `weight_shape` is the mean over the weights of their tensors' shapes, `weight_shape_pooled` the shape of all
        weights together (lower if scales differ), and `zeros` the share of exact zeros.
        """
        tensors = self.select(params)
        own, pooled, _ = _estimates(tensors)
        n = _count(tensors)
        return {
            "weight_shape": sum(jnp.mean(own[name]) * (w.size / n) for name, w in tensors.items()),
            "weight_shape_pooled": pooled,
            "zeros": sum(jnp.mean(w == 0) * (w.size / n) for w in tensors.values()),
        }


def penalty(spec: str) -> BackSlash | None:
    """Returns the penalty of a spec, None for `none`.

    Raises:
        InputError: an unknown name, option or arm (the message lists the known ones), or a value out of range.
    """
    name, parsed = specs.parse(spec, _FAMILIES, noun="penalty", example=EXAMPLE)
    if name == "none":
        return None
    options: dict[str, Any] = {**parsed, **({"shape": 1.0} if name == "l1" else {})}
    return BackSlash(**options)


def canonical(spec: str) -> str:
    """Returns the canonical spec of a penalty; equal penalties have equal specs."""
    return str(penalty(spec) or "none")


class PenaltyState(NamedTuple):
    """State of `penalised`.

    Attributes:
        inner: state of the inner optimizer.
        shapes, scales: last result of `BackSlash.fit`.
        step: updates done, int32[].
    """

    inner: optax.OptState
    shapes: Tensors
    scales: Tensors
    step: jax.Array


def penalised(
    inner: optax.GradientTransformation, rule: BackSlash, learning_rate: Callable[[jax.Array], jax.Array]
) -> optax.GradientTransformation:
    """Returns an optimizer that also minimises the penalty.

    Args:
        inner: the optimizer, clipping included.
        rule: the penalty.
        learning_rate: function from the number of updates done to the learning rate.
    """

    def init(params):
        return PenaltyState(inner.init(params), *rule.fit(params), jnp.zeros((), jnp.int32))

    def refitted(state, params):
        due = state.step % rule.every == 0
        return jax.lax.cond(due, rule.fit, lambda _: (state.shapes, state.scales), params)

    def update(gradients, state, params):
        if rule.arm == "loss":
            shapes, scales = refitted(state, params)
            extra = rule.gradient(params, shapes, scales)
            gradients = _map_chosen(lambda g, more: g + more, gradients, extra)
            updates, inner_state = inner.update(gradients, state.inner, params)
        else:
            updates, inner_state = inner.update(gradients, state.inner, params)
            moved = optax.apply_updates(params, updates)
            shapes, scales = refitted(state, moved)  # after the update, as the authors do
            shrunk = rule.shrink(moved, shapes, scales, learning_rate(state.step))
            # w + (0 - w) is exactly 0.
            difference = jax.tree.map(jnp.subtract, shrunk, rule.select(params))
            updates = _map_chosen(lambda _, new: new, updates, difference)
        return updates, PenaltyState(inner_state, shapes, scales, state.step + 1)

    return optax.GradientTransformation(init, update)


def _map_chosen(function, tree, chosen):
    """Returns a tree with function(leaf, chosen[path]) for the paths in `chosen`, other leaves unchanged."""
    return jax.tree.map_with_path(lambda p, x: function(x, chosen[path_name(p)]) if path_name(p) in chosen else x, tree)


def _count(tensors):
    return sum(w.size for w in tensors.values())


def _estimates(tensors):
    """Returns (shapes, shape of all weights together, root mean squares); shapes by the ratio of moments."""
    first = {name: jnp.mean(jnp.abs(w), axis=(-2, -1)) for name, w in tensors.items()}
    second = {name: jnp.mean(w**2, axis=(-2, -1)) for name, w in tensors.items()}

    def ratios(first, second):  # a tensor of zeros (0 / 0) counts as a uniform one
        return jnp.ravel(second / jnp.maximum(first**2, _TINY**2))

    def pooled(moments):
        return sum(jnp.mean(moments[name]) * (w.size / _count(tensors)) for name, w in tensors.items())

    # One inversion for all tensors, because it takes many small operations.
    flat = [ratios(first[name], second[name]) for name in tensors] + [ratios(pooled(first), pooled(second))]
    shapes = shape_from_ratio(jnp.concatenate(flat))
    *parts, together = jnp.split(shapes, np.cumsum([len(part) for part in flat])[:-1])
    own = {name: part.reshape(x.shape) for (name, x), part in zip(first.items(), parts, strict=True)}
    return own, together[0], {name: jnp.maximum(jnp.sqrt(x), _TINY) for name, x in second.items()}


def _wide(x):
    return x[..., None, None]
