"""Parts of a Transformer block: linear maps, attention, MLP."""

import functools
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from compressed_lm.models.config import TransformerConfig
from compressed_lm.models.partitioning import BATCH, batch_parts, constrain, gathered
from compressed_lm.models.positions import relative_buckets, rotary_frequencies, rotate
from compressed_lm.models.spans import Span, Window, unlimited
from compressed_lm.weights import Representation, representation
from compressed_lm.weights.gennorm import gg_initializer

MASKED = -1e30  # added to the score of a future token: exp() of it is exactly 0, and unlike -inf it cannot cause NaN
SMALLEST_CHUNK = 32  # least number of queries computed at once
NOISE, RUN = "noise", "run"  # random stream, and collection with the progress of the run, for some representations


def activation(name: str) -> Callable[[Array], Array]:
    """Returns the function relu, gelu, silu or gelu_erf."""
    return functools.partial(jax.nn.gelu, approximate=False) if name == "gelu_erf" else getattr(jax.nn, name)


def residual_scale(config: TransformerConfig) -> float:
    """Returns the initial variance that each layer adds to the residual stream: less in deeper models."""
    return 0.5 / config.n_layers


class Norm(nn.Module):
    """RMSNorm: [..., N] divided by its root mean square, times N scales; computed in float32.

    Attributes:
        dtype: type of the result.
        kind: "rms", or "layer" for LayerNorm, which first subtracts the mean and finally adds a bias.
        eps: added to the mean square.
    """

    dtype: str
    kind: str = "rms"
    eps: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "*rows N"]) -> Float[Array, "*rows N"]:
        # Flax's norm multiplies the scale into the reciprocals: one more array of x's size in both passes.
        scale, x = self._vector("scale", nn.initializers.ones, x), x.astype(jnp.float32)
        if self.kind == "layer":
            x = x - jnp.mean(x, axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.eps) * scale
        return (x + self._vector("bias", nn.initializers.zeros, x) if self.kind == "layer" else x).astype(self.dtype)

    def _vector(self, name: str, initializer: nn.initializers.Initializer, x: Array) -> Array:
        return self.param(name, initializer, x.shape[-1:]).reshape(*(1,) * (x.ndim - 1), -1)


def norm_of(config: TransformerConfig) -> Callable[..., Norm]:
    """Returns `Norm` with the norm settings of a config."""
    return functools.partial(Norm, dtype=config.dtype, kind=config.norm, eps=config.norm_eps)


class Dense(nn.Module):
    """A linear map, [..., N] -> [..., features].

    Attributes:
        features: length of an output.
        dtype: type of the product.
        use_bias: whether a bias is added to the product.
        scale: initial variance of an output, for inputs of variance 1.
        weights, activations: specs of the representations of the matrix and of the inputs (`weights.representation`).
        init_shape: shape of the generalized Gaussian that initialises the matrix; 0 for a truncated normal.
    """

    features: int
    dtype: str
    use_bias: bool = False
    scale: float = 1.0
    weights: str = "dense"
    activations: str = "dense"
    init_shape: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "*rows N"]) -> Float[Array, "*rows features"]:
        initializer = nn.initializers.variance_scaling(self.scale, "fan_in", "truncated_normal")
        if self.init_shape:
            initializer = gg_initializer(self.init_shape, self.scale)
        kernel = self.param("kernel", initializer, (x.shape[-1], self.features))
        # The same Hadamard transform of both operands cancels in their product, so no inverse is needed.
        rotated = 0 < self._form("weights").rotation == self._form("activations").rotation
        kernel = self._represented("weights", kernel, axis=-2, rotated=rotated)
        x = self._represented("activations", x, axis=-1, rotated=rotated)
        kernel = gathered(kernel, "/".join((*self.path, "kernel")), dtype=self.dtype)
        # As one product of two matrices, the gradient is a quarter faster on CPU than with batch axes.
        y = x.reshape(-1, x.shape[-1]).astype(self.dtype) @ kernel
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.features,))[None].astype(self.dtype)
        return y.reshape(*x.shape[:-1], self.features)

    def _form(self, what: str) -> Representation:
        return representation(getattr(self, what))

    def _represented(self, what: str, x: Array, *, axis: int, rotated: bool) -> Array:
        """Returns x in its representation; `axis` is the axis that the product sums over."""
        form = self._form(what)
        first = form.init_params(x, axis=axis)
        params = {name: self.param(f"{what}_{name}", lambda _, name=name: first[name]) for name in first}
        progress = None if self.scope is None else self.scope.root.get_variable(RUN, "progress")
        if progress is not None:
            params |= form.schedule(progress)
        key = self.make_rng(NOISE) if form.needs_key else None
        return form.quantize(x, axis=axis, key=key, params=params, rotated=rotated)


