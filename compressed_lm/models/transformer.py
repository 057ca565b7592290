"""The decoder-only Transformer that M1 and M2 share.

Pre-norm, no biases, RMSNorm, a plain or gated MLP, T5 relative-position bias (each layer has a table of its own,
papers/000 section 2) or rotary positions. Parameters are float32; `config.dtype` is the type of the matrix products;
logits and softmax are float32.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from compressed_lm.errors import InputError

ACTIVATIONS = {"relu": jax.nn.relu, "gelu": jax.nn.gelu, "silu": jax.nn.silu}
POSITIONS = ("relative", "rotary")
DTYPES = ("float32", "bfloat16")
MASKED = -1e30  # added to the score of a future token; exp() of it is exactly 0, and unlike -inf it cannot make a NaN

Cache = Sequence[Mapping[str, jax.Array]]


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Shape of a Transformer.

    Attributes:
        vocab_size: V, as `model_vocab_size` gives it.
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
            raise InputError(
                f"d_head={self.d_head} was given; rotary positions turn pairs of numbers, so use an even d_head."
            )
        if self.position == "relative" and not 2 <= self.n_buckets < 2 * self.max_distance:
            raise InputError(
                f"n_buckets={self.n_buckets} and max_distance={self.max_distance} were given; expected at least 2 "
                "buckets and a max_distance above n_buckets / 2: the first half of the buckets holds one distance each."
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
    # 1e-9, lest rounding takes a distance that opens a bucket into the bucket before it.
    far = exact + np.floor(growth * (n_buckets - exact) + 1e-9).astype(int)
    return np.where(distance < exact, distance, np.minimum(far, n_buckets - 1)).astype(np.int32)


def rotate(x: jax.Array, positions: jax.Array) -> jax.Array:
    """Returns x [..., H, K] with the two halves of K turned by angles that grow with positions int32[...] (RoPE)."""
    half = x.shape[-1] // 2
    angles = jnp.multiply.outer(positions, 10_000.0 ** (-jnp.arange(half) / half))[..., None, :]  # [..., 1, K / 2]
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


class Dense(nn.Module):
    """A linear map without bias.

    Attributes:
        features: shape of an output.
        dtype: type of the product.
        n_in: how many of the input's last axes are summed over.
        scale: variance of an output at the start, for inputs of variance 1.
    """

    features: tuple[int, ...]
    dtype: str
    n_in: int = 1
    scale: float = 1.0

    @nn.compact
    def __call__(self, x):
        shape = (*x.shape[-self.n_in :], *self.features)
        axes = range(len(shape))
        initializer = nn.initializers.variance_scaling(
            self.scale, "fan_in", "truncated_normal", in_axis=axes[: self.n_in], out_axis=axes[self.n_in :]
        )
        kernel = self.param("kernel", initializer, shape)
        n_inputs = math.prod(shape[: self.n_in])
        # One product of two matrices: its gradient is a quarter faster on CPU than that of a product with batch axes.
        y = x.reshape(-1, n_inputs).astype(self.dtype) @ kernel.reshape(n_inputs, -1).astype(self.dtype)
        return y.reshape(*x.shape[: -self.n_in], *self.features)


class Attention(nn.Module):
    """Causal multi-head attention."""

    config: TransformerConfig

    def setup(self):
        c = self.config
        self.q, self.k, self.v = (Dense((c.n_heads, c.d_head), c.dtype) for _ in range(3))
        self.out = Dense((c.d_model,), c.dtype, n_in=2, scale=residual_scale(c))
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

    def step(self, x, positions, cache):
        """Returns (out [B, D], cache) for one token a lane, x [B, D], stored in slot positions int32[B]."""
        q, k, v = self.q(x), self.k(x), self.v(x)  # [B, H, K]
        if self.config.position == "rotary":
            q, k = (rotate(y, positions) for y in (q, k))
        lanes, length = jnp.arange(x.shape[0]), cache["k"].shape[2]
        cache = {
            name: cache[name].at[lanes, :, positions].set(new, mode="promise_in_bounds", unique_indices=True)
            for name, new in (("k", k), ("v", v))
        }
        bias = self._bias(length)
        row = jax.vmap(lambda start: jax.lax.dynamic_slice_in_dim(bias, start, length, axis=1))
        scores = jnp.einsum("bhk,bhsk->bhs", q * self.config.d_head**-0.5, cache["k"]).astype(jnp.float32)
        weights = jax.nn.softmax(scores + row(length - 1 - positions), axis=-1).astype(v.dtype)
        return self.out(jnp.einsum("bhs,bhsk->bhk", weights, cache["v"])), cache

    def _bias(self, length):
        """Returns float32[H or 1, 2L]: what a score gets at distances L-1, ..., 0, then L times the mask."""
        c = self.config
        past = jnp.zeros((length, 1))
        if c.position == "relative":
            buckets = relative_buckets(length, n_buckets=c.n_buckets, max_distance=c.max_distance)
            # Not a gather, since the gradient of that, a scatter, is slow on CPU and not deterministic on GPU.
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
        activation = ACTIVATIONS[c.activation]
        hidden = Dense((c.d_ff,), c.dtype, name="up")(x)
        hidden = hidden * activation(Dense((c.d_ff,), c.dtype, name="gate")(x)) if c.gated_mlp else activation(hidden)
        return Dense((c.d_model,), c.dtype, scale=residual_scale(c), name="down")(hidden)


class Block(nn.Module):
    """Attention and MLP, each added to the residual stream."""

    config: TransformerConfig

    def setup(self):
        self.attention_norm, self.mlp_norm = (nn.RMSNorm(epsilon=1e-6, dtype=self.config.dtype) for _ in range(2))
        self.attention, self.mlp = Attention(self.config), MLP(self.config)

    def __call__(self, x):
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))

    def step(self, x, positions, cache):
        attended, cache = self.attention.step(self.attention_norm(x), positions, cache)
        x = x + attended
        return x + self.mlp(self.mlp_norm(x)), cache


class Transformer(nn.Module):
    """Decoder-only language model.

    Attributes:
        config: its shape.
    """

    config: TransformerConfig

    def setup(self):
        c = self.config
        self.embed = nn.Embed(
            c.vocab_size, c.d_model, dtype=c.dtype, embedding_init=nn.initializers.normal(c.d_model**-0.5)
        )
        self.layers = [Block(c, name=f"layer_{i}") for i in range(c.n_layers)]
        self.final_norm = nn.RMSNorm(epsilon=1e-6, dtype=c.dtype)
        if not c.tie_embeddings:
            self.unembed = Dense((c.vocab_size,), c.dtype)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Returns logits float32[B, L, V] for inputs int32[B, L] (see `shift_right`)."""
        x = self.embed(inputs)
        for layer in self.layers:
            x = layer(x)
        return self._logits(x)

    def step(self, inputs: jax.Array, positions: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        """Returns (logits float32[B, V], cache) after one more token in each of B lanes.

        Lanes are independent: each has a position of its own, and one whose position goes back to 0 starts afresh.

        Args:
            inputs: int32[B].
            positions: int32[B], below the cache's length: the slot that a lane writes; it attends up to it.
            cache: what `init_cache` or the last step returned.
        """
        x = self.embed(inputs)
        written = []
        for layer, layer_cache in zip(self.layers, cache, strict=True):
            x, layer_cache = layer.step(x, positions, layer_cache)
            written.append(layer_cache)
        return self._logits(x), tuple(written)

    def _logits(self, x):
        x = self.final_norm(x)
        return (self.embed.attend(x) if self.config.tie_embeddings else self.unembed(x)).astype(jnp.float32)


def residual_scale(config: TransformerConfig) -> float:
    """Returns the initial variance of what a layer adds to the residual stream: less in deeper models."""
    return 0.5 / config.n_layers


def init_cache(config: TransformerConfig, batch: int, length: int) -> Cache:
    """Returns an empty cache for `Transformer.step`: in each layer keys 'k' and values 'v', [B, H, length, K]."""
    # Heads before slots and an array a layer: products without copies, many times faster on CPU.
    shape = (batch, config.n_heads, length, config.d_head)
    return tuple({name: jnp.zeros(shape, config.dtype) for name in ("k", "v")} for _ in range(config.n_layers))


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
    """Returns the FLOPs of a token's forward pass: 2 N_nonembed, plus the output layer's 2 V D if `softmax`.

    Source: papers/000 section 4.3; attention's own products are not counted there.
    """
    return 2 * count_params(config).non_embedding + (2 * config.vocab_size * config.d_model if softmax else 0)
