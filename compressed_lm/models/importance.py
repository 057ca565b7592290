"""Importance scores of a model's dimensions, for the selection of a small model's dimensions.

papers/004 section 2. There is one score per dimension of the residual stream (one set for the whole model, because all
its matrices share the stream) and one per hidden unit of each layer's MLP. The highest scores are kept.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from compressed_lm.errors import InputError
from compressed_lm.models.config import TransformerConfig
from compressed_lm.models.layers import NOISE, Block
from compressed_lm.models.partitioning import by_name
from compressed_lm.models.spans import stacked_spans
from compressed_lm.models.transformer import Transformer
from compressed_lm.models.width_pruning import Selection, sides

_Seen = dict[str, tuple[jax.Array, jax.Array]]  # module -> (input, output)


class Scores(NamedTuple):
    """Importance scores of residual dimensions and of the hidden units of each layer."""

    d_model: Float[np.ndarray, " D"]
    d_ff: Float[np.ndarray, "n_layers F"]


def select(scores: Scores, *, d_model: int, d_ff: int) -> Selection:
    """Returns the dimensions with the highest scores, in the order of the model; of equal scores, the first.

    Raises:
        InputError: `d_model` or `d_ff` is below 1 or above the model's, or scores are not finite.
    """
    for name, asked, given in (("d_model", d_model, scores.d_model), ("d_ff", d_ff, scores.d_ff)):
        if not 1 <= asked <= given.shape[-1]:
            raise InputError(
                f"{name}={asked} was given for a model with {given.shape[-1]}; expected 1 to {given.shape[-1]}."
            )
        if not np.all(np.isfinite(given)):
            raise InputError(
                f"The importance scores of {name} are not all finite: the model computes NaN or infinity on these "
                "tokens. Use a checkpoint whose training did not diverge, or scores by magnitude or index."
            )
    highest = lambda x, n: np.sort(np.argsort(-x, axis=-1, kind="stable")[..., :n], axis=-1).astype(np.int32)  # noqa: E731
    return Selection(highest(scores.d_model, d_model), highest(scores.d_ff, d_ff))


def index_scores(config: TransformerConfig) -> Scores:
    """Returns scores that keep the first dimensions, as a control.

    The authors' program has the same control, called "dummy" (papers/004 section 2 says that it keeps the last).
    """
    falling = lambda n: -np.arange(n, dtype=np.float64)  # noqa: E731
    return Scores(falling(config.d_model), np.tile(falling(config.d_ff), (config.n_layers, 1)))


def magnitude_scores(params: dict) -> Scores:
    """Returns scores from the weights alone, without data.

    Score of a residual dimension: the mean L2 norm of its rows or columns over all matrices that read or write it
    (blocks, embedding, output layer). Score of a hidden unit: the sum of the L2 norms of its columns in up and gate and
    its row in down.
    """
    norms: dict[str, list[np.ndarray]] = {"d": [], "f": []}
    for name, leaf in by_name(params).items():
        if not name.endswith(("/kernel", "embed/embedding")):
            continue
        x = np.asarray(leaf, np.float64)
        for axis, side in zip((-2, -1), sides(name), strict=True):
            if side is not None:
                lengths = np.sqrt(np.sum(x**2, axis=-3 - axis))  # sums over the other axis
                norms[side] += [lengths] if side == "f" else list(np.atleast_2d(lengths))
    return Scores(np.mean(norms["d"], axis=0), np.sum(norms["f"], axis=0))


def activation_scores(
    params: dict,
    inputs: Int[Array | np.ndarray, "N L"],
    *,
    config: TransformerConfig,
    batch: int = 8,
    progress: Callable[[int], None] | None = None,
) -> Scores:
    """Returns scores from a model's activations on text ("minitron-style", the paper's choice).

    Score of a residual dimension: the sum over blocks, rows and positions of its absolute value in the inputs of
    attention and MLP (after the norms, if the model has norms before them). Score of a hidden unit: the sum of the
    absolute values of the up-projection, before activation and gate.

    Args:
        params: the tree inside "params".
        inputs: N rows of model inputs (`shift_right`). The paper uses 8192 rows of 1024 tokens; more rows do not help.
        config: the model's config.
        batch: number of rows per forward pass.
        progress: called with the number of finished rows.
    """

    def reduce(seen: _Seen, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        total = lambda x: jnp.einsum("b,bld->d", rows, jnp.abs(x.astype(jnp.float32)))  # noqa: E731
        return total(seen["attention"][0]) + total(seen["mlp"][0]), total(seen["mlp/up"][1])

    layers = _walk(params, inputs, reduce, config=config, batch=batch, progress=progress)
    return Scores(sum(d for d, _ in layers), np.stack([f for _, f in layers]))


def residual_moment(
    params: dict,
    inputs: Int[Array | np.ndarray, "N L"],
    *,
    config: TransformerConfig,
    batch: int = 8,
    progress: Callable[[int], None] | None = None,
) -> Float[np.ndarray, "D D"]:
    """Returns the second moment of the residual stream on text, for `projected(start="svd")`.

    This is the mean of x x^T, where x are the inputs of the blocks' norms, scaled to a root mean square of 1.

    Args:
        params, inputs, config, batch, progress: as for `activation_scores`.

    Raises:
        InputError: the model has no norms before attention and MLP.
    """
    if config.norm_place == "after":
        raise InputError(
            "The second moment of the residual stream was requested for a model with norms after attention and MLP "
            "only (norm_place=after); expected norms before them. Use start='one_hot'."
        )

    def reduce(seen: _Seen, rows: jax.Array) -> jax.Array:
        def moment(name: str) -> jax.Array:
            x = seen[name][0].astype(jnp.float32)
            x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)
            return jnp.einsum("b,bld,ble->de", rows, x, x)

        return moment("attention_norm") + moment("mlp_norm")

    layers = _walk(params, inputs, reduce, config=config, batch=batch, progress=progress)
    return sum(layers) / (2 * config.n_layers * np.size(inputs))


def _walk(
    params: dict,
    inputs: Array | np.ndarray,
    reduce: Callable[[_Seen, jax.Array], PyTree],
    *,
    config: TransformerConfig,
    batch: int,
    progress: Callable[[int], None] | None,
) -> list[PyTree]:
    """Runs the model and returns per layer the sum over batches of `reduce`, float64.

    Args:
        params, inputs, config, batch, progress: as for `activation_scores`.
        reduce: called with {module: (input, output)} and float32[batch], 1 for each row of text and 0 for padding.
    """
    block, spans, progress = Block(config, parent=None), stacked_spans(config), progress or (lambda done: None)
    inputs = np.asarray(inputs)
    if inputs.ndim != 2 or not inputs.size:
        raise InputError(f"Calibration tokens of shape {inputs.shape} were given; expected rows of tokens [N, L].")

    @jax.jit
    def step(layers: PyTree, i: jax.Array | int, x: jax.Array, rows: jax.Array) -> tuple[jax.Array, PyTree]:
        seen: _Seen = {}

        def observe(next_fun, args, kwargs, context):
            result = next_fun(*args, **kwargs)
            if context.method_name == "__call__":
                seen["/".join(context.module.path)] = args[0], result
            return result

        of_layer = lambda stack: jax.lax.dynamic_index_in_dim(stack, i, keepdims=False)  # noqa: E731
        layer, span = jax.tree.map(of_layer, (layers, spans))
        with nn.intercept_methods(observe):
            result: Any = block.apply({"params": layer}, x, span, rngs={NOISE: jax.random.key(0)})
        return result, reduce(seen, rows)

    embed = jax.jit(lambda params, tokens: Transformer(config).apply({"params": params}, tokens, method="embedded"))
    totals: list[PyTree] = [None] * config.n_layers
    for first in range(0, len(inputs), batch):
        part = inputs[first : first + batch]
        rows = (np.arange(batch) < len(part)).astype(np.float32)
        part = np.pad(part, ((0, batch - len(part)), (0, 0)))
        x = embed(params, part)
        for i in range(config.n_layers):
            x, found = step(params["layers"], i, x, rows)
            found = jax.tree.map(lambda y: np.asarray(y, np.float64), found)
            totals[i] = found if totals[i] is None else jax.tree.map(np.add, totals[i], found)
        progress(min(first + batch, len(inputs)))
    return totals
