"""Exact inference for M1: the coder's tables as a function of the integer weights alone.

Float kernels promise no bits: another batch size, compiler or device moves the logits, and one changed table entry
breaks a decoder (Lester et al. 2024, section 3.7). Here a trained `Transformer` is turned, after training, into
integers: int8 weights and activations with scales fixed by calibration, an int32 residual stream, and integer
normalisation, attention and softmax (`models.integer_ops`). Teacher-forced and cached, alone or in a batch, jitted or
not, on one device or many, the tables come out the same.

The price is measured, not assumed: `compressed-lm demo` prints the bits per byte of the M1 that it trains, as a float
model and through its integer tables. A codec is built from the integers alone, so `build-codec` cannot print both.
"""

import dataclasses
import functools
import hashlib
import json
import math

import jax
import jax.numpy as jnp
import numpy as np

from compressed_lm.errors import InputError
from compressed_lm.models import integer_ops as ops
from compressed_lm.models.config import TransformerConfig
from compressed_lm.models.exact_shapes import N_SYMBOLS
from compressed_lm.models.positions import relative_buckets
from compressed_lm.models.transformer import unstack

KEPT = 0.9995
"""Share of the calibration sample within an activation's integer range; 1 and 0.995 both cost more bits per byte."""

STREAM_SCALE = 1 << 10
"""Integers per unit of the residual stream."""

GATE_RANGE = 2047
"""Range of the two factors of a gated MLP, whose product stays below 2**22."""

AVERAGE_SCALE = 8
"""Attention outputs are kept to one eighth of a value unit before they are cut to int8."""

FORBIDDEN = -(1 << 30)
"""Score of a position that must not be attended to."""

ExactParams = dict[str, dict[str, np.ndarray]]
Cache = tuple[tuple[jax.Array, jax.Array], ...]


@dataclasses.dataclass(frozen=True)
class ExactConfig:
    """Shape of an exact model.

    Attributes:
        n_layers, d_model, n_heads, d_head, d_ff: as in `TransformerConfig`.
        context: largest number of positions L; a byte's table depends on at most the L - 1 bytes before it.
    """

    n_layers: int
    d_model: int
    n_heads: int
    d_head: int
    d_ff: int
    context: int

    @property
    def n_params(self) -> int:
        """Weights outside the embeddings, the N of 2 N operations a byte."""
        return self.n_layers * (4 * self.d_model * self.n_heads * self.d_head + 3 * self.d_model * self.d_ff)


def check_exactable(config: TransformerConfig, context: int) -> None:
    """Raises InputError where a model's shape leaves the bounds within which float32 carries integers exactly."""
    problems = []
    if config.position != "relative":
        problems.append(f"position={config.position} (relative is needed: its bias is a table of integers)")
    if not config.gated_mlp or config.activation != "relu":
        problems.append(f"gated_mlp={config.gated_mlp}, activation={config.activation} (gated relu is needed)")
    if (config.norm, config.norm_eps, config.qk_norm) != ("rms", 1e-6, False):
        problems.append(
            f"norm={config.norm}, norm_eps={config.norm_eps}, qk_norm={config.qk_norm} (rms, 1e-06, False is needed)"
        )
    if config.bias != "none" or config.parallel_residual:
        problems.append(f"bias={config.bias}, parallel_residual={config.parallel_residual} (none, False is needed)")
    if config.kv_heads != config.n_heads:
        problems.append(f"n_kv_heads={config.n_kv_heads} (as many as n_heads={config.n_heads} are needed)")
    if (config.weights, config.activations) != ("dense", "dense"):
        problems.append(f"weights={config.weights}, activations={config.activations} (dense is needed)")
    widths = {
        "d_model": config.d_model,
        "d_ff": config.d_ff,
        "n_heads * d_head": config.n_heads * config.d_head,
        "context": context,
    }
    problems += [f"{name}={width} (at most 1024)" for name, width in widths.items() if width > 1024]
    if config.vocab_size < N_SYMBOLS:
        problems.append(f"vocab_size={config.vocab_size} (at least {N_SYMBOLS}: M1 is a model over the bytes codec)")
    if problems:
        raise InputError(
            "This model cannot serve as M1, because its integer form would not be exact: "
            + "; ".join(problems)
            + ". Train M1 with a configuration within these bounds."
        )


