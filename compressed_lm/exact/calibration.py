"""Conversion of a trained float model to integers, with scales from a sample of text."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from compressed_lm.exact.config import (
    AVERAGE_SCALE,
    GATE_RANGE,
    N_SYMBOLS,
    ExactConfig,
    ExactParams,
    check_exactable,
)
from compressed_lm.exact.integer_ops import FRACTION_BITS
from compressed_lm.models.config import TransformerConfig
from compressed_lm.models.positions import relative_buckets
from compressed_lm.models.transformer import unstack

KEPT = 0.9995
"""Share of the calibration sample inside an activation's integer range; 1 and 0.995 both cost more bits per byte."""

STREAM_SCALE = 1 << 10
"""Integers per unit of the residual stream."""


def _largest(x: Float[Array, "B L *channels"]) -> Float[Array, "*channels"]:
    """Returns the range of each channel; the largest magnitudes are cut, so that the others have a fine resolution.

    It is `jnp.quantile(abs(x), KEPT)` over batch and positions, bit for bit, but does not sort what is not needed.
    """
    n, n_channels = x.shape[0] * x.shape[1], math.prod(x.shape[2:])
    place = np.float32(KEPT) * np.float32(n - 1)
    low, high = int(np.floor(place)), int(np.ceil(place))
    weight = place - np.float32(low)
    # First among few, then among the largest of these: selecting among many is slow on CPU.
    few = math.gcd(n, 512)
    values = jnp.abs(x.reshape(-1, few, n_channels)).transpose(2, 0, 1)
    largest = jax.lax.top_k(values, min(n - low, few))[0].reshape(n_channels, -1)
    largest = jax.lax.top_k(largest, n - low)[0]
    return (largest[:, n - 1 - low] * (1 - weight) + largest[:, n - 1 - high] * weight).reshape(x.shape[2:])


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


def _input_range(largest: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (multipliers for `integer_ops.normalise`, the real value of one unit), both per channel."""
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
    bits = math.log2(math.e) * 2**FRACTION_BITS  # units of a log-probability in nats
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
