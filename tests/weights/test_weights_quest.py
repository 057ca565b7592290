"""QuEST, the Hadamard transform, VQ and LSQ equal independent NumPy programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compressed_lm import weights
from compressed_lm.weights import grids, hadamard


def _normal(*shape, seed=0):
    return np.array(jax.random.normal(jax.random.key(seed), shape))


def _matrix(length, size):
    """Returns the block-diagonal orthonormal transform, from its definition by bit counts."""
    h = np.array([[(-1) ** (i & j).bit_count() for j in range(size)] for i in range(size)]) / np.sqrt(size)
    return np.kron(np.eye(length // size), h)


@pytest.mark.parametrize("length, size", [(256, 128), (64, 64), (96, 32), (12, 4), (7, 1)])
def test_hadamard_is_orthogonal_and_its_own_inverse(length, size):
    """Blocks are the largest power-of-two divisor of at most 128; the transform is orthogonal and its own inverse."""
    x = _normal(5, length)
    rotated = weights.rotate(x)
    assert hadamard.block_size(length) == size
    np.testing.assert_allclose(rotated, x @ _matrix(length, size), atol=2e-6)
    np.testing.assert_allclose(weights.rotate(rotated), x, atol=2e-6)
    np.testing.assert_allclose(np.sum(rotated**2), np.sum(x**2), rtol=1e-5)


def test_hadamard_cancels_in_a_product():
    """rotate(x) @ rotate(w) equals x @ w, also for quantised operands that stay rotated."""
    x, w = _normal(4, 192), _normal(192, 6, seed=1)
    np.testing.assert_allclose(weights.rotate(x) @ weights.rotate(w, axis=0), x @ w, atol=2e-5)
    rep = weights.representation("int(b=4,rule=quest)")
    half = rep.quantize(x, axis=-1, rotated=True) @ rep.quantize(w, rotated=True)
    np.testing.assert_allclose(half, rep.quantize(x, axis=-1) @ rep.quantize(w), atol=2e-5)


def test_half_hadamard_has_the_same_gradient():
    """Gradients are the same without the inverse transforms."""
    x, w = _normal(4, 64), _normal(64, 6, seed=1)
    rep = weights.representation("int(b=3,rule=quest)")

    def loss(x, w, rotated):
        product = rep.quantize(x, axis=-1, rotated=rotated) @ rep.quantize(w, rotated=rotated)
        return jnp.sum(jnp.sin(product))

    full, half = (jax.grad(loss, argnums=(0, 1))(x, w, rotated) for rotated in (False, True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), full, half)


def _quest(w, levels, gradient, *, size, one_bit=None):
    """Returns value, gradient and trusted share of papers/003 section 5 in float64, for a kernel [inputs, outputs]."""
    h = _matrix(len(w), size)
    x = h @ w
    scale = grids.optimal_scale(levels) * np.sqrt(np.mean(x**2, axis=0, keepdims=True))
    quantized = levels[np.argmin(np.abs(x[..., None] - levels * scale[..., None]), axis=-1)] * scale
    trust = np.abs(x) <= one_bit * levels[-1] * scale if one_bit else None
    half_interval = np.max(np.diff(levels)) / 2
    trust = trust if one_bit else np.abs(quantized - x) <= half_interval * scale
    return h @ quantized, h @ (trust * (h @ gradient)), trust.mean()


@pytest.mark.parametrize(
    "spec, levels, size, one_bit",
    [
        ("int(b=1,rule=quest)", grids.integer_levels(1), 128, 1.30),
        ("int(b=1,rule=quest,hadamard=0)", grids.integer_levels(1), 1, 1.25),
        ("int(b=2,rule=quest)", grids.integer_levels(2), 128, None),
        ("int(b=4,rule=quest)", grids.integer_levels(4), 128, None),
        ("int(b=4,rule=quest,hadamard=32)", grids.integer_levels(4), 32, None),
        ("e2m1(rule=quest)", grids.float_levels(2, 1), 128, None),
        ("ternary(rule=quest)", grids.ternary_levels(), 128, None),
    ],
)
def test_quest_is_as_specified(spec, levels, size, one_bit):
    """Values and masked gradients equal the oracle's, except for less than 1 % affected by the bfloat16 scale."""
    w, gradient = _normal(256, 64), _normal(256, 64, seed=3)
    value, back = jax.vjp(weights.representation(spec).quantize, w)
    oracle_value, oracle_gradient, trusted = _quest(w.astype(np.float64), levels, gradient, size=size, one_bit=one_bit)
    assert 0.5 < trusted < 1
    # One weight that is rounded or trusted differently changes a whole block: compare in the rotated basis.
    h = _matrix(256, size)
    for ours, oracle in ((value, oracle_value), (back(gradient)[0], oracle_gradient)):
        same = np.abs(h @ np.asarray(ours) - h @ oracle) < 0.02
        assert same.mean() > 0.99


