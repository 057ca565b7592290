"""Generalized-Gaussian initial weights: variances are unchanged, shapes are as given, and 0 changes nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compressed_lm import models, training
from compressed_lm.errors import InputError
from compressed_lm.weights.gennorm import fit_mle

SMALL = dict(vocab_size=16, d_model=12, n_layers=2, n_heads=3, d_head=4, d_ff=20, n_buckets=6, max_distance=8)
DRAWN = {
    "embed/embedding": (0.18385935, 43.455910),
    "layers/attention/k/kernel": (-0.25163278, 67.246475),
    "layers/attention/out/kernel": (-0.10681406, 35.467152),
    "layers/attention/q/kernel": (0.03560223, 68.399040),
    "layers/attention/relative_bias/embedding": (0.02066224, 0.55219680),
    "layers/attention/v/kernel": (0.03770941, 72.656876),
    "layers/mlp/down/kernel": (0.01169829, 45.215881),
    "layers/mlp/gate/kernel": (-0.18798117, 113.21939),
    "layers/mlp/up/kernel": (-0.6467754, 113.83203),
    "unembed/kernel": (0.181184, 43.763103),
}
"""The first number and the sum of magnitudes of each matrix of SMALL."""
WIDE = models.TransformerConfig(vocab_size=200, d_model=64, n_layers=2, n_heads=2, d_head=32, d_ff=256, gated_mlp=False)


def initial(config, **jit):
    """Returns the initial parameters by name."""
    init = jax.jit(models.Transformer(config).init, **jit)
    params = init(jax.random.key(3), jnp.zeros((1, 1), jnp.int32))["params"]
    return {"/".join(k.key for k in path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(params)}


def test_without_a_shape_the_weights_are_those_of_before():
    """`init_shape=0` draws the recorded numbers, except for rounding differences between processors."""
    matrices = {name: leaf for name, leaf in initial(models.TransformerConfig(**SMALL)).items() if "norm" not in name}
    found = {name: (float(leaf.flat[0]), float(np.abs(leaf).sum())) for name, leaf in matrices.items()}
    assert found.keys() == DRAWN.keys()
    for name, numbers in DRAWN.items():
        assert found[name] == pytest.approx(numbers, rel=1e-4), name


@pytest.fixture(
    scope="module", params=[0.5, pytest.param(1.0, marks=pytest.mark.slow("initialises models on several meshes"))]
)
def shaped(request):
    """(shape, parameters drawn with it)."""
    return request.param, initial(dataclasses.replace(WIDE, init_shape=request.param))


@pytest.mark.slow("initialises models on several meshes")
def test_every_matrix_has_the_shape_and_the_variance_it_had(shaped):
    """Kernels have the given shape and the variance gain / fan_in within six standard errors.

    Embeddings, biases and norms are unchanged to the bit.
    """
    shape, found = shaped
    before = initial(WIDE)
    gains = {name: 0.5 / 2 if "/out/" in name or "/down/" in name else 1.0 for name in found}
    kurtosis = {0.5: 25.2, 1.0: 6.0}[shape]
    kernels = [name for name in found if name.endswith("kernel")]
    assert len(kernels) == 7 and "unembed/kernel" in kernels
    for name, w in found.items():
        if name not in kernels:
            np.testing.assert_array_equal(w, before[name])
            continue
        variance = gains[name] / w.shape[-2]
        assert np.mean(w.astype(float) ** 2) == pytest.approx(variance, rel=6 * np.sqrt((kurtosis - 1) / w.size)), name
        assert before[name].std() == pytest.approx(np.sqrt(variance), rel=0.05)
        assert fit_mle(w).shape == pytest.approx(shape, rel=0.1), name
        if name.startswith("layers/"):
            assert not np.array_equal(w[0], w[1])


@pytest.mark.slow("initialises models on several meshes")
def test_a_sharded_model_starts_from_the_same_bits(shaped):
    """Parameters drawn on a mesh of eight devices are those drawn on one."""
    shape, alone = shaped
    config = dataclasses.replace(WIDE, init_shape=shape)
    mesh = training.make_mesh((2, 2, 2))
    shapes = jax.eval_shape(models.Transformer(config).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    with jax.set_mesh(mesh):
        found = initial(config, out_shardings={"params": training.mesh.shardings(shapes["params"], mesh)})
    for name, w in found.items():
        np.testing.assert_array_equal(w, alone[name], err_msg=name)


def test_a_shape_is_written_and_checked():
    """Whole numbers become floats, so equal runs have equal records; negative and tiny shapes are refused."""
    assert dataclasses.asdict(dataclasses.replace(WIDE, init_shape=1))["init_shape"] == 1.0
    assert isinstance(dataclasses.replace(WIDE, init_shape=1).init_shape, float)
    for shape in (-1.0, 0.01, float("inf"), float("nan")):
        with pytest.raises(
            InputError, match=f"init_shape={shape} was given; expected (the shape .* or 0 for a trunc|a finite number)"
        ):
            dataclasses.replace(WIDE, init_shape=shape)


def test_records_of_before_still_make_a_model():
    """A config.json without the field gives the truncated normal."""
    record = {k: v for k, v in dataclasses.asdict(WIDE).items() if k != "init_shape"}
    assert models.TransformerConfig(**record).init_shape == 0.0
