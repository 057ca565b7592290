"""Exact integer inference for M1: the coder's tables depend on the integer weights alone.

Float kernels are not reproducible: another batch size, compiler or device changes the logits, and one changed table
entry breaks a decoder (Lester et al. 2024, section 3.7). Therefore a trained `Transformer` is converted to integers:
int8 weights and activations with scales fixed by calibration, an int32 residual stream, and integer normalisation,
attention and softmax (`models.integer_ops`). The tables are the same for teacher forcing and cached steps, any batch
size, with or without jit, and on any number of devices.

The cost in quality is measured: `compressed-lm demo` prints the bits per byte of the M1 that it trains, as a float
model and as an integer model. A codec is built from the integers alone, so `build-codec` cannot print both.
"""

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int8, Int32, UInt32

from compressed_lm.models import integer_ops as ops
from compressed_lm.models.config import TransformerConfig
from compressed_lm.models.exact_shapes import N_SYMBOLS, check_exactable
from compressed_lm.models.positions import relative_buckets
from compressed_lm.models.transformer import unstack

KEPT = 0.9995
"""Share of the calibration sample inside an activation's integer range; 1 and 0.995 both cost more bits per byte."""

STREAM_SCALE = 1 << 10
"""Integers per unit of the residual stream."""

GATE_RANGE = 2047
"""Range of the two factors of a gated MLP; their product stays below 2**22."""

AVERAGE_SCALE = 8
"""Attention outputs have a resolution of one eighth of a value unit before they are rounded to int8."""

FORBIDDEN = -(1 << 30)
"""Score of a masked position."""

ExactParams = dict[str, dict[str, np.ndarray]]
Cache = tuple[tuple[Int8[Array, "B H K S"], Int8[Array, "B H K S"]], ...]


@dataclasses.dataclass(frozen=True)
class ExactConfig:
    """Shape of an exact model.

    Attributes:
        n_layers, d_model, n_heads, d_head, d_ff: as in `TransformerConfig`.
        context: largest number of positions L; a byte's table depends on at most the L - 1 bytes before it.
    """  # `fingerprint` hashes these names

    n_layers: int
    d_model: int
    n_heads: int
    d_head: int
    d_ff: int
    context: int

    @property
    def n_params(self) -> int:
        """Number of weights without embeddings: the N in 2 N operations per byte."""
        return self.n_layers * (4 * self.d_model * self.n_heads * self.d_head + 3 * self.d_model * self.d_ff)


# --- float forward pass that records ranges, for calibration ---


def _largest(x: Float[Array, "B L *channels"]) -> Float[Array, "*channels"]:
    """Returns the range of each channel; the largest magnitudes are cut, so that the others have a fine resolution."""
    return jnp.quantile(jnp.abs(x.reshape(-1, *x.shape[2:])), KEPT, axis=0)


def _observe(
    params: dict, config: TransformerConfig, inputs: Int[Array, "B L"]
) -> tuple[Float[Array, "B L V"], dict[str, dict[str, jax.Array]]]:
    """Runs the float model and records the range of every activation, for `quantise`.

    Returns:
        (logits, {layer: {name: float32[...]}}): ranges over batch and positions, per channel.
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


def _input_range(largest: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (multipliers for `ops.normalise`, the real value of one unit), both per channel."""
    multiplier = np.clip(np.round(127 * math.sqrt(width) / np.maximum(largest, 1e-3)), 1, (1 << 18) - 1)
    return multiplier.astype(np.int32), math.sqrt(width) / multiplier


