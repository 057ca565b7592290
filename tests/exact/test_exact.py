"""Exact inference: integers that depend only on the weights and are close to the float model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compressed_lm import exact
from compressed_lm.coding import tables
from compressed_lm.errors import InputError
from compressed_lm.exact import calibration, device
from compressed_lm.exact import integer_ops as ops
from compressed_lm.models import Transformer, TransformerConfig, shift_right

CONFIG = TransformerConfig(vocab_size=264, d_model=32, n_layers=2, n_heads=2, d_head=16, d_ff=64)


@pytest.fixture(scope="module")
def model():
    params = Transformer(CONFIG).init(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))["params"]
    rows = np.random.default_rng(0).integers(0, 256, (8, 48))
    inputs = np.asarray(shift_right(jnp.asarray(rows, jnp.int32), 256))
    return params, *calibration.quantise(params, CONFIG, inputs, context=64), inputs


@pytest.mark.slow("compiles exact inference for several settings")
def test_close_to_the_float_model(model):
    """Quantised logits are within 5 % of the float ones even with random weights and width 32, the hardest case."""
    params, integers, config, inputs = model
    float_logits = Transformer(CONFIG).apply({"params": params}, inputs)[..., : exact.N_SYMBOLS] / np.log(2)
    logits = np.asarray(device.forward(integers, config, inputs)) / 2**ops.FRACTION_BITS
    assert np.abs(logits - float_logits).mean() < 0.05 * np.abs(float_logits).mean()


def test_step_equals_forward_for_slots_that_start_at_different_times(model):
    """The cached loop gives the teacher-forced logits bit for bit, also after restarts."""
    _, integers, config, inputs = model
    wanted = np.asarray(device.forward(integers, config, inputs))
    step = jax.jit(lambda *args: device.step(integers, config, *args))
    cache = device.init_cache(config, 8, 50)
    cache = jax.tree.map(lambda x: x + 77, cache)  # a slot that starts at 0 must not read old content
    for time in range(100):
        clock = time + 5 * np.arange(8)
        positions = (clock % 48).astype(np.int32)
        got, cache = step(inputs[np.arange(8), positions], positions, cache)
        started = clock - positions > 0  # back at 0 at least once
        np.testing.assert_array_equal(np.asarray(got)[started], wanted[np.arange(8), positions][started])


@pytest.mark.slow("compiles exact inference for several settings")
def test_bits_do_not_depend_on_batch_length_jit_or_devices(model):
    """Single rows, shorter rows, no jit and several devices give the same integers."""
    _, integers, config, inputs = model
    forward = lambda x: device.forward(integers, config, x)  # noqa: E731
    wanted = np.asarray(jax.jit(forward)(inputs))
    np.testing.assert_array_equal(np.asarray(jax.jit(forward)(inputs[3:4]))[0], wanted[3])
    np.testing.assert_array_equal(np.asarray(jax.jit(forward)(inputs[:, :17])), wanted[:, :17])
    np.testing.assert_array_equal(np.asarray(jax.pmap(forward)(inputs[:, None]))[:, 0], wanted)
    with jax.disable_jit():
        np.testing.assert_array_equal(np.asarray(forward(inputs[:2, :9])), wanted[:2, :9])


def test_tables_sum_exactly_and_follow_the_logits():
    """Tables of arbitrary logits sum to 2**16 without zeros, and weights are 2**-x within 4 / 2**15."""
    rng = np.random.default_rng(5)
    logits = rng.integers(-3000, 3000, (3, 257)).astype(np.int32)
    freqs = np.asarray(tables.frequencies(device.weights_of(jnp.asarray(logits)), xp=jnp))
    assert (freqs.sum(-1) == 65536).all() and freqs.min() >= 1
    reference = np.floor(2.0**15 * 2.0 ** ((logits - logits.max(-1, keepdims=True)) / 256) + 0.5)
    assert np.abs(np.asarray(device.weights_of(jnp.asarray(logits))) - reference).max() <= 4


def test_integer_ops_equal_python_integers():
    """The results of rescale, isqrt and normalise equal their formulas, also at the limits of their range."""
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.integers(-(2**27), 2**27, 500), [0, 1, -1, 2**28 - 1, -(2**28) + 1]]).astype(np.int32)
    m = np.concatenate([rng.integers(0, 2**15, 504), [32767]]).astype(np.int32)
    for shift in (13, 14, 20, 42):
        got = np.asarray(ops.rescale(jnp.asarray(x), jnp.asarray(m), shift))
        exact_value = [(int(a) * int(b) + (1 << shift - 1)) / 2**shift for a, b in zip(x, m, strict=True)]
        assert np.abs(got - np.floor(exact_value)).max() <= 1
    squares = np.array([0, 1, 2, 3, 4, 2**30, 2**32 - 1, 65535**2, 65535**2 - 1], np.uint32)
    assert np.asarray(ops.isqrt(jnp.asarray(squares))).tolist() == [0, 1, 1, 1, 2, 32768, 65535, 65535, 65534]
    h = jnp.asarray(rng.integers(-50000, 50000, (4, 64)), jnp.int32)
    got = np.asarray(ops.normalise(h, jnp.full(64, 200)))
    norm = np.linalg.norm(np.asarray(h, np.float64), axis=-1, keepdims=True)
    assert np.abs(got - np.clip(200 * np.asarray(h) / norm, -127, 127)).max() <= 1
    assert np.asarray(ops.normalise(jnp.zeros((1, 64), jnp.int32), jnp.full(64, 200))).tolist() == [[0] * 64]


def test_exp2_is_accurate_monotone_and_ends_in_zero():
    """The integer exponential equals 2**-x within 2e-4 of its value at 0 and never rises."""
    x = np.arange(0, 20 * 256)
    got = np.asarray(ops.exp2_negative(jnp.asarray(x)))
    assert np.abs(got / 2**15 - 2.0 ** (-x / 256)).max() < 2e-4
    assert (np.diff(got) <= 0).all() and got[0] == 2**15 and got[-1] == 0
    assert np.asarray(ops.exp2_negative(jnp.asarray([2**30]))).tolist() == [0]


def test_models_outside_the_bounds_are_refused():
    """Rotary, ungated and too wide models are refused; the error lists all reasons."""
    config = TransformerConfig(vocab_size=264, d_model=2048, position="rotary", gated_mlp=False)
    with pytest.raises(InputError, match=r"position=rotary.*gated_mlp=False.*d_model=2048 \(at most 1024\)"):
        exact.check_exactable(config, 64)
