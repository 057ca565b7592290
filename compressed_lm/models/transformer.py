"""The decoder-only Transformer that M1 and M2 share.

Pre-norm, a plain or gated MLP, T5 relative-position bias (each layer has a table of its own, papers/000 section 2) or
rotary positions; RMSNorm and no biases, but for models that came with others. Parameters are float32; `config.dtype` is
the type of the matrix products; logits and softmax are float32. The parameters of all layers are stacked: each array
under "layers" has the layer as its first dimension.
"""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from compressed_lm.models.config import TransformerConfig
from compressed_lm.models.layers import NOISE, RUN, Block, Dense, norm_of
from compressed_lm.models.partitioning import BATCH, constrain, gathered, pinned

Cache = Sequence[Mapping[str, jax.Array]]


def shift_right(targets: jax.Array, bos_id: int) -> jax.Array:
    """Returns the model inputs int32[B, L] for targets int32[B, L]: `bos_id` first, each target one place later."""
    return jnp.pad(targets[:, :-1], ((0, 0), (1, 0)), constant_values=bos_id)


class Transformer(nn.Module):
    """Decoder-only language model.

    Attributes:
        config: its shape.
    """

    config: TransformerConfig

    def setup(self):
        c = self.config
        self.embed = nn.Embed(c.vocab_size, c.d_model, embedding_init=nn.initializers.normal(c.d_model**-0.5))
        self.layers = self.param("layers", self._init_layers)
        self.final_norm = norm_of(c)()
        if not c.tie_embeddings:
            self.unembed = Dense(c.vocab_size, c.dtype, init_shape=c.init_shape)

    def __call__(
        self, inputs: jax.Array, *, key: jax.Array | None = None, progress=None, prefix: jax.Array | None = None
    ) -> jax.Array:
        """Returns logits float32[B, L, V] for inputs int32[B, L] (see `shift_right`): the `logits` of its `features`.

        Args:
            inputs: the tokens.
            key: for representations that add noise, another in each step of training; by default always the same.
            progress: for representations that change in training, the part of the run that is over; by default all.
            prefix: float[B, P, D], P input vectors that stand before those of the tokens, at positions 0 to P - 1. The
                logits are then float32[B, 1 + L, V], from the last of these vectors on.
        """
        return constrain(
            self.logits(self.features(inputs, key=key, progress=progress, prefix=prefix)), BATCH, None, "tensor"
        )

    def features(
        self, inputs: jax.Array, *, key: jax.Array | None = None, progress=None, prefix: jax.Array | None = None
    ) -> jax.Array:
        """Returns what the layers make of the inputs, `config.dtype`[B, L, D]; the arguments are those of a call."""
        c = self.config
        block = Block(c, parent=None)
        keys = self._noise(key)
        run = {} if progress is None else {RUN: {"progress": progress}}
        apply = _remat(lambda x, layer, key: block.apply({"params": pinned(layer), **run}, x, rngs=key), c)
        # Each device looks its columns up for the rows of all its fsdp group, and then they change places: the table
        # stays where it is, and so does its gradient, which is summed in float32.
        x = self.embed.embedding[inputs].astype(c.dtype)
        x = constrain(constrain(x, "data", None, "fsdp"), BATCH, None, None)
        if prefix is not None:
            x = constrain(jnp.concatenate([prefix.astype(c.dtype), x], axis=1), BATCH, None, None)
        if c.scan_layers:
            x, _ = jax.lax.scan(lambda x, layer: (apply(x, *layer), None), x, (self.layers, keys))
        else:
            for i, layer in enumerate(unstack(self.layers, c.n_layers)):
                x = apply(x, layer, {use: key[i] for use, key in keys.items()})
        if prefix is not None:
            x = x[:, prefix.shape[1] - 1 :]
        return x

    def logits(self, x: jax.Array) -> jax.Array:
        """Returns logits float32[..., V] for `features` [..., D]."""
        x = self.final_norm(x)
        return (x @ self._table().T if self.config.tie_embeddings else self.unembed(x)).astype(jnp.float32)

    def step(
        self, inputs: jax.Array, positions: jax.Array, cache: Cache, *, prefix: jax.Array | None = None
    ) -> tuple[jax.Array, Cache]:
        """Returns (logits float32[B, V], cache) after one more token in each of B slots.

        Slots are independent: each has a position of its own, and one whose position goes back to 0 starts afresh.

        Args:
            inputs: int32[B].
            positions: int32[B], below the cache's length: the slot that a slot writes; it attends up to it.
            cache: what `init_cache` or the last step returned.
            prefix: float[B, P, D]; at positions below P a slot reads its vector there and not its token.
        """
        block = Block(self.config, parent=None)
        x = self._table()[inputs]
        if prefix is not None:
            n_vectors = prefix.shape[1]
            vectors = prefix[jnp.arange(len(inputs)), jnp.minimum(positions, n_vectors - 1)].astype(x.dtype)
            x = jnp.where((positions < n_vectors)[:, None], vectors, x)
        written = []
        keys = self._noise(None)
        for i, layer in enumerate(unstack(self.layers, self.config.n_layers)):
            key = {use: key[i] for use, key in keys.items()}
            x, layer_cache = block.apply({"params": layer}, x, positions, cache[i], rngs=key, method=block.step)
            written.append(layer_cache)
        return self.logits(x), tuple(written)

    def _init_layers(self, key):
        x = jax.random.normal(jax.random.key(0), (1, 1, self.config.d_model))  # from which trained scales start
        keys = jax.random.split(key, self.config.n_layers)
        block = Block(self.config, parent=None)
        return jax.vmap(lambda key: block.init({"params": key, NOISE: key}, x)["params"])(keys)

    def _noise(self, key):
        """Returns the random keys of each layer, stacked, by their use; none unless a representation needs them."""
        if not self.config.noisy:
            return {}
        return {NOISE: jax.random.split(jax.random.key(0) if key is None else key, self.config.n_layers)}

    def _table(self):
        return gathered(self.embed.embedding, "embed/embedding", dtype=self.config.dtype)