def _weights(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (int8[K, N] weights, the real value of one unit float64[N] per output channel) of float64[K, N]."""
    unit = np.maximum(np.abs(w).max(0), 1e-9) / 127
    return np.round(w / unit).astype(np.int8), unit


def _rescaler(ratio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (multiplier int32[...], shift): x * multiplier / 2**shift ~ x * ratio, with 15-bit multipliers."""
    shift = int(np.clip(math.floor(math.log2(32767 / max(float(np.max(ratio)), 1e-12))), 13, 42))
    return np.minimum(np.round(np.asarray(ratio) * 2.0**shift), 32767).astype(np.int32), np.array(shift, np.int32)


def quantise(
    params: dict, config: TransformerConfig, sample: Int[Array | np.ndarray, "B L"], *, context: int
) -> tuple[ExactParams, ExactConfig]:
    """Returns the integer parameters of a trained float model.

    Args:
        params: parameters of a `Transformer` with `config`, trained on the bytes codec.
        config: its configuration; see `check_exactable`.
        sample: int32[B, L], inputs (shifted right, as in training) that calibrate the ranges of activations.
        context: largest number of positions that the exact model will see.

    Returns:
        (parameters as NumPy integers, configuration). Together they define every table bit for bit.

    Raises:
        InputError: the configuration has no exact integer form.
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
        # Only the product of queries and keys matters, so each channel's range is split evenly between the two.
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
    """Returns a SHA-256 hex digest of everything that the tables depend on."""
    digest = hashlib.sha256(b"compressed_lm exact 1" + json.dumps(dataclasses.asdict(config), sort_keys=True).encode())
    for group in sorted(params):
        for name in sorted(params[group]):
            value = np.ascontiguousarray(params[group][name])
            digest.update(f"{group}/{name}:{value.dtype.str}:{value.shape}".encode() + value.tobytes())
    return digest.hexdigest()


# --- inference ---


def _project(p: dict, name: str, x: Int32[Array, "*rows inputs"]) -> Int32[Array, "*rows outputs"]:
    return ops.rescale(ops.matmul(x, p[name]), p[f"{name}_multiplier"], p[f"{name}_shift"])


def _attention_weights(
    p: dict, scores: Int32[Array, "B H Q S"], bias: Int32[Array, "*stack H Q S"], allowed: jax.Array | np.ndarray
) -> Int32[Array, "B H Q S"]:
    """Returns 14-bit weights (the largest is 2**14) from products of Q queries and S keys."""
    scores = jnp.where(
        allowed, ops.rescale(scores, p["score_multiplier"][:, None, None], p["score_shift"]) + bias, FORBIDDEN
    )
    return ops.exp2_negative(jnp.max(scores, -1, keepdims=True) - scores) >> 1


def _average(
    p: dict, total: Int32[Array, "*rows H K"], weights: Int32[Array, "*rows H S"]
) -> Int32[Array, "*rows H*K"]:
    """Returns averages in the int8 range from weighted sums of values and their weights."""
    # Both lose four bits, so that one eighth of a value unit fits. A sum of weights is at least 2**14, the largest one.
    weight = jnp.sum(weights, -1, dtype=jnp.int32)[..., None] >> 4
    average = ((total >> 4) * AVERAGE_SCALE + (weight >> 1)) // weight
    return ops.clip8(ops.rescale(average.reshape(*average.shape[:-2], -1), p["average_multiplier"], p["average_shift"]))


def _attend_all(
    p: dict,
    q: Int32[Array, "B L H K"],
    k: Int32[Array, "B L H K"],
    v: Int32[Array, "B L H K"],
    bias: Int32[Array, "H L L"],
    allowed: Bool[np.ndarray, "L L"],
) -> Int32[Array, "B L H*K"]:
    """Returns causal attention over whole rows."""
    product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)
    q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    weights = _attention_weights(p, product("bqhk,bshk->bhqs", q, k).astype(jnp.int32), bias, allowed)
    # Two 7-bit halves of a 14-bit weight: each sum of products stays below 2**24 for at most 1,032 positions.
    high, low = (
        product("bhqs,bshk->bqhk", half.astype(jnp.float32), v).astype(jnp.int32)
        for half in (weights >> 7, weights & 127)
    )
    return _average(p, (high << 7) + low, jnp.swapaxes(weights, 1, 2))


def _attend_one(
    p: dict,
    q: Int32[Array, "B H K"],
    keys: Int8[Array, "B H K S"],
    values: Int8[Array, "B H K S"],
    bias: Int32[Array, "B H S"],
    allowed: Bool[Array | np.ndarray, "B S"],
) -> Int32[Array, "B H*K"]:
    """Returns the attention of one position per slot."""
    # XLA fuses sums with the conversion from int8: on CPU many times faster than batched matrix-vector products.
    scores = jnp.sum(q[..., None] * keys.astype(jnp.int32), axis=-2, dtype=jnp.int32)
    weights = _attention_weights(p, scores[:, :, None], bias[:, :, None], allowed[:, None, None])[:, :, 0]
    return _average(p, jnp.sum(weights[:, :, None] * values.astype(jnp.int32), axis=-1, dtype=jnp.int32), weights)


def _feed_forward(p: dict, h: Int32[Array, "*rows D"]) -> Int32[Array, "*rows D"]:
    x = ops.normalise(h, p["mlp_in"])
    up = jnp.clip(_project(p, "up", x), -GATE_RANGE, GATE_RANGE)
    gate = jnp.clip(_project(p, "gate", x), 0, GATE_RANGE)
    product = ops.clip8(ops.rescale(up * gate, p["product_multiplier"], p["product_shift"]))
    return h + _project(p, "down", product)


def _queries_keys_values(
    config: ExactConfig, p: dict, h: Int32[Array, "*rows D"]
) -> Iterator[Int32[Array, "*rows H K"]]:
    x = ops.normalise(h, p["attention_in"])
    return (ops.clip8(_project(p, name, x)).reshape(*h.shape[:-1], config.n_heads, config.d_head) for name in "qkv")


def _logits(params: ExactParams, h: Int32[Array, "*rows D"]) -> Int32[Array, "*rows 257"]:
    p = params["final"]
    return ops.rescale(ops.matmul(ops.normalise(h, p["in"]), p["unembed"]), p["logit_multiplier"], p["logit_shift"])


def forward(
    params: ExactParams, config: ExactConfig, inputs: Int[Array | np.ndarray, "B L"]
) -> Int32[Array, "B L 257"]:
    """Returns the logits after each input, in units of 2**-8 bits.

    Args:
        params, config: from `quantise`.
        inputs: ids, L <= context. The first id of a row is the end-of-document id 256, the others are bytes.
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
    """Returns an empty cache of keys and values: for each layer a pair of int8[slots, H, K, length]."""
    shape = (slots, config.n_heads, config.d_head, length)
    return tuple((jnp.zeros(shape, jnp.int8), jnp.zeros(shape, jnp.int8)) for _ in range(config.n_layers))


def step(
    params: ExactParams,
    config: ExactConfig,
    inputs: Int[Array | np.ndarray, " B"],
    positions: Int[Array | np.ndarray, " B"],
    cache: Cache,
) -> tuple[Int32[Array, "B 257"], Cache]:
    """Returns (logits, cache) after one more input per slot; the logits equal `forward` on its inputs bit for bit.

    Args:
        params, config: from `quantise`.
        inputs: the next id of each slot.
        positions: the position of each slot; position 0 restarts the slot.
        cache: from `init_cache` or the last step.
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


def weights_of(logits: Int32[Array | np.ndarray, "*rows S"]) -> UInt32[Array, "*rows S"]:
    """Returns the integer weights of the S symbols for `coding.tables.frequencies`."""
    return ops.exp2_negative(jnp.max(logits, -1, keepdims=True) - logits).astype(jnp.uint32)