def dense_of(config: TransformerConfig) -> Callable[..., Dense]:
    """Returns `Dense` with the settings of a config for the blocks' matrices."""
    c = config
    return functools.partial(
        Dense, dtype=c.dtype, weights=c.weights, activations=c.activations, init_shape=c.init_shape
    )


class Attention(nn.Module):
    """Causal multi-head attention; groups of query heads share keys and values if `n_kv_heads` is set."""

    config: TransformerConfig

    def setup(self) -> None:
        c = self.config
        dense = functools.partial(dense_of(c), use_bias=c.bias in ("qkv", "all"))
        self.q = dense(c.n_heads * c.d_head)
        self.k, self.v = (dense(c.kv_heads * c.d_head) for _ in range(2))
        self.out = dense(c.d_model, scale=residual_scale(c), use_bias=c.bias == "all")
        if c.qk_norm:
            self.q_norm, self.k_norm = (norm_of(c)() for _ in range(2))
        if c.position == "relative":
            self.relative_bias = nn.Embed(c.n_buckets, c.n_heads, embedding_init=nn.initializers.normal(0.02))

    def __call__(self, x: Float[Array, "B L D"], span: Span | None = None) -> Float[Array, "B L D"]:
        """Returns the result of attention; `span` is the layer's, needed if not all layers have the same."""
        c, (batch, length, _) = self.config, x.shape
        window = c.window if span is None else span.window
        q, k, v = (constrain(y, BATCH, None, "tensor", None) for y in self._heads(x, jnp.arange(length)[None], span))
        kernel = _implementation(c)
        attend: Callable[..., Array] = functools.partial(_chunked, scale=c.score_scale, window=window)
        if kernel != "xla":
            kernel_of = functools.partial(jax.nn.dot_product_attention, is_causal=True, implementation=kernel)
            attend = functools.partial(kernel_of, scale=c.score_scale)
        if c.position != "relative":
            mixed = attend(q, k, v)
        elif (parts := batch_parts(batch)) == 1:  # as below, without an axis of size 1, which is slow on CPU
            mixed = attend(q, k, v, self._square_bias(length, self.relative_bias.embedding, window)[None])
        else:
            # One table per part of the batch: devices then sum gradients of [n_buckets, H] instead of [H, L, L].
            tables = jnp.broadcast_to(self.relative_bias.embedding, (parts, c.n_buckets, c.n_heads))
            square = functools.partial(self._square_bias, length, window=window)
            bias = jax.vmap(square)(constrain(tables, BATCH, None, "tensor"))
            split = (y.reshape(parts, -1, *y.shape[1:]) for y in (q, k, v))
            mixed = jax.vmap(attend)(*split, bias[:, None])
        return self.out(mixed.reshape(batch, length, -1))

    def step(
        self,
        x: Float[Array, "B D"],
        positions: Int[Array, " B"],
        cache: Mapping[str, Float[Array, "B kv_heads S K"]],
        span: Span | None = None,
    ) -> tuple[Float[Array, "B D"], dict[str, Float[Array, "B kv_heads S K"]]]:
        """Returns (output, cache) for one token per batch slot; its key and value are stored at `positions`."""
        c, slots = self.config, jnp.arange(x.shape[0])
        q, k, v = self._heads(x, positions, span)  # [B, heads, K]
        length = cache["k"].shape[2]
        cache = {
            name: cache[name].at[slots, :, positions].set(new, mode="promise_in_bounds", unique_indices=True)
            for name, new in (("k", k), ("v", v))
        }
        table = self.relative_bias.embedding if c.position == "relative" else None
        bias = self._bias(length, table, c.window if span is None else span.window)
        row = jax.vmap(lambda start: jax.lax.dynamic_slice_in_dim(bias, start, length, axis=1))
        grouped = (q * c.score_scale).reshape(x.shape[0], c.kv_heads, -1, c.d_head)
        scores = jnp.einsum("bhgk,bhsk->bhgs", grouped, cache["k"]).reshape(x.shape[0], c.n_heads, length)
        weights = jax.nn.softmax(scores.astype(jnp.float32) + row(length - 1 - positions), axis=-1).astype(v.dtype)
        grouped = weights.reshape(x.shape[0], c.kv_heads, -1, length)
        return self.out(jnp.einsum("bhgs,bhsk->bhgk", grouped, cache["v"]).reshape(x.shape[0], -1)), cache

    def _heads(
        self, x: Float[Array, "*rows D"], positions: Int[Array, "..."], span: Span | None
    ) -> tuple[Float[Array, "*rows H K"], Float[Array, "*rows kv_heads K"], Float[Array, "*rows kv_heads K"]]:
        """Returns queries, keys and values of x; `positions` broadcasts to its rows."""
        c = self.config
        split = lambda x: x.reshape(*x.shape[:-1], -1, c.d_head)  # noqa: E731
        if c.qk_norm and c.qk_norm_over == "width":
            q, k, v = split(self.q_norm(self.q(x))), split(self.k_norm(self.k(x))), split(self.v(x))
        else:
            q, k, v = (split(dense(x)) for dense in (self.q, self.k, self.v))
        if c.qk_norm and c.qk_norm_over == "head":
            q, k = self.q_norm(q), self.k_norm(k)
        frequencies = None if span is None else span.frequencies
        if span is None and c.position == "rotary":
            frequencies = rotary_frequencies(c, local=c.window > 0)  # all layers are local, or none
        if frequencies is not None:
            q, k = (rotate(y, positions, frequencies) for y in (q, k))
        return q, k, v

    def _bias(
        self, length: int, table: Float[Array, "buckets H"] | None, window: Window
    ) -> Float[Array, "heads periods"]:
        """Returns float32[H or 1, 2L]: the biases of scores at distances L-1, ..., 0, then L times the mask.

        Args:
            length: L.
            table: biases by bucket, or None for no bias.
            window: that of the layer, whose distances from it on are masked.
        """
        c = self.config
        past = jnp.zeros((length, 1))
        if table is not None:
            buckets = relative_buckets(length, n_buckets=c.n_buckets, max_distance=c.max_distance)
            # Not a gather: its gradient, a scatter, is slow on CPU and not deterministic on GPU.
            past = jax.nn.one_hot(buckets, c.n_buckets) @ table
        if not unlimited(window):
            past = jnp.where(jnp.arange(length)[:, None] < window, past, MASKED)
        return jnp.concatenate([past[::-1], jnp.full_like(past, MASKED)]).T

    def _square_bias(
        self, length: int, table: Float[Array, "buckets H"], window: Window
    ) -> Float[Array, "H {length} {length}"]:
        """Returns biases and mask of all scores; row i is `_bias(L, table, window)[:, L-1-i : 2L-1-i]`."""
        # Rows of 2L-1 from a sequence of period 2L shift by one place per row: a Toeplitz matrix without a gather.
        periodic = jnp.tile(self._bias(length, table, window), (1, length))[
            :, length - 1 : length - 1 + length * (2 * length - 1)
        ]
        return periodic.reshape(-1, length, 2 * length - 1)[:, :, :length]


