"""Exact inference in JAX equals the same formulas in 64-bit NumPy, within checked bounds and with recorded tables."""

import hashlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compressed_lm.coding import tables
from compressed_lm.models import Transformer, TransformerConfig, exact, shift_right
from compressed_lm.models import integer_ops as ops

SMALL = exact.ExactConfig(n_layers=2, d_model=32, n_heads=2, d_head=16, d_ff=64, context=64)
WIDE = exact.ExactConfig(n_layers=2, d_model=256, n_heads=4, d_head=64, d_ff=1024, context=1024)


def golden_model(config: exact.ExactConfig) -> exact.ExactParams:
    """Returns an exact model made from integers alone, so that it is the same on every machine.

    Weights and embeddings are hashes of their positions (splitmix64); multipliers keep typical activations within their
    range. The first layer reaches the bounds: head 0 attends evenly to values of 127, and the MLP has columns of equal
    weights, whose products saturate and are multiplied by weights of 127.
    """
    count = 0

    def integers(shape, low, high):
        nonlocal count
        z = (np.arange(count, count + math.prod(shape), dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        count += math.prod(shape)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return (low + ((z ^ (z >> np.uint64(31))) % np.uint64(high - low + 1)).astype(np.int64)).reshape(shape)

    def linear(name, n_in, n_out, numerator, shift):
        """Returns weights of full range, and multipliers numerator / sqrt(n_in) +- 10 %."""
        middle = numerator // math.isqrt(n_in)
        return {
            name: integers((n_in, n_out), -127, 127).astype(np.int8),
            f"{name}_multiplier": (middle + integers((n_out,), -(middle // 10), middle // 10)).astype(np.int32),
            f"{name}_shift": np.int32(shift),
        }

    d, width, heads = config.d_model, config.n_heads * config.d_head, config.n_heads
    input_range = lambda: (42 * math.isqrt(d) + integers((d,), -20, 20)).astype(np.int32)  # noqa: E731
    embedding = integers((257, d), -1500, 1500).astype(np.int32)
    embedding[:, :4] = 6000  # equal at all positions, for the values of head 0
    params = {"embed": {"table": embedding}}
    for i in range(config.n_layers):
        p = {"attention_in": input_range(), "mlp_in": input_range()}
        for name in "qkv":
            p |= linear(name, d, width, 54_000, shift=22)
        p |= linear("out", width, d, 42_000, shift=18) | linear("down", config.d_ff, d, 42_000, shift=18)
        p |= linear("up", d, config.d_ff, 60_000, shift=18) | linear("gate", d, config.d_ff, 60_000, shift=18)
        p["score_multiplier"], p["score_shift"] = integers((heads,), 2000, 4000).astype(np.int32), np.int32(16)
        p["bias"] = -integers((heads, config.context), 0, 700).astype(np.int32)
        p["average_multiplier"], p["average_shift"] = integers((width,), 6000, 9000).astype(np.int32), np.int32(15)
        p["product_multiplier"] = integers((config.d_ff,), 3000, 6000).astype(np.int32)
        p["product_shift"] = np.int32(25)
        if i == 0:
            p["score_multiplier"][0], p["bias"][0] = 0, 0
            p["v"][:, : config.d_head] //= 8
            p["v"][:4, : config.d_head] = 127
            p["v_multiplier"][: config.d_head] = 32767
            half = config.d_ff // 2
            p["up"][:] = np.where(np.arange(config.d_ff) < half, p["up"][:, :1], -p["up"][:, :1])
            p["gate"][:] = p["gate"][:, :1]
            p["up_multiplier"][:] = p["gate_multiplier"][:] = p["product_multiplier"][:] = 32767
            p["down"][:, 0] = np.where(np.arange(config.d_ff) < half, 127, -127)
            p["down_multiplier"][0] = 16
        params[f"layer_{i}"] = p
    final = linear("logit", d, 257, 100_000, shift=18)
    params["final"] = {"in": input_range(), "unembed": final.pop("logit")} | final
    return params


def golden_inputs(config: exact.ExactConfig, batch: int) -> np.ndarray:
    """Returns int32[B, L]: the end-of-document id, and bytes from a fixed formula."""
    rows, columns = np.arange(batch)[:, None], np.arange(config.context)[None]
    inputs = (rows * 31 + columns * columns * 7 + columns * (rows + 3)) // 3 % 256
    inputs[:, 0] = 256
    return inputs.astype(np.int32)


def digest(freqs) -> str:
    """Returns the SHA-256 of the tables as little-endian uint32."""
    return hashlib.sha256(np.ascontiguousarray(freqs, "<u4").tobytes()).hexdigest()


def jax_frequencies(params, config, inputs) -> np.ndarray:
    run = jax.jit(lambda p, x: tables.frequencies(exact.weights_of(exact.forward(p, config, x)), xp=jnp))
    return np.asarray(run(jax.tree.map(jnp.asarray, params), inputs))


SMALL_TABLES = "5126fc331c2255d07456904f694690bbcebc9e30e2ecba6b8a7394a32fbd7c31"
WIDE_TABLES = "1a35c958ac88674e36cf40ad50ac5f628ef4226d03d46ed4acb8d64fa63b9a3f"


def test_golden_tables_of_a_small_model(exact_numpy):
    """64 rows of 64 positions give the recorded tables in NumPy and in JAX, so old encoded files stay readable."""
    params, inputs = golden_model(SMALL), golden_inputs(SMALL, 64)
    freqs = exact_numpy.frequencies(params, SMALL, inputs, check_bounds=True)
    assert freqs.dtype == np.uint32 and (freqs.sum(-1) == 65536).all() and freqs.min() >= 1
    assert digest(freqs) == SMALL_TABLES
    assert digest(jax_frequencies(params, SMALL, inputs)) == SMALL_TABLES


def test_golden_tables_at_context_1024_in_jax():
    """Width 256, MLP 1,024 and context 1,024 give the recorded tables in JAX; float32 sums come within 1 % of 2**24."""
    assert digest(jax_frequencies(golden_model(WIDE), WIDE, golden_inputs(WIDE, 1))) == WIDE_TABLES


@pytest.mark.slow("compiles exact inference for several settings")
def test_golden_tables_at_context_1024_in_numpy(exact_numpy):
    """64-bit integers give the same tables, and no value is out of bounds."""
    freqs = exact_numpy.frequencies(golden_model(WIDE), WIDE, golden_inputs(WIDE, 1), check_bounds=True)
    assert digest(freqs) == WIDE_TABLES


def test_the_golden_models_reach_the_bounds(monkeypatch, exact_numpy):
    """The largest possible sums of products occur in the golden models, so their tables show if sums are exact."""
    params, inputs = golden_model(SMALL), golden_inputs(SMALL, 4)
    monkeypatch.setattr(exact_numpy, "EXACT_SUM", 64 * 128 * 127)
    with pytest.raises(OverflowError, match="attention, high half runs from .* to 1040384"):
        exact_numpy.logits(params, SMALL, inputs, check_bounds=True)
    params["layer_0"]["bias"][0] = -np.arange(64) * 999  # head 0 now attends to one position
    monkeypatch.setattr(exact_numpy, "EXACT_SUM", 64 * 127 * 127)
    with pytest.raises(OverflowError, match="down runs from .* to 1032256"):
        exact_numpy.logits(params, SMALL, inputs, check_bounds=True)
    assert 1024 * 128 * 127 < 1 << 24, "the same at 1,024 positions and an MLP of 1,024"


@pytest.mark.slow("compiles exact inference for several settings")
def test_a_quantised_model_equals_the_oracle_within_bounds(exact_numpy):
    """A quantised model with random weights stays within every bound, and its logits in JAX and NumPy are equal."""
    config = TransformerConfig(vocab_size=264, d_model=48, n_layers=2, n_heads=3, d_head=16, d_ff=96)
    params = Transformer(config).init(jax.random.key(3), jnp.zeros((1, 4), jnp.int32))["params"]
    rows = np.random.default_rng(3).integers(0, 256, (8, 64))
    inputs = np.asarray(shift_right(jnp.asarray(rows, jnp.int32), 256))
    integers, shape = exact.quantise(params, config, inputs, context=64)
    wanted = exact_numpy.logits(integers, shape, inputs, check_bounds=True)
    np.testing.assert_array_equal(np.asarray(jax.jit(exact.forward, static_argnums=1)(integers, shape, inputs)), wanted)


def test_operations_equal_the_oracles_over_their_ranges(exact_numpy):
    """Every integer operation gives the 64-bit result at random points and corners of its valid range."""
    rng = np.random.default_rng(7)
    oracle = exact_numpy._Arithmetic(check=True)
    multiplier = np.concatenate([rng.integers(0, 1 << 15, 2000), [0, 1, 32767, 32767, 32767]])
    for shift in range(13, 43):
        x = np.append(rng.integers(-(1 << 24), (1 << 24) + 1, 2001), [-(1 << 24), 1 << 24, -1, 0])
        got = ops.rescale(jnp.asarray(x, jnp.int32), jnp.asarray(multiplier, jnp.int32), jnp.int32(shift))
        np.testing.assert_array_equal(np.asarray(got), oracle.rescale("x", x, multiplier, shift))
    for bits in range(1, 31):
        h = rng.integers(-(1 << bits), (1 << bits) + 1, (20, 128))
        h[0], h[1], h[2, 1:] = 0, (1 << bits) - 1, 0
        gain = rng.integers(1, 1 << 18, 128)
        got = ops.normalise(jnp.asarray(h, jnp.int32), jnp.asarray(gain, jnp.int32))
        np.testing.assert_array_equal(np.asarray(got), oracle.normalise("h", h, gain))
    x = np.concatenate([np.arange(20 * 256), [1 << 20, (1 << 31) - 1]])
    got = ops.exp2_negative(jnp.asarray(x, jnp.int32))
    np.testing.assert_array_equal(np.asarray(got), oracle.exp2_negative(x))


@pytest.mark.parametrize(
    "part, name, value, message",
    [
        ("layer_0", "q_multiplier", 32768, "q: multiplier runs from 32768 to 32768; the bound is 0 to 32767"),
        ("layer_1", "down_shift", 12, "down: shift runs from 12 to 12; the bound is 13 to 42"),
        ("layer_1", "out", -128, "out: weights runs from -128"),
        ("layer_0", "mlp_in", 1 << 18, "mlp: multiplier runs from 262144"),
        ("embed", "table", 1 << 31, "residual stream runs from 2147483648"),
    ],
)
def test_broken_bounds_are_reported(part, name, value, message, exact_numpy):
    """A parameter out of range raises an error that names the broken bound."""
    params = golden_model(SMALL)
    params[part] = params[part] | {name: np.full_like(np.asarray(params[part][name], np.int64), value)}
    with pytest.raises(OverflowError, match=message):
        exact_numpy.logits(params, SMALL, golden_inputs(SMALL, 1), check_bounds=True)
