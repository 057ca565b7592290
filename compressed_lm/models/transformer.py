"""Decoder-only Transformer, used as M1 and as M2.

Pre-norm, a plain or gated MLP, T5 relative-position bias (one table per layer, papers/000 section 2) or rotary
positions. RMSNorm and no biases, except in imported models that have others; those may also have learned positions,
norms after attention and MLP, and windows of attention in some layers. Parameters are float32; `config.dtype` is
the type of the matrix products; logits and softmax are float32. The parameters of all layers are stacked: each array
under "layers" has the layer as its first dimension.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key, PyTree

from compressed_lm.errors import InputError
from compressed_lm.models.config import TransformerConfig
from compressed_lm.models.layers import NOISE, RUN, Block, Dense, norm_of
from compressed_lm.models.partitioning import BATCH, constrain, gathered, pinned
from compressed_lm.models.spans import Span, spans_of, stacked_spans

Cache = Sequence[Mapping[str, Float[Array, "B kv_heads S K"]]]


def shift_right(targets: Int[Array | np.ndarray, "B L"], bos_id: int) -> Int[Array, "B L"]:
    """Returns the model inputs for targets: `bos_id` first, each target one place later."""
    return jnp.pad(targets[:, :-1], ((0, 0), (1, 0)), constant_values=bos_id)


class Transformer(nn.Module):
    """Decoder-only language model.

    Attributes:
        config: its shape.
    """

    config: TransformerConfig

    def setup(self) -> None:
        c = self.config
        self.embed = nn.Embed(c.vocab_size, c.d_model, embedding_init=nn.initializers.normal(c.d_model**-0.5))
        if c.position == "learned":
            self.positions = nn.Embed(c.max_length, c.d_model, embedding_init=nn.initializers.normal(0.02))
        self.layers = self.param("layers", self._init_layers)
        self.final_norm = norm_of(c)()
        if not c.tie_embeddings:
            self.unembed = Dense(c.vocab_size, c.dtype, init_shape=c.init_shape)

    def __call__(
        self,
        inputs: Int[Array, "B L"],
        *,
        key: Key[Array, ""] | None = None,
        progress: ArrayLike | None = None,
        prefix: Float[Array, "B P D"] | None = None,
        layers: Sequence[PyTree] | None = None,
    ) -> Float[Array, "B L_out V"]:
        """Returns logits float32[B, L, V], the `logits` of the `features` of the inputs.

        Args:
            inputs: tokens, see `shift_right`.
            key: random key for representations that add noise, a new one per training step; constant by default.
            progress: finished share of the run, 0 to 1, for representations that change in training; 1 by default.
            prefix: P input vectors before those of the tokens, at positions 0 to P - 1. The logits are then float32[B,
                1 + L, V]: they start at the last of these vectors.
            layers: parameters of each layer, as of `unstack`, for a model without `scan_layers`; by default those of
                the model. Programs that apply the model in a loop take them from the stack once.
        """
        x = self.features(inputs, key=key, progress=progress, prefix=prefix, layers=layers)
        return constrain(self.logits(x), BATCH, None, "tensor")

    def features(
        self,
        inputs: Int[Array, "B L"],
        *,
        key: Key[Array, ""] | None = None,
        progress: ArrayLike | None = None,
        prefix: Float[Array, "B P D"] | None = None,
        layers: Sequence[PyTree] | None = None,
    ) -> Float[Array, "B L_out D"]:
        """Returns the output of the layers, `config.dtype`[B, L, D]; arguments as for a call."""
        c = self.config
        block = Block(c, parent=None)
        keys = self._noise(key)
        run = {} if progress is None else {RUN: {"progress": progress}}

        def apply(x: Array, layer: PyTree, key: dict, span: Span | None) -> Array:
            # The span is not an argument of what is recomputed: whole numbers in it stay known at compile time.
            one = lambda x, layer, key: block.apply({"params": pinned(layer), **run}, x, span, rngs=key)  # noqa: E731
            return _remat(one, c)(x, layer, key)

        x = self.embedded(inputs, prefix=prefix)
        if c.scan_layers:
            stack = self.layers, keys, stacked_spans(c)
            x, _ = jax.lax.scan(lambda x, layer: (apply(x, *layer), None), x, stack)
        else:
            spans = spans_of(c)
            for i, layer in enumerate(layers or unstack(self.layers, c.n_layers)):
                x = apply(x, layer, {use: key[i] for use, key in keys.items()}, spans[i])
        if prefix is not None:
            x = x[:, prefix.shape[1] - 1 :]
        return x

    def embedded(
        self, inputs: Int[Array, "B L"], *, prefix: Float[Array, "B P D"] | None = None
    ) -> Float[Array, "B L_out D"]:
        """Returns the input of the layers, `config.dtype`[B, P + L, D]: vectors, then embeddings, plus positions.

        Raises:
            InputError: there are more of them than learned positions.
        """
        c = self.config
        # Each device looks up its columns for all rows of its fsdp group; then devices exchange them. So the table and
        # its gradient, which is summed in float32, are not moved.
        x = self._scaled(self.embed.embedding[inputs].astype(c.dtype))
        x = constrain(constrain(x, "data", None, "fsdp"), BATCH, None, None)
        if prefix is not None:
            x = constrain(jnp.concatenate([prefix.astype(c.dtype), x], axis=1), BATCH, None, None)
        if c.position == "learned":
            check_length(c, x.shape[1])
            x = x + self.positions.embedding[None, : x.shape[1]].astype(c.dtype)
        return x

    def logits(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows V"]:
        """Returns float32 logits for `features`."""
        x = self.final_norm(x)
        logits = (x @ self._table().T if self.config.tie_embeddings else self.unembed(x)).astype(jnp.float32)
        cap = self.config.logit_softcap
        return cap * jnp.tanh(logits / cap) if cap else logits

    def step(
        self,
        inputs: Int[Array, " B"],
        positions: Int[Array, " B"],
        cache: Cache,
        *,
        prefix: Float[Array, "B P D"] | None = None,
        layers: Sequence[PyTree] | None = None,
    ) -> tuple[Float[Array, "B V"], Cache]:
        """Returns (float32 logits, cache) after one more token in each of B batch slots.

        Slots are independent: each has its own position, and position 0 restarts a slot.

        Args:
            inputs: the next token of each slot.
            positions: position of that token, below the cache's length; a slot attends to positions up to this one.
            cache: from `init_cache` or the last step.
            prefix: P input vectors per slot; at positions below P, a slot reads its vector instead of its token.
            layers: parameters of each layer, as of `unstack`. A compiled loop of steps should get them: taken from the
                stack inside the loop, they are copied in every step on CPU.
        """
        block = Block(self.config, parent=None)
        x = self._scaled(self._table()[inputs])
        if prefix is not None:
            n_vectors = prefix.shape[1]
            vectors = prefix[jnp.arange(len(inputs)), jnp.minimum(positions, n_vectors - 1)].astype(x.dtype)
            x = jnp.where((positions < n_vectors)[:, None], vectors, x)
        if self.config.position == "learned":
            x = x + self.positions.embedding[positions].astype(x.dtype)
        written = []
        keys, spans = self._noise(None), spans_of(self.config)
        for i, layer in enumerate(layers or unstack(self.layers, self.config.n_layers)):
            key = {use: key[i] for use, key in keys.items()}
            result: Any = block.apply({"params": layer}, x, positions, cache[i], spans[i], rngs=key, method=block.step)
            x, layer_cache = result
            written.append(layer_cache)
        return self.logits(x), tuple(written)

    def _init_layers(self, key: jax.Array) -> PyTree:
        x = jax.random.normal(jax.random.key(0), (1, 1, self.config.d_model))  # trained scales are initialised on it
        keys = jax.random.split(key, self.config.n_layers)
        block = Block(self.config, parent=None)
        return jax.vmap(lambda key: block.init({"params": key, NOISE: key}, x)["params"])(keys)

    def _noise(self, key: jax.Array | None) -> dict[str, jax.Array]:
        """Returns the stacked random keys of the layers by random stream; empty unless a representation needs them."""
        if not self.config.noisy:
            return {}
        return {NOISE: jax.random.split(jax.random.key(0) if key is None else key, self.config.n_layers)}

    def _scaled(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        """Returns embeddings times the scale of the config, which is rounded to their type, as in `transformers`."""
        return x if self.config.embed_scale == 1 else x * jnp.asarray(self.config.embed_scale, x.dtype)

    def _table(self) -> Float[Array, "V D"]:
        return gathered(self.embed.embedding, "embed/embedding", dtype=self.config.dtype)


def unstack(layers: PyTree, n_layers: int) -> list[PyTree]:
    """Returns the parameters of each layer from the stacked parameters of all layers."""
    # `split` instead of indices: its gradient is one concatenation instead of a sum of padded arrays.
    leaves, structure = jax.tree.flatten(layers)
    pieces = [jax.lax.split(x, (1,) * n_layers) for x in leaves]
    return [
        jax.tree.unflatten(structure, [piece[i].reshape(piece[i].shape[1:]) for piece in pieces])
        for i in range(n_layers)
    ]


def check_length(config: TransformerConfig, length: int) -> None:
    """Raises InputError if a model has fewer learned positions than `length`."""
    if config.position == "learned" and length > config.max_length:
        raise InputError(
            f"A text of {length:,} tokens (with its input vectors) was given to a model with {config.max_length:,} "
            f"learned positions; expected at most {config.max_length:,}. Use shorter rows or texts."
        )


def _remat(function: Callable, config: TransformerConfig) -> Callable:
    """Returns the function with the rematerialisation of `config.remat`."""
    mesh = jax.sharding.get_abstract_mesh()
    if config.remat == "full":
        policy = None
    elif config.remat == "dots":
        policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    elif not mesh.empty and mesh.shape["fsdp"] > 1:
        policy = _not_gathered  # otherwise each device would keep the whole model
    else:
        return function
    # In a loop, the compiler cannot merge the recomputation with the first computation.
    return jax.checkpoint(function, policy=policy, prevent_cse=not config.scan_layers)


def _not_gathered(primitive, *_, **__) -> bool:
    """Saves everything except the results of cheap operations, the chain from a shard to its gathered matrix."""
    return primitive.name not in ("convert_element_type", "sharding_constraint", "custom_vjp_call", "reshape")


def init_cache(config: TransformerConfig, batch: int, length: int) -> Cache:
    """Returns an empty cache for `Transformer.step`: per layer keys 'k' and values 'v', [B, kv_heads, length, K].

    Raises:
        InputError: `length` is above the number of learned positions.
    """
    check_length(config, length)
    # Heads before positions and one array per layer: products need no copies, many times faster on CPU.
    shape = (batch, config.kv_heads, length, config.d_head)
    return tuple({name: jnp.zeros(shape, config.dtype) for name in ("k", "v")} for _ in range(config.n_layers))
