"""The decoder-only Transformer that M1 and M2 share.

Pre-norm, no biases, RMSNorm, a plain or gated MLP, T5 relative-position bias (a table of its own in every layer, papers/000 section 2) or
rotary positions. Parameters are float32; `config.dtype` is the type that matrix products run in; logits and softmax are float32.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from compressed_lm.errors import InputError

ACTIVATIONS = {"relu": jax.nn.relu, "gelu": jax.nn.gelu, "silu": jax.nn.silu}
POSITIONS = ("relative", "rotary")
DTYPES = ("float32", "bfloat16")
MASKED = -1e30  # added to the score of a future token; exp() of it is exactly 0, and unlike -inf it cannot make a NaN

Cache = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Shape of a Transformer.

    Attributes:
        vocab_size: V, as `model_vocab_size` gives it: the codec's ids, the end-of-document id, padding to a multiple of 8.
        d_model: D, width of the residual stream.
        n_layers: number of blocks.
        n_heads: H.
        d_head: K; H * K need not equal D.
        d_ff: F, width of the MLP.
        gated_mlp: down(up(x) * act(gate(x))) instead of down(act(up(x))).
        activation: relu, gelu or silu.
        position: "relative" (T5 buckets) or "rotary".
        n_buckets: rows of a relative-position table.
        max_distance: distances from here on share the last bucket.
        tie_embeddings: logits use the input embedding instead of a matrix of their own.
        dtype: type of the matrix products, float32 or bfloat16.
    """

    vocab_size: int
    d_model: int = 128
    n_layers: int = 2
    n_heads: int = 4
    d_head: int = 32
    d_ff: int = 512
    gated_mlp: bool = True
    activation: str = "relu"
    position: str = "relative"
    n_buckets: int = 32
    max_distance: int = 128
    tie_embeddings: bool = False
    dtype: str = "float32"

    def __post_init__(self):
        for field, valid in (("activation", ACTIVATIONS), ("position", POSITIONS), ("dtype", DTYPES)):
            if getattr(self, field) not in valid:
                raise InputError(f"{field}={getattr(self, field)!r} was given; expected one of {', '.join(valid)}.")
        for field in ("vocab_size", "d_model", "n_layers", "n_heads", "d_head", "d_ff"):
            if getattr(self, field) < 1:
                raise InputError(f"{field}={getattr(self, field)} was given; expected a positive integer.")
        if self.position == "rotary" and self.d_head % 2:
            raise InputError(f"d_head={self.d_head} was given; rotary positions turn pairs of numbers, so use an even d_head.")
        if self.position == "relative" and not 2 <= self.n_buckets < 2 * self.max_distance:
            raise InputError(
                f"n_buckets={self.n_buckets} and max_distance={self.max_distance} were given; expected at least 2 buckets and "
                "a max_distance above n_buckets / 2, since the first half of the buckets holds one distance each."
            )


@dataclasses.dataclass(frozen=True)
class ParamCounts:
    """Numbers of parameters; `embedding` is the input table plus the output table where that is separate."""

    total: int
    embedding: int
    non_embedding: int


