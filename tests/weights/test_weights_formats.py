"""Properties of all representations, and the published errors of papers/003."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compressed_lm import weights
from compressed_lm.errors import InputError


def _normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def _quantize(spec, w, **settings):
    rep = weights.representation(spec)
    params = rep.init_params(w, axis=settings.get("axis", -2))
    return rep.quantize(w, key=jax.random.key(5), params=params, **settings)


@pytest.mark.parametrize(
    "spec, gmse",
    [
        ("int(b=4)", 0.0115429),
        ("int(b=1,rule=quest)", 0.363380),
        ("int(b=2,rule=lsq)", 0.118846),
        ("ternary", 0.190174),
        ("e2m1", 0.0126849),
        ("e4m3", 6.987e-4),
        ("lloyd(levels=16)", 9.50101e-3),
        ("mxfp4", 1.3215e-2),
        ("mxfp4(scale=best)", 1.2446e-2),
        ("nvfp4", 9.036e-3),
        ("int(b=4,scale=absmax,g=16)", 6.32e-3),
        ("int(b=4,scale=absmax,g=128)", 1.199e-2),
        ("sparse(s=0.1)", 5.2525e-4),
        ("sparse(s=0.25)", 8.3469e-3),
        ("sparse(s=0.5)", 0.0713259),
        ("sparse(s=0.75)", 0.276393),
        ("sparse(s=0.8)", 0.350180),
        ("sparse(s=0.9)", 0.560714),
        ("nm", 0.1322),
        ("nm(n=4,m=8)", 0.1032),
        ("nm(n=1,m=2)", 0.1814),
        ("nm(n=1,m=4)", 0.3821),
        ("noise(gmse=0.25)", 0.25),
        ("dense", 0),
    ],
)
def test_gmse_is_the_published_one(spec, gmse):
    """GMSE equals that of papers/003 section 4 to 1 %, plus three standard errors for Monte Carlo."""
    value, error = weights.representation(spec).gmse_with_error()
    assert abs(value - gmse) <= 0.01 * gmse + 3 * error
    assert error <= 0.004 * value


@pytest.mark.thinned(6, "compiles each format")
def test_gmse_is_the_error_of_quantize(spec_of_all):
    """GMSE equals the error of `quantize` on a Gaussian matrix of another seed."""
    rep = weights.representation(spec_of_all)
    # The error of abs-max over whole rows depends on their length: `gmse` uses rows of 1024.
    w = _normal(4, 1024, 64, seed=9) if spec_of_all == "int(b=3,scale=absmax)" else _normal(4096, 64, seed=9)
    measured = float(jnp.mean((_quantize(spec_of_all, w) - w) ** 2))
    expected, error = rep.gmse_with_error()
    # Formats such as int(b=8) clip the tails, so their sampling error is the largest.
    assert measured == pytest.approx(expected, rel=0.02 if expected > 1e-3 else 0.05, abs=1e-12 + 4 * error)


@pytest.mark.thinned(2, "compiles each format")
def test_quantize_is_the_same_under_every_transformation(spec_of_all):
    """Values are the same without jit, under jit, vmap and scan, and for a stack; shape and dtype are kept."""
    rep = weights.representation(spec_of_all)
    run = lambda w, p: rep.quantize(w, key=jax.random.key(1), params=p)  # noqa: E731
    stack = _normal(2, 48, 6)
    params = jax.vmap(rep.init_params)(stack)
    alone = jnp.stack([run(w, jax.tree.map(lambda p, i=i: p[i], params)) for i, w in enumerate(stack)])
    tolerance = 1e-6 if "noise" in spec_of_all else 0  # a fused multiply-add rounds once
    np.testing.assert_allclose(jax.jit(jax.vmap(run))(stack, params), alone, rtol=0, atol=tolerance)
    _, scanned = jax.lax.scan(lambda carry, layer: (carry, run(*layer)), 0, (stack, params))
    np.testing.assert_allclose(scanned, alone, rtol=0, atol=tolerance)
    if not tolerance:
        np.testing.assert_array_equal(run(stack, params), alone)
    half = stack.astype(jnp.bfloat16)
    assert jax.eval_shape(run, half, params) == jax.ShapeDtypeStruct(half.shape, jnp.bfloat16)
    x = jax.ShapeDtypeStruct((3, 5, 48), jnp.bfloat16)
    assert jax.eval_shape(lambda x: _quantize(spec_of_all, x, axis=-1), x) == x


@pytest.mark.thinned(8, "compiles each format")
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gradients_are_finite(spec_of_all, dtype):
    """Zeros, tiny and huge weights give no NaN in the forward or backward pass."""
    loss = jax.jit(jax.value_and_grad(lambda w: jnp.sum(_quantize(spec_of_all, w).astype(jnp.float32))))
    for w in (jnp.zeros((32, 4)), _normal(32, 4) * 1e-37, _normal(32, 4) * 1e15):
        w = w.astype(dtype)
        value, gradient = loss(w)
        assert jnp.isfinite(value) and jnp.all(jnp.isfinite(gradient))
    if "noise" not in spec_of_all and "lsq" not in spec_of_all:  # a trained scale does not follow the weights
        assert not np.any(_quantize(spec_of_all, jnp.zeros((32, 4), dtype)))


@pytest.mark.parametrize("spec, levels", [("int(b=3)", 8), ("ternary", 3), ("e2m1", 15), ("lloyd(levels=6)", 6)])
def test_the_nearest_level_is_chosen(spec, levels):
    """Each value is the nearest level of its row."""
    rep = weights.representation(spec)
    w = np.asarray(_normal(512, 3))
    quantized = np.asarray(rep.quantize(w))
    rms = np.sqrt(np.mean(w.astype(np.float64) ** 2, axis=0))
    from compressed_lm.weights import grids

    for column in range(3):
        own = rep.grid() * grids.optimal_scale(rep.grid()) * rms[column]
        distance = np.abs(quantized[:, column, None] - own[None])
        assert np.all(distance.min(axis=1) < 0.01 * own[-1])  # the scale is rounded to bfloat16
        best = np.abs(w[:, column, None] - own[None]).min(axis=1)
        assert np.all(np.abs(w[:, column] - quantized[:, column]) < best + 0.01 * own[-1])
        assert len(np.unique(quantized[:, column])) == levels


def test_scales_follow_the_reduction_axis():
    """Kernels have a scale per output and activations one per vector: scaling one of them scales its values."""
    rep, w = weights.representation("int(b=4)"), _normal(64, 3)
    factors = jnp.array([[1.0, 1024.0, 0.125]])
    np.testing.assert_array_equal(rep.quantize(w * factors), rep.quantize(w) * factors)
    np.testing.assert_array_equal(rep.quantize((w * factors).T, axis=-1), rep.quantize(w * factors).T)


@pytest.mark.parametrize(
    "spec, bits",
    [
        ("dense", 32),
        ("dense(dtype=bfloat16)", 16),
        ("int(b=4)", 4 + 16 / 256),
        ("int(b=4,scale=absmax,g=32)", 4.5),
        ("int(b=4,rule=lsq)", 4 + 32 / 65536),
        ("ternary", 1.6 + 16 / 256),
        ("e4m3", 8 + 16 / 256),
        ("mxfp4", 4.25),
        ("nvfp4", 4.5 + 32 / 65536),
        ("vq(dim=4,bits=2.5)", 2.5 + 16 / 256),
        ("sparse(s=0.5)+dense(dtype=bfloat16)", 1 + 8),
        ("sparse(s=0.5)+int(b=4)", 1 + 2 + 16 / 256),
        ("nm+int(b=4)", 3 / 4 + 2 + 16 / 256),
        ("nm(n=4,m=8)+dense(dtype=bfloat16)", 7 / 8 + 8),
        ("nm(n=4,m=8,block=2)+dense(dtype=bfloat16)", 3 / 8 + 8),
    ],
)
def test_bits_per_weight_counts_codes_scales_and_masks(spec, bits):
    """Bits per weight of a 256 x 256 kernel equal those computed by hand."""
    assert weights.representation(spec).bits_per_weight((256, 256)) == pytest.approx(bits, rel=1e-4)


@pytest.mark.parametrize(
    "spec",
    ["sparse(s=0.5)+int(b=4)", "nm+nvfp4", "sparse(s=0.9)+mxfp4", "sparse(s=0.3)+ternary", "nm+int(b=1,rule=lsq)"],
)
def test_hybrids_keep_zeros(spec):
    """Pruned weights stay exactly zero, and kept weights are quantised by the format."""
    first, second = spec.split("+")
    w = _normal(96, 10)
    zeros = np.asarray(weights.representation(first).quantize(w)) == 0
    hybrid = np.asarray(_quantize(spec, w))
    assert np.all(hybrid[zeros] == 0) and zeros.sum() > 200
    if second != "ternary":
        assert np.mean(hybrid[~zeros] != 0) > 0.9


def test_a_hybrid_scales_by_kept_weights():
    """The factor is the best one for the kept part of a Gaussian: other scales have larger errors."""
    rep, w = weights.representation("sparse(s=0.8)+int(b=2)"), _normal(2048, 32)
    error = float(jnp.mean((rep.quantize(w) - w) ** 2))
    mask = np.asarray(weights.representation("sparse(s=0.8)").quantize(w)) != 0
    values = np.abs(np.asarray(rep.quantize(w)))
    for factor in (0.93, 1.07):
        small, large = values.min(where=mask, initial=9) * factor, values.max() * factor
        nearest = np.where(np.abs(np.abs(w) - small) < np.abs(np.abs(w) - large), small, large)
        assert np.mean((np.sign(w) * nearest * mask - w) ** 2) > error


def test_noise_has_the_error_it_names():
    """Each key gives new noise of variance gmse * var(row), and the gradient is the identity's for long rows."""
    rep, w = weights.representation("noise(gmse=0.04)"), _normal(4096, 8) * 3
    first, second = (rep.quantize(w, key=jax.random.key(k)) for k in (0, 1))
    assert float(jnp.mean((first - w) ** 2)) == pytest.approx(0.04 * 9, rel=0.05)
    assert float(jnp.mean((first - second) ** 2)) == pytest.approx(0.08 * 9, rel=0.05)
    gradient = jax.grad(lambda w: jnp.sum(rep.quantize(w, key=jax.random.key(0)) * w))(w)
    assert float(jnp.mean((gradient - first - w) ** 2)) < 0.01