# --- float forward pass with observation, for calibration ---


def _largest(x):
    """Range of each channel of x[B, L, ...]: the rarest magnitudes are cut, so that the others keep fine steps."""
    return jnp.quantile(jnp.abs(x.reshape(-1, *x.shape[2:])), KEPT, axis=0)


def _observe(params, config: TransformerConfig, inputs):
    """Largest magnitudes of everything that gets an integer range, from the float model: the statistics that `quantise`
    needs.

    Returns:
        (logits float32[B, L, V], {name: float32[...]}), their ranges over batch and positions, per channel.
    """
    seen = {}
    rms = lambda x: x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)  # noqa: E731
    length = inputs.shape[1]
    buckets = relative_buckets(length, n_buckets=config.n_buckets, max_distance=config.max_distance)
    distance = np.arange(length)[:, None] - np.arange(length)[None]
    h = params["embed"]["embedding"][inputs]
    split = lambda x: x.reshape(*x.shape[:2], config.n_heads, config.d_head)  # noqa: E731
    for i, layer in enumerate(unstack(params["layers"], config.n_layers)):
        normal = rms(h)
        x = normal * layer["attention_norm"]["scale"]
        attention = layer["attention"]
        q, k, v = (split(x @ attention[name]["kernel"]) for name in "qkv")
        bias = attention["relative_bias"]["embedding"][buckets[np.maximum(distance, 0)]].transpose(2, 0, 1)
        scores = jnp.einsum("bqhk,bshk->bhqs", q, k) * config.d_head**-0.5 + bias
        weights = jax.nn.softmax(jnp.where(distance >= 0, scores, -1e30), axis=-1)
        average = jnp.einsum("bhqs,bshk->bqhk", weights, v)
        h = h + average.reshape(*h.shape[:2], -1) @ attention["out"]["kernel"]
        middle = rms(h)
        x = middle * layer["mlp_norm"]["scale"]
        up, gate = x @ layer["mlp"]["up"]["kernel"], jax.nn.relu(x @ layer["mlp"]["gate"]["kernel"])
        h = h + (up * gate) @ layer["mlp"]["down"]["kernel"]
        values = dict(
            attention_in=normal, q=q, k=k, v=v, average=average, mlp_in=middle, up=up, gate=gate, product=up * gate
        )
        seen[f"layer_{i}"] = {name: _largest(value) for name, value in values.items()}
    normal = rms(h)
    seen["final"] = {"in": _largest(normal)}
    return (normal * params["final_norm"]["scale"]) @ params["unembed"]["kernel"], seen


# --- quantisation ---


def _input_range(largest, width: int):
    """Multipliers for `ops.normalise` and the real value of one unit of each channel."""
    multiplier = np.clip(np.round(127 * math.sqrt(width) / np.maximum(largest, 1e-3)), 1, (1 << 18) - 1)
    return multiplier.astype(np.int32), math.sqrt(width) / multiplier


def _weights(w):
    """int8 weights and the real value of one unit of each output channel, from float64[K, N]."""
    unit = np.maximum(np.abs(w).max(0), 1e-9) / 127
    return np.round(w / unit).astype(np.int8), unit


def _rescaler(ratio):
    """(multiplier int32[...], shift int32) such that x * ratio ~ x * multiplier / 2**shift with 15-bit multipliers."""
    shift = int(np.clip(math.floor(math.log2(32767 / max(float(np.max(ratio)), 1e-12))), 13, 42))
    return np.minimum(np.round(np.asarray(ratio) * 2.0**shift), 32767).astype(np.int32), np.int32(shift)


