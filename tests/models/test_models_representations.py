"""Representations of weights and activations, selected by the config."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compressed_lm import models, weights
from compressed_lm.errors import InputError

CONFIG = models.TransformerConfig(vocab_size=40, d_model=32, n_layers=2, n_heads=2, d_head=16, d_ff=64)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 40, (2, 12)))


def changed(**changes):
    config = dataclasses.replace(CONFIG, **changes)
    model = models.Transformer(config)
    return model, model.init(jax.random.key(0), TOKENS)["params"]


@pytest.mark.slow("compiles a model for each setting")
@pytest.mark.parametrize("spec", ["int(b=4)", "int(b=2,rule=quest)", "e2m1", "mxfp4", "sparse(s=0.5)+int(b=4)"])
def test_the_matrices_of_the_blocks_are_what_the_format_makes_of_them(spec):
    """A model with a format equals a dense model with the quantised matrices; nothing else changes."""
    model, params = changed(weights=spec)
    form = weights.representation(spec)
    by_hand = jax.tree.map_with_path(
        lambda path, x: form.quantize(x) if path[0].key == "layers" and path[-1].key == "kernel" else x, params
    )
    expected = models.Transformer(CONFIG).apply({"params": by_hand}, TOKENS)
    found = model.apply({"params": params}, TOKENS)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - models.Transformer(CONFIG).apply({"params": params}, TOKENS)).max() > 1e-2


@pytest.mark.slow("compiles a model for each setting")
@pytest.mark.parametrize("spec", ["int(b=8,scale=absmax)", "int(b=8,rule=quest)"])
def test_eight_bits_of_both_are_nearly_exact(spec):
    """Weights and activations of 8 bits, with and without a Hadamard transform, change logits by less than 5 %."""
    model, params = changed(weights=spec, activations=spec)
    dense = models.Transformer(CONFIG).apply({"params": params}, TOKENS)
    error = model.apply({"params": params}, TOKENS) - dense
    assert float(jnp.sqrt(jnp.mean(error**2) / jnp.mean(dense**2))) < 0.05


@pytest.mark.slow("compiles a model for each setting")
@pytest.mark.parametrize("scan_layers", [False, True])
def test_noise_is_fresh_with_each_key_and_differs_between_layers(scan_layers):
    """The key determines the noise; without a key it is constant; scanned and unrolled layers draw the same noise."""
    model, params = changed(weights="noise(gmse=0.01)", scan_layers=scan_layers)
    one, again = (model.apply({"params": params}, TOKENS, key=jax.random.key(1)) for _ in range(2))
    other = model.apply({"params": params}, TOKENS, key=jax.random.key(2))
    np.testing.assert_array_equal(one, again)
    assert float(jnp.abs(one - other).max()) > 1e-3
    default = [model.apply({"params": params}, TOKENS) for _ in range(2)]
    np.testing.assert_array_equal(*default)
    unrolled = models.Transformer(dataclasses.replace(model.config, scan_layers=not scan_layers))
    np.testing.assert_allclose(unrolled.apply({"params": params}, TOKENS, key=jax.random.key(1)), one, atol=1e-4)


@pytest.mark.slow("compiles a model for each setting")
def test_a_ramp_follows_the_run():
    """Sparsity with a ramp is zero at the start of a run and full at its end; full is the default of a model."""
    model, params = changed(weights="sparse(s=0.8,ramp=0.5)")
    at = {progress: model.apply({"params": params}, TOKENS, progress=progress) for progress in (0.0, 0.1, 0.5, 1.0)}
    dense = models.Transformer(CONFIG).apply({"params": params}, TOKENS)
    np.testing.assert_allclose(at[0.0], dense, atol=1e-5)
    np.testing.assert_array_equal(at[1.0], at[0.5])
    np.testing.assert_array_equal(at[1.0], model.apply({"params": params}, TOKENS))
    assert float(jnp.abs(at[0.1] - dense).max()) > 1e-2 < float(jnp.abs(at[0.1] - at[1.0]).max())


@pytest.mark.slow("compiles a model for each setting")
def test_learned_steps_are_parameters_with_gradients():
    """rule=lsq adds a trained scale for each matrix and each layer's inputs, positive at the start."""
    model, params = changed(weights="int(b=4,rule=lsq)", activations="int(b=4,rule=lsq)")
    up = params["layers"]["mlp"]["up"]
    assert up["weights_scale"].shape == up["activations_scale"].shape == (2,)
    assert float(up["activations_scale"].min()) > 1e-3
    gradient = jax.grad(lambda p: jnp.sum(model.apply({"params": p}, TOKENS) ** 2))(params)
    assert all(
        float(jnp.abs(gradient["layers"]["mlp"]["up"][f"{what}_scale"]).min()) > 0
        for what in ("weights", "activations")
    )


def test_equal_formats_have_one_spec_and_wrong_ones_are_refused():
    """Equivalent specs give equal configs; the error for a wrong spec lists the valid names."""
    assert dataclasses.replace(CONFIG, weights=" int( b=4 ) ") == dataclasses.replace(CONFIG, weights="int(b=4)")
    with pytest.raises(InputError, match="Did you mean int"):
        dataclasses.replace(CONFIG, weights="imt(b=4)")


@pytest.mark.slow("compiles a model for each setting")
@pytest.mark.parametrize(
    "weights, activations", [("int(b=4,rule=quest)", "int(b=8,rule=quest)"), ("noise(gmse=0.01)", "dense")]
)
def test_a_step_with_a_cache_quantises_as_the_whole_pass(weights, activations):
    """Steps with a cache equal the whole pass: activation scales belong to single tokens, noise is constant."""
    model, params = changed(weights=weights, activations=activations)
    whole, cache = model.apply({"params": params}, TOKENS), models.init_cache(CONFIG, 2, 12)
    for t in range(12):
        logits, cache = model.apply({"params": params}, TOKENS[:, t], jnp.full(2, t), cache, method=model.step)
        np.testing.assert_allclose(logits, whole[:, t], atol=2e-2)