def test_outliers_are_exact_to_bfloat16():
    """The largest weights are stored as bfloat16 and do not affect the scales of the others."""
    w = _normal(64, 64).at[3, 4].set(1000.0)
    rep = weights.representation("outlier(p=0.01,b=4,g=32)")
    quantized = rep.quantize(w)
    assert float(quantized[3, 4]) == 1000.0
    assert float(jnp.mean((quantized - w) ** 2)) < 0.01
    plain = weights.representation("int(b=4,scale=absmax,g=32)").quantize(w)
    assert float(jnp.mean((plain - w) ** 2)) > 1


@pytest.mark.parametrize(
    "given, message",
    [
        (lambda: weights.representation("int(b=4)").quantize(jnp.ones(4)), "at least 2 dimensions. Use axis=-1"),
        (
            lambda: weights.representation("int(b=4)").quantize(jnp.ones((4, 4)), axis=0),
            "axis=0 was given; expected -2",
        ),
        (lambda: weights.representation("int(b=4)").quantize(jnp.ones((4, 4), int)), "floating-point"),
        (lambda: weights.representation("noise(gmse=0.1)").quantize(jnp.ones((4, 4))), "Pass key="),
        (lambda: weights.representation("int(b=4,rule=lsq)").quantize(jnp.ones((4, 4))), "init_params"),
        (lambda: weights.representation("int(b=4)").quantize(jnp.ones((4, 4)), rotated=True), "no Hadamard"),
        (lambda: weights.pack(jnp.ones((4, 4)), "noise(gmse=0.1)"), "cannot be stored"),
        (lambda: weights.representation("noise(gmse=0.1)").bits_per_weight((4, 4)), "cannot be stored"),
    ],
)
def test_errors_say_what_to_do(given, message):
    """Each misuse raises an InputError that describes it."""
    with pytest.raises(InputError, match=message):
        given()