def quantise(params, config: TransformerConfig, sample, *, context: int) -> tuple[ExactParams, ExactConfig]:
    """Integer parameters of a trained float model.

    Args:
        params: parameters of a `Transformer` with `config`, trained on the bytes codec.
        config: its configuration; see `check_exactable`.
        sample: int32[B, L], inputs (shifted right, as in training) on which the ranges of activations are observed.
        context: largest number of positions that the exact model will see.

    Returns:
        (parameters as NumPy integers, configuration). Together they define every table bit for bit.

    Raises:
        InputError: the configuration cannot be carried exactly.
    """
    check_exactable(config, context)
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    if config.tie_embeddings:
        params = params | {"unembed": {"kernel": params["embed"]["embedding"].T}}
    with jax.default_matmul_precision("highest"):
        float_params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
        _, seen = jax.jit(_observe, static_argnums=1)(float_params, config, jnp.asarray(sample))
    seen = jax.tree.map(lambda x: np.maximum(np.asarray(x, np.float64), 1e-6), seen)

    d, n_heads, d_head = config.d_model, config.n_heads, config.d_head
    bits = math.log2(math.e) * 2**ops.FRACTION_BITS  # units of a log-probability in nats
    distances = relative_buckets(context, n_buckets=config.n_buckets, max_distance=config.max_distance)
    exact: ExactParams = {
        "embed": {"table": np.round(params["embed"]["embedding"][:N_SYMBOLS] * STREAM_SCALE).astype(np.int32)}
    }
    for i in range(config.n_layers):
        layer, ranges, out = jax.tree.map(lambda x: x[i], params["layers"]), seen[f"layer_{i}"], {}  # noqa: B023

        out["attention_in"], unit = _input_range(ranges["attention_in"], d)
        gain = (layer["attention_norm"]["scale"] * unit)[:, None]
        # Queries and keys meet only in their product, so each channel's range can be shared out evenly between the two.
        balance = np.sqrt(ranges["k"] / ranges["q"])
        q_unit = np.broadcast_to((ranges["q"] * balance).max(-1, keepdims=True) / 127, (n_heads, d_head))
        k_unit = np.broadcast_to((ranges["k"] / balance).max(-1, keepdims=True) / 127, (n_heads, d_head))
        v_unit = ranges["v"] / 127
        attention = layer["attention"]
        for name, target in (("q", q_unit / balance), ("k", k_unit * balance), ("v", v_unit)):
            out[name], w_unit = _weights(gain * attention[name]["kernel"])
            out[f"{name}_multiplier"], out[f"{name}_shift"] = _rescaler(w_unit / target.reshape(-1))
        out["score_multiplier"], out["score_shift"] = _rescaler(q_unit[:, 0] * k_unit[:, 0] * d_head**-0.5 * bits)
        out["bias"] = np.round(attention["relative_bias"]["embedding"][distances].T * bits).astype(np.int32)
        average_unit = ranges["average"] / 127
        out["average_multiplier"], out["average_shift"] = _rescaler((v_unit / average_unit / AVERAGE_SCALE).reshape(-1))
        out["out"], w_unit = _weights(average_unit.reshape(-1, 1) * attention["out"]["kernel"])
        out["out_multiplier"], out["out_shift"] = _rescaler(w_unit * STREAM_SCALE)

        out["mlp_in"], unit = _input_range(ranges["mlp_in"], d)
        gain = (layer["mlp_norm"]["scale"] * unit)[:, None]
        for name in ("up", "gate"):
            out[name], w_unit = _weights(gain * layer["mlp"][name]["kernel"])
            out[f"{name}_multiplier"], out[f"{name}_shift"] = _rescaler(w_unit / (ranges[name] / GATE_RANGE))
        product_unit = ranges["product"] / 127
        out["product_multiplier"], out["product_shift"] = _rescaler(
            ranges["up"] * ranges["gate"] / GATE_RANGE**2 / product_unit
        )
        out["down"], w_unit = _weights(product_unit[:, None] * layer["mlp"]["down"]["kernel"])
        out["down_multiplier"], out["down_shift"] = _rescaler(w_unit * STREAM_SCALE)
        exact[f"layer_{i}"] = out

    multiplier, unit = _input_range(seen["final"]["in"], d)
    table, w_unit = _weights(
        (params["final_norm"]["scale"] * unit)[:, None] * params["unembed"]["kernel"][:, :N_SYMBOLS]
    )
    logit_multiplier, logit_shift = _rescaler(w_unit * bits)
    exact["final"] = {
        "in": multiplier,
        "unembed": table,
        "logit_multiplier": logit_multiplier,
        "logit_shift": logit_shift,
    }
    return exact, ExactConfig(config.n_layers, d, n_heads, d_head, config.d_ff, context)