def _chunked(
    q: Float[Array, "B L H K"],
    k: Float[Array, "B L kv_heads K"],
    v: Float[Array, "B L kv_heads K"],
    bias: Float[Array, "1 H L L"] | None = None,
    *,
    scale: float,
    window: Window,
) -> Float[Array, "B L H K"]:
    """Returns causal attention, computed for one chunk of the queries at a time with the keys up to its end.

    One product of all queries and keys would compute the half of the scores above the diagonal for nothing; chunks skip
    most of it, and of the scores beyond a window that is known at compile time.
    """
    length, groups = q.shape[1], q.shape[2] // k.shape[2]
    if groups > 1:
        grouped = q.reshape(*q.shape[:2], k.shape[2], groups, -1)
        if bias is not None:
            bias = bias.reshape(bias.shape[0], k.shape[2], groups, length, length)
        one = functools.partial(_chunked, scale=scale, window=window)
        attend = jax.vmap(one, in_axes=(3, None, None, None if bias is None else 2), out_axes=3)
        return attend(grouped, k, v, bias).reshape(q.shape)
    q = q * scale
    chunks = next(n for n in (8, 4, 2, 1) if n == 1 or length % n == 0 and length // n >= SMALLEST_CHUNK)
    size, mixed = length // chunks, []
    biases = None if bias is None else _chunks_of_rows(bias[0], size)
    for i, first in enumerate(range(0, length, size)):
        last = first + size
        seen = slice(_first_key(first, window) if biases is None else 0, last)
        scores = jnp.einsum("bqhk,bshk->bhqs", q[:, first:last], k[:, seen]).astype(jnp.float32)
        if biases is None:
            distance = np.arange(first, last)[:, None] - np.arange(seen.start, last)
            past = distance >= 0
            past = past if unlimited(window) else past & (distance < window)
            scores = jnp.where(past[None, None], scores, MASKED)
        else:  # the bias includes the mask
            scores = _add_to_rows(scores, biases[i])
        weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
        mixed.append(jnp.einsum("bhqs,bshk->bqhk", weights, v[:, seen]))
    return jnp.concatenate(mixed, axis=1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _chunks_of_rows(x: Float[Array, "H L L"], size: int) -> list[Float[Array, "H size _"]]:
    """Returns chunks of `size` rows, each up to the diagonal element of its last row."""
    return [x[:, last - size : last, :last] for last in range(size, x.shape[1] + 1, size)]


def _chunks_of_rows_fwd(x: Array, size: int) -> tuple[list[Array], None]:
    return _chunks_of_rows(x, size), None


def _chunks_of_rows_bwd(size: int, _: None, gradients: list[Array]) -> tuple[Array]:
    # Joined, not summed with zeros around each: XLA would compute that sum with a comparison per chunk and element.
    length = gradients[-1].shape[2]
    return (jnp.concatenate([jnp.pad(g, ((0, 0), (0, 0), (0, length - g.shape[2]))) for g in gradients], axis=1),)


_chunks_of_rows.defvjp(_chunks_of_rows_fwd, _chunks_of_rows_bwd)


@jax.custom_vjp
def _add_to_rows(x: Float[Array, "B ..."], y: Float[Array, "..."]) -> Float[Array, "B ..."]:
    return x + y[None]


def _add_to_rows_fwd(x: Array, y: Array) -> tuple[Array, None]:
    return _add_to_rows(x, y), None


def _add_to_rows_bwd(_: None, gradient: Array) -> tuple[Array, Array]:
    # As a product on CPU, where XLA sums over the first axis slowly.
    product = lambda x: jnp.einsum("b...,b->...", x, jnp.ones(len(x), x.dtype))  # noqa: E731
    return gradient, jax.lax.platform_dependent(gradient, cpu=product, default=lambda x: jnp.sum(x, axis=0))


_add_to_rows.defvjp(_add_to_rows_fwd, _add_to_rows_bwd)


def _first_key(query: int, window: Window) -> int:
    """Returns the first key that a query attends to, 0 unless the window is known at compile time."""
    return max(query - window + 1, 0) if isinstance(window, int) and window else 0


def _implementation(config: TransformerConfig) -> str:
    """Returns "xla" or the kernel of `jax.nn.dot_product_attention`."""
    if config.attention != "auto":
        return config.attention
    fits = config.dtype == "bfloat16" and config.position != "relative" and config.d_head % 8 == 0
    fits = fits and not config.window
    return "cudnn" if fits and jax.default_backend() == "gpu" else "xla"


class MLP(nn.Module):
    """Feed-forward layer, gated (three matrices) or plain (two)."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        c = self.config
        act = activation(c.activation)
        dense = functools.partial(dense_of(c), use_bias=c.bias == "all")
        hidden = dense(c.d_ff, name="up")(x)
        hidden = hidden * act(dense(c.d_ff, name="gate")(x)) if c.gated_mlp else act(hidden)
        hidden = constrain(hidden, *((BATCH, None, "tensor") if hidden.ndim == 3 else (BATCH, "tensor")))
        return dense(c.d_model, scale=residual_scale(c), name="down")(hidden)


class Block(nn.Module):
    """Attention and MLP, each added to the residual stream, one after the other or in parallel."""

    config: TransformerConfig

    def setup(self) -> None:
        norm, place = norm_of(self.config), self.config.norm_place
        if place != "after":
            self.attention_norm, self.mlp_norm = norm(), norm()
        if place != "before":
            self.attention_post_norm, self.mlp_post_norm = norm(), norm()
        self.attention, self.mlp = Attention(self.config), MLP(self.config)

    def __call__(self, x: Float[Array, "B L D"], span: Span | None = None) -> Float[Array, "B L D"]:
        added = self.attention(self._before("attention", x), span)
        attended = constrain(x + self._after("attention", added), BATCH, None, None)
        return constrain(self._mlp(x, attended), BATCH, None, None)

    def step(
        self,
        x: Float[Array, "B D"],
        positions: Int[Array, " B"],
        cache: Mapping[str, Float[Array, "B kv_heads S K"]],
        span: Span | None = None,
    ) -> tuple[Float[Array, "B D"], dict[str, Float[Array, "B kv_heads S K"]]]:
        """Returns (x, cache) for one token per batch slot."""
        added, cache = self.attention.step(self._before("attention", x), positions, cache, span)
        return self._mlp(x, x + self._after("attention", added)), cache

    def _mlp(self, x: Float[Array, "*rows D"], attended: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        """Returns the result of the block; x is its input, and `attended` is x plus the result of attention."""
        read = x if self.config.parallel_residual else attended
        return attended + self._after("mlp", self.mlp(self._before("mlp", read)))

    def _before(self, part: str, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        return x if self.config.norm_place == "after" else getattr(self, f"{part}_norm")(x)

    def _after(self, part: str, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        return x if self.config.norm_place == "before" else getattr(self, f"{part}_post_norm")(x)
