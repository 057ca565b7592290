"""Which dimensions of a model matter most: the scores by which a small model's widths are chosen from a large one's.

papers/004 section 2. One score for each dimension of the residual stream (one set for the whole model, since all its
matrices meet there) and, layer by layer, one for each hidden unit of the MLP. Higher is kept.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from compressed_lm.errors import InputError
from compressed_lm.models.config import TransformerConfig
from compressed_lm.models.layers import NOISE, Block
from compressed_lm.models.partitioning import by_name
from compressed_lm.models.width_pruning import Selection, sides


class Scores(NamedTuple):
    """Importance: `d_model` float64[D], of the residual stream; `d_ff` float64[n_layers, F], of the hidden units."""

    d_model: np.ndarray
    d_ff: np.ndarray


def select(scores: Scores, *, d_model: int, d_ff: int) -> Selection:
    """Returns the dimensions with the highest scores, in the order in which they stand in the model.

    Of equal scores the first are kept.

    Raises:
        InputError: more dimensions are asked for than there are, or none, or scores are not finite.
    """
    for name, asked, given in (("d_model", d_model, scores.d_model), ("d_ff", d_ff, scores.d_ff)):
        if not 1 <= asked <= given.shape[-1]:
            raise InputError(
                f"{name}={asked} was given for a model that has {given.shape[-1]}; expected 1 to {given.shape[-1]}."
            )
        if not np.all(np.isfinite(given)):
            raise InputError(
                f"The importance scores of {name} are not all finite; the model computes NaN or infinity on these "
                "tokens. Give a checkpoint whose training did not diverge, or scores by magnitude or index."
            )
    highest = lambda x, n: np.sort(np.argsort(-x, axis=-1, kind="stable")[..., :n], axis=-1).astype(np.int32)  # noqa: E731
    return Selection(highest(scores.d_model, d_model), highest(scores.d_ff, d_ff))


def index_scores(config: TransformerConfig) -> Scores:
    """Returns scores that keep the first dimensions, whatever they hold: a control.

    The authors' program has such a control, too, called "dummy" (papers/004 section 2 says that it keeps the last).
    """
    falling = lambda n: -np.arange(n, dtype=np.float64)  # noqa: E731
    return Scores(falling(config.d_model), np.tile(falling(config.d_ff), (config.n_layers, 1)))


def magnitude_scores(params: dict) -> Scores:
    """Returns scores by the weights alone, without data.

    A residual dimension has the mean over the matrices that read or write it (those of the blocks, embedding, output
    layer) of the L2 norms of its rows or columns; a hidden unit has the sum of the norms of its columns in up and gate
    and its row in down.
    """
    norms = {"d": [], "f": []}
    for name, leaf in by_name(params).items():
        if not name.endswith(("/kernel", "embed/embedding")):
            continue
        x = np.asarray(leaf, np.float64)
        for axis, side in zip((-2, -1), sides(name), strict=True):
            if side is not None:
                lengths = np.sqrt(np.sum(x**2, axis=-3 - axis))  # over the other axis
                norms[side] += [lengths] if side == "f" else list(np.atleast_2d(lengths))
    return Scores(np.mean(norms["d"], axis=0), np.sum(norms["f"], axis=0))


def activation_scores(
    params: dict,
    inputs: np.ndarray,
    *,
    config: TransformerConfig,
    batch: int = 8,
    progress: Callable[[int], None] | None = None,
) -> Scores:
    """Returns scores by what a model computes on text ("minitron-style", the paper's choice).

    A residual dimension has the sum over blocks, both norms, rows and positions of its absolute value after the norm; a
    hidden unit has the sum of the absolute values of the up-projection, before activation and gate.

    Args:
        params: the tree inside "params".
        inputs: int32[N, L], tokens as the model reads them (`shift_right`). The paper takes 8192 rows of 1024 and finds
            that more do not help.
        config: of the model.
        batch: rows that are run at once.
        progress: called with the number of rows done.
    """

    def reduce(seen, rows):
        total = lambda name: jnp.einsum("b,bld->d", rows, jnp.abs(seen[name][1].astype(jnp.float32)))  # noqa: E731
        return total("attention_norm") + total("mlp_norm"), total("mlp/up")

    layers = _walk(params, inputs, reduce, config=config, batch=batch, progress=progress)
    return Scores(sum(d for d, _ in layers), np.stack([f for _, f in layers]))


def residual_moment(
    params: dict,
    inputs: np.ndarray,
    *,
    config: TransformerConfig,
    batch: int = 8,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Returns float64[D, D], the mean of x x^T over text, x being what the norms of the blocks make of their inputs
    before their gains: the residual stream at a root mean square of 1. For `projected(start="svd")`.

    Args:
        params, inputs, config, batch, progress: as for `activation_scores`.
    """

    def reduce(seen, rows):
        def moment(name):
            x = seen[name][0].astype(jnp.float32)
            x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)
            return jnp.einsum("b,bld,ble->de", rows, x, x)

        return moment("attention_norm") + moment("mlp_norm")

    layers = _walk(params, inputs, reduce, config=config, batch=batch, progress=progress)
    return sum(layers) / (2 * config.n_layers * np.size(inputs))


def _walk(params, inputs, reduce, *, config, batch, progress):
    """Returns, for each layer, the sum over batches of reduce({module: (input, output)}, 1 for each row), float64."""
    block, progress = Block(config, parent=None), progress or (lambda done: None)
    inputs = np.asarray(inputs)
    if inputs.ndim != 2 or not inputs.size:
        raise InputError(f"Calibration tokens of shape {inputs.shape} were given; expected rows of tokens, [N, L].")

    @jax.jit
    def step(layers, i, x, rows):
        seen = {}

        def observe(next_fun, args, kwargs, context):
            result = next_fun(*args, **kwargs)
            if context.method_name == "__call__":
                seen["/".join(context.module.path)] = args[0], result
            return result

        layer = jax.tree.map(lambda stack: jax.lax.dynamic_index_in_dim(stack, i, keepdims=False), layers)
        with nn.intercept_methods(observe):
            x = block.apply({"params": layer}, x, rngs={NOISE: jax.random.key(0)})
        return x, reduce(seen, rows)

    totals = [None] * config.n_layers
    for first in range(0, len(inputs), batch):
        part = inputs[first : first + batch]
        rows = (np.arange(batch) < len(part)).astype(np.float32)
        part = np.pad(part, ((0, batch - len(part)), (0, 0)))
        x = jnp.asarray(params["embed"]["embedding"])[part].astype(config.dtype)
        for i in range(config.n_layers):
            x, found = step(params["layers"], i, x, rows)
            found = jax.tree.map(lambda y: np.asarray(y, np.float64), found)
            totals[i] = found if totals[i] is None else jax.tree.map(np.add, totals[i], found)
        progress(min(first + batch, len(inputs)))
    return totals
