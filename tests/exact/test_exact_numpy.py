"""Exact inference in JAX equals the same formulas in 64-bit NumPy, within checked bounds and with recorded tables."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compressed_lm.coding import tables
from compressed_lm.exact import calibration, device
from compressed_lm.exact import integer_ops as ops
from compressed_lm.models import Transformer, TransformerConfig, shift_right

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from exact_golden import SMALL, SMALL_TABLES, WIDE, WIDE_TABLES, digest, golden_inputs, golden_model  # noqa: E402


def jax_frequencies(params, config, inputs) -> np.ndarray:
    run = jax.jit(lambda p, x: tables.frequencies(device.weights_of(device.forward(p, config, x)), xp=jnp))
    return np.asarray(run(jax.tree.map(jnp.asarray, params), inputs))


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
    integers, shape = calibration.quantise(params, config, inputs, context=64)
    wanted = exact_numpy.logits(integers, shape, inputs, check_bounds=True)
    np.testing.assert_array_equal(
        np.asarray(jax.jit(device.forward, static_argnums=1)(integers, shape, inputs)), wanted
    )


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