def unstack(layers, n_layers: int) -> list:
    """Returns the parameters of each layer out of the stack of all."""
    # `split` and not indices: its gradient is one concatenation instead of a sum of padded arrays.
    leaves, structure = jax.tree.flatten(layers)
    pieces = [jax.lax.split(x, (1,) * n_layers) for x in leaves]
    return [structure.unflatten([piece[i].reshape(piece[i].shape[1:]) for piece in pieces]) for i in range(n_layers)]


def _remat(function, config):
    """Returns a function that keeps for the backward pass what `config.remat` says."""
    mesh = jax.sharding.get_abstract_mesh()
    if config.remat == "full":
        policy = None
    elif config.remat == "dots":
        policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    elif not mesh.empty and mesh.shape["fsdp"] > 1:
        policy = _not_gathered  # or each device would keep the whole model
    else:
        return function
    # The loop keeps the compiler from merging what is computed again with what was computed before.
    return jax.checkpoint(function, policy=policy, prevent_cse=not config.scan_layers)


def _not_gathered(primitive, *_, **__) -> bool:
    """Saves everything but what is cheap to make again; that chain leads from a gathered matrix back to its pieces."""
    return primitive.name not in ("convert_element_type", "sharding_constraint", "custom_vjp_call", "reshape")


def init_cache(config: TransformerConfig, batch: int, length: int) -> Cache:
    """Returns an empty cache for `Transformer.step`: in each layer keys 'k' and values 'v', [B, heads, length, K]."""
    # Heads before slots and an array a layer: products without copies, many times faster on CPU.
    shape = (batch, config.kv_heads, length, config.d_head)
    return tuple({name: jnp.zeros(shape, config.dtype) for name in ("k", "v")} for _ in range(config.n_layers))