def model_vocab_size(codec_vocab_size: int) -> int:
    """Returns V for a codec: its ids, one end-of-document id, rounded up to a multiple of 8."""
    return -(-(codec_vocab_size + 1) // 8) * 8


def shift_right(targets: jax.Array, bos_id: int) -> jax.Array:
    """Returns the model inputs int32[B, L] for targets int32[B, L]: `bos_id` first, each target one place later."""
    return jnp.pad(targets[:, :-1], ((0, 0), (1, 0)), constant_values=bos_id)


def relative_buckets(length: int, *, n_buckets: int, max_distance: int) -> np.ndarray:
    """Returns int32[length], the bucket of each distance 0..length-1 back in time (T5's causal rule).

    The first half of the buckets holds one distance each; the others grow geometrically up to `max_distance`.
    """
    distance = np.arange(length)
    exact = n_buckets // 2
    growth = np.log(np.maximum(distance, exact) / exact) / math.log(max_distance / exact)
    far = exact + np.floor(growth * (n_buckets - exact) + 1e-9).astype(int)  # 1e-9: an exact power must not fall below itself
    return np.where(distance < exact, distance, np.minimum(far, n_buckets - 1)).astype(np.int32)


def rotate(x: jax.Array, positions: jax.Array) -> jax.Array:
    """Returns x [..., H, K] with the two halves of K turned by angles that grow with positions int32[...] (RoPE)."""
    half = x.shape[-1] // 2
    angles = jnp.multiply.outer(positions, 10_000.0 ** (-jnp.arange(half) / half))[..., None, :]  # [..., 1, K / 2]
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


class Attention(nn.Module):
    """Causal multi-head attention."""

    config: TransformerConfig

    def setup(self):
        c = self.config
        dense = functools.partial(nn.DenseGeneral, use_bias=False, dtype=c.dtype)
        self.q, self.k, self.v = (dense((c.n_heads, c.d_head)) for _ in range(3))
        self.out = dense(c.d_model, axis=(-2, -1), kernel_init=residual_init(c))
        if c.position == "relative":
            self.relative_bias = nn.Embed(c.n_buckets, c.n_heads, embedding_init=nn.initializers.normal(0.02))

    def __call__(self, x):
        q, k, v = self.q(x), self.k(x), self.v(x)  # [B, L, H, K]
        length = x.shape[1]
        if self.config.position == "rotary":
            q, k = (rotate(y, jnp.arange(length)[None]) for y in (q, k))
        scores = jnp.einsum("bqhk,bshk->bhqs", q * self.config.d_head**-0.5, k).astype(jnp.float32)
        weights = jax.nn.softmax(scores + self._square_bias(length)[None], axis=-1).astype(v.dtype)
        return self.out(jnp.einsum("bhqs,bshk->bqhk", weights, v))

    def step(self, x, positions, keys, values):
        """Returns (out [B, D], keys, values) for one token a lane, x [B, D] at slot positions int32[B] of keys, values [B, L, H, K]."""
        q, k, v = self.q(x), self.k(x), self.v(x)  # [B, H, K]
        if self.config.position == "rotary":
            q, k = (rotate(y, positions) for y in (q, k))
        lanes, length = jnp.arange(x.shape[0]), keys.shape[1]
        keys = keys.at[lanes, positions].set(k, mode="promise_in_bounds", unique_indices=True)
        values = values.at[lanes, positions].set(v, mode="promise_in_bounds", unique_indices=True)
        row = jax.vmap(lambda start: jax.lax.dynamic_slice_in_dim(self._bias(length), start, length, axis=1))
        bias = row(length - 1 - positions)  # [B, H or 1, L]
        scores = jnp.einsum("bhk,bshk->bhs", q * self.config.d_head**-0.5, keys).astype(jnp.float32)
        weights = jax.nn.softmax(scores + bias, axis=-1).astype(v.dtype)
        return self.out(jnp.einsum("bhs,bshk->bhk", weights, values)), keys, values

    def _bias(self, length):
        """Returns float32[H or 1, 2L]: what a score gets at distances L-1, ..., 0 back in time, then L times the causal mask."""
        c = self.config
        past = jnp.zeros((length, 1))
        if c.position == "relative":
            buckets = relative_buckets(length, n_buckets=c.n_buckets, max_distance=c.max_distance)
            # A product with a one-hot matrix, since the gradient of a gather (a scatter) is slow on CPU and not deterministic on GPU.
            past = jax.nn.one_hot(buckets, c.n_buckets) @ self.relative_bias.embedding
        return jnp.concatenate([past[::-1], jnp.full_like(past, MASKED)]).T

    def _square_bias(self, length):
        """Returns float32[H or 1, L, L], row i of which is `_bias(L)[:, L-1-i : 2L-1-i]`."""
        # Rows of 2L-1 cut from a sequence of period 2L move by one place a row: a Toeplitz matrix without a gather.
        periodic = jnp.tile(self._bias(length), (1, length))[:, length - 1 : length - 1 + length * (2 * length - 1)]
        return periodic.reshape(-1, length, 2 * length - 1)[:, :, :length]


class MLP(nn.Module):
    """Feed-forward layer, gated (three matrices) or plain (two)."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x):
        c = self.config
        dense = functools.partial(nn.Dense, use_bias=False, dtype=c.dtype)
        activation = ACTIVATIONS[c.activation]
        hidden = dense(c.d_ff, name="up")(x)
        hidden = hidden * activation(dense(c.d_ff, name="gate")(x)) if c.gated_mlp else activation(hidden)
        return dense(c.d_model, kernel_init=residual_init(c), name="down")(hidden)


class Block(nn.Module):
    """Attention and MLP, each added to the residual stream."""

    config: TransformerConfig

    def setup(self):
        self.attention_norm, self.mlp_norm = (nn.RMSNorm(epsilon=1e-6, dtype=self.config.dtype) for _ in range(2))
        self.attention, self.mlp = Attention(self.config), MLP(self.config)

    def __call__(self, x):
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))

    def step(self, x, positions, keys, values):
        attended, keys, values = self.attention.step(self.attention_norm(x), positions, keys, values)
        x = x + attended
        return x + self.mlp(self.mlp_norm(x)), keys, values


class Transformer(nn.Module):
    """Decoder-only language model.

    Attributes:
        config: its shape.
    """

    config: TransformerConfig

    def setup(self):
        c = self.config
        self.embed = nn.Embed(c.vocab_size, c.d_model, dtype=c.dtype, embedding_init=nn.initializers.normal(c.d_model**-0.5))
        self.layers = [Block(c, name=f"layer_{i}") for i in range(c.n_layers)]
        self.final_norm = nn.RMSNorm(epsilon=1e-6, dtype=c.dtype)
        if not c.tie_embeddings:
            self.unembed = nn.Dense(c.vocab_size, use_bias=False, dtype=c.dtype)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Returns logits float32[B, L, V] for inputs int32[B, L] (see `shift_right`)."""
        x = self.embed(inputs)
        for layer in self.layers:
            x = layer(x)
        return self._logits(x)

    def step(self, inputs: jax.Array, positions: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        """Returns (logits float32[B, V], cache) after one more token in each of B lanes.

        Lanes are independent: each has a position of its own, and a lane whose position goes back to 0 starts afresh, whatever its slots hold.

        Args:
            inputs: int32[B].
            positions: int32[B], the slot that each lane writes; it attends to slots up to and including this one. Below the cache's length.
            cache: what `init_cache` or the last step returned.
        """
        x = self.embed(inputs)
        keys, values = [], []
        for i, layer in enumerate(self.layers):
            x, k, v = layer.step(x, positions, cache["k"][i], cache["v"][i])
            keys.append(k)
            values.append(v)
        return self._logits(x), {"k": jnp.stack(keys), "v": jnp.stack(values)}

    def _logits(self, x):
        x = self.final_norm(x)
        return (self.embed.attend(x) if self.config.tie_embeddings else self.unembed(x)).astype(jnp.float32)


def residual_init(config: TransformerConfig):
    """Returns the initializer of a matrix that writes to the residual stream: smaller with depth, so that the stream's size is not."""
    return nn.initializers.variance_scaling(0.5 / config.n_layers, "fan_in", "truncated_normal")


def init_cache(config: TransformerConfig, batch: int, length: int) -> Cache:
    """Returns an empty cache for `Transformer.step`: keys 'k' and 'v', each [n_layers, B, length, H, K] in the compute type."""
    shape = (config.n_layers, batch, length, config.n_heads, config.d_head)
    return {"k": jnp.zeros(shape, config.dtype), "v": jnp.zeros(shape, config.dtype)}


def count_params(config: TransformerConfig) -> ParamCounts:
    """Returns the numbers of parameters of a config, by arithmetic alone."""
    c = config
    attention = 4 * c.d_model * c.n_heads * c.d_head
    bias = c.n_buckets * c.n_heads if c.position == "relative" else 0
    mlp = (3 if c.gated_mlp else 2) * c.d_model * c.d_ff
    non_embedding = c.n_layers * (attention + bias + mlp + 2 * c.d_model) + c.d_model
    embedding = c.vocab_size * c.d_model * (1 if c.tie_embeddings else 2)
    return ParamCounts(total=embedding + non_embedding, embedding=embedding, non_embedding=non_embedding)


def flops_per_token(config: TransformerConfig, *, softmax: bool) -> int:
    """Returns the FLOPs of one token's forward pass: 2 N without embeddings, plus the output layer's 2 V D if `softmax` (papers/000 4.3)."""
    return 2 * count_params(config).non_embedding + (2 * config.vocab_size * config.d_model if softmax else 0)
