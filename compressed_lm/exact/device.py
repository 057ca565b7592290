"""The exact model on GPU, TPU and any other device of JAX; `exact.host` is the same model on CPU."""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Int8, Int32, UInt32

from compressed_lm.exact import integer_ops as ops
from compressed_lm.exact.config import AVERAGE_SCALE, GATE_RANGE, ExactConfig, ExactParams

FORBIDDEN = -(1 << 30)
"""Score of a masked position."""

Cache = tuple[tuple[Int8[Array, "B H K S"], Int8[Array, "B H K S"]], ...]


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