def test_trust_mask_follows_the_error():
    """Without a transform, the gradient is 1 if the error is at most half a step of the grid, and 0 otherwise."""
    w = np.concatenate([np.linspace(-1, 1, 255), [6.0]]).astype(np.float32)[:, None]
    rep = weights.representation("int(b=2,rule=quest,hadamard=0)")
    gradient = np.asarray(jax.grad(lambda w: jnp.sum(rep.quantize(w)))(w))[:, 0]
    assert gradient[:-1].tolist() == [1.0] * 255 and gradient[-1] == 0
    ste = weights.representation("int(b=2)")
    assert np.all(jax.grad(lambda w: jnp.sum(ste.quantize(w)))(w) == 1)


def test_vq_trusts_within_its_sphere():
    """A vector far outside the codebook gets no gradient, the others get the full gradient."""
    w = _normal(64, 4)
    w[8:10, 1] = 30.0
    rep = weights.representation("vq(dim=2,bits=3,hadamard=0)")
    gradient = np.asarray(jax.grad(lambda w: jnp.sum(rep.quantize(w)))(w))
    assert gradient[8:10, 1].tolist() == [0, 0] and gradient.sum() == 64 * 4 - 2


def test_vq_takes_the_nearest_code():
    """The chosen codes equal those of a full search in NumPy."""
    from compressed_lm.weights import codebooks

    w = _normal(128, 2)
    quantized = np.asarray(weights.representation("vq(dim=4,bits=2,hadamard=0)").quantize(w))
    codes, rms = codebooks.codebook(4, 256), np.sqrt(np.mean(w**2, axis=0))
    for column in range(2):
        vectors = (w[:, column] / rms[column]).reshape(-1, 4)
        best = codes[np.argmin(np.sum((vectors[:, None] - codes) ** 2, axis=-1), axis=1)]
        same = np.abs(quantized[:, column].reshape(-1, 4) - best * rms[column]) < 0.02
        assert same.all(axis=1).mean() > 0.9  # the others are between two codes, and the bfloat16 scale decides


def test_lsq_gradients_are_those_of_the_paper():
    """Gradients of given weights inside and outside the grid equal equations 3 and 5 of Esser et al. 2020."""
    rep = weights.representation("int(b=2,rule=lsq)")
    w = jnp.array([[0.3], [-0.9], [1.4], [5.0], [-7.0]])
    scale = jnp.array(0.5)  # levels -1.5, -0.5, 0.5, 1.5
    value, back = jax.vjp(lambda w, s: rep.quantize(w, params={"scale": s}), w, scale)
    assert value[:, 0].tolist() == [0.5, -0.5, 1.5, 1.5, -1.5]
    to_w, to_scale = back(jnp.ones((5, 1)))
    assert to_w[:, 0].tolist() == [1, 1, 1, 0, 0]
    rounding_errors = [1 - 0.6, -1 + 1.8, 3 - 2.8, 3, -3]
    assert float(to_scale) == pytest.approx(sum(rounding_errors) / np.sqrt(5 * 3), rel=1e-5)


def test_lsq_starts_at_the_best_scale_and_can_improve_it():
    """`init_params` returns one scale per kernel of a stack, and gradient descent on the error improves a bad scale."""
    rep, w = weights.representation("int(b=3,rule=lsq)"), jnp.asarray(_normal(3, 256, 16))
    params = rep.init_params(w)
    assert params["scale"].shape == (3,)
    error = jax.jit(lambda p: jnp.mean((rep.quantize(w, params=p) - w) ** 2))
    assert float(error(params)) == pytest.approx(rep.gmse(), rel=0.05)
    bad = {"scale": params["scale"] * 1.5}
    start = float(error(bad))
    for _ in range(200):
        bad = jax.tree.map(lambda p, g: p - 30 * g, bad, jax.grad(error)(bad))
    assert float(error(bad)) < 0.6 * start


def test_other_rules_add_no_parameters():
    """`init_params` is empty except for rule=lsq."""
    assert weights.representation("int(b=4,rule=quest)").init_params(jnp.ones((4, 4))) == {}
    assert set(weights.representation("nm+int(b=4,rule=lsq)").init_params(jnp.ones((4, 4)))) == {"scale"}
    assert weights.representation("int(b=4,rule=lsq)").init_params(jnp.ones((2, 3, 8)), axis=-1)["scale"].shape == ()