def fingerprint(params: ExactParams, config: ExactConfig) -> str:
    """Hex digest of everything the tables depend on."""
    digest = hashlib.sha256(b"compressed_lm exact 1" + json.dumps(dataclasses.asdict(config), sort_keys=True).encode())
    for room in sorted(params):
        for name in sorted(params[room]):
            value = np.ascontiguousarray(params[room][name])
            digest.update(f"{room}/{name}:{value.dtype.str}:{value.shape}".encode() + value.tobytes())
    return digest.hexdigest()


# --- inference ---


def _project(p, name, x):
    return ops.rescale(ops.matmul(x, p[name]), p[f"{name}_multiplier"], p[f"{name}_shift"])


def _attention_weights(p, scores, bias, allowed):
    """14-bit weights int32[..., Q, S] from products of queries and keys int32[..., Q, S]; the largest is 2**14."""
    scores = jnp.where(
        allowed, ops.rescale(scores, p["score_multiplier"][:, None, None], p["score_shift"]) + bias, FORBIDDEN
    )
    return ops.exp2_negative(jnp.max(scores, -1, keepdims=True) - scores) >> 1


def _average(p, total, weights):
    """int8 averages int32[..., H * K] from weighted sums of values int32[..., H, K] and their weights int32[..., H,
    S]."""
    # Both lose four bits so that one eighth of a value unit fits; a sum of weights is at least 2**14, that of the
    # largest.
    weight = jnp.sum(weights, -1, dtype=jnp.int32)[..., None] >> 4
    average = ((total >> 4) * AVERAGE_SCALE + (weight >> 1)) // weight
    return ops.clip8(ops.rescale(average.reshape(*average.shape[:-2], -1), p["average_multiplier"], p["average_shift"]))


def _attend_all(p, q, k, v, bias, allowed):
    """Causal attention over whole rows: int32[B, L, H * K] from q, k, v int32[B, L, H, K]."""
    product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)
    q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    weights = _attention_weights(p, product("bqhk,bshk->bhqs", q, k).astype(jnp.int32), bias, allowed)
    # Two 7-bit halves of a 14-bit weight: each sum of products stays below 2**24 for up to 1,032 positions.
    high, low = (
        product("bhqs,bshk->bqhk", half.astype(jnp.float32), v).astype(jnp.int32)
        for half in (weights >> 7, weights & 127)
    )
    return _average(p, (high << 7) + low, jnp.swapaxes(weights, 1, 2))


def _attend_one(p, q, keys, values, bias, allowed):
    """Attention of one position a slot: int32[B, H * K] from q int32[B, H, K] and int8[B, H, K, S]."""
    # Written as sums, which XLA fuses with the conversion from int8: on CPU many times faster than batched matrix-
    # vector products.
    scores = jnp.sum(q[..., None] * keys.astype(jnp.int32), axis=-2, dtype=jnp.int32)
    weights = _attention_weights(p, scores[:, :, None], bias[:, :, None], allowed[:, None, None])[:, :, 0]
    return _average(p, jnp.sum(weights[:, :, None] * values.astype(jnp.int32), axis=-1, dtype=jnp.int32), weights)


def _feed_forward(p, h):
    x = ops.normalise(h, p["mlp_in"])
    up = jnp.clip(_project(p, "up", x), -GATE_RANGE, GATE_RANGE)
    gate = jnp.clip(_project(p, "gate", x), 0, GATE_RANGE)
    product = ops.clip8(ops.rescale(up * gate, p["product_multiplier"], p["product_shift"]))
    return h + _project(p, "down", product)


def _queries_keys_values(config, p, h):
    x = ops.normalise(h, p["attention_in"])
    return (ops.clip8(_project(p, name, x)).reshape(*h.shape[:-1], config.n_heads, config.d_head) for name in "qkv")


def _logits(params, h):
    p = params["final"]
    return ops.rescale(ops.matmul(ops.normalise(h, p["in"]), p["unembed"]), p["logit_multiplier"], p["logit_shift"])


def forward(params: ExactParams, config: ExactConfig, inputs) -> jax.Array:
    """Logits after each input, in units of 2**-8 bits.

    Args:
        params, config: from `quantise`.
        inputs: int32[B, L], L <= context; the first is the end-of-document id 256, the others are bytes.

    Returns:
        int32[B, L, 257].
    """
    length = inputs.shape[1]
    distance = np.arange(length)[:, None] - np.arange(length)[None]
    h = jnp.asarray(params["embed"]["table"])[inputs]
    for i in range(config.n_layers):
        p = params[f"layer_{i}"]
        q, k, v = _queries_keys_values(config, p, h)
        bias = jnp.asarray(p["bias"])[:, np.maximum(distance, 0)]
        h = h + _project(p, "out", _attend_all(p, q, k, v, bias, distance >= 0))
        h = _feed_forward(p, h)
    return _logits(params, h)


def init_cache(config: ExactConfig, slots: int, length: int) -> Cache:
    """An empty key/value cache: for each layer a pair of int8[slots, H, K, length]."""
    shape = (slots, config.n_heads, config.d_head, length)
    return tuple((jnp.zeros(shape, jnp.int8), jnp.zeros(shape, jnp.int8)) for _ in range(config.n_layers))


def step(params: ExactParams, config: ExactConfig, inputs, positions, cache: Cache) -> tuple[jax.Array, Cache]:
    """Logits after one more input in each slot, equal bit for bit to `forward` on the slot's inputs so far.

    Args:
        params, config: from `quantise`.
        inputs: int32[B].
        positions: int32[B], where each slot stands; going back to 0 starts the slot afresh.
        cache: from `init_cache` or the last step.

    Returns:
        (int32[B, 257], cache).
    """
    length = cache[0][0].shape[-1]
    distance = positions[:, None] - jnp.arange(length)
    here = (distance == 0)[:, None, None]
    h = jnp.asarray(params["embed"]["table"])[inputs]
    new_cache = []
    for i, (keys, values) in enumerate(cache):
        p = params[f"layer_{i}"]
        q, k, v = _queries_keys_values(config, p, h)
        keys, values = (jnp.where(here, new[..., None].astype(jnp.int8), old) for new, old in ((k, keys), (v, values)))
        new_cache.append((keys, values))
        bias = jnp.moveaxis(jnp.asarray(p["bias"])[:, jnp.clip(distance, 0, length - 1)], 0, 1)
        h = h + _project(p, "out", _attend_one(p, q, keys, values, bias, distance >= 0))
        h = _feed_forward(p, h)
    return _logits(params, h), tuple(new_cache)


def weights_of(logits):
    """Integer weights of the symbols for `coding.tables.frequencies`: uint32[..., S] from logits int32[..., S]."""
    return ops.exp2_negative(jnp.max(logits, -1, keepdims=True) - logits).astype(jnp.uint32)
