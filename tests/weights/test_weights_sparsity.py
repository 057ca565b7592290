"""Masks, schedules and gradients of sparse representations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from compressed_lm import weights
from compressed_lm.errors import InputError
from compressed_lm.weights.sparsity import magnitude_mask

NORMAL = stats.norm.ppf((np.arange(10_000) + 0.5) / 10_000).astype(np.float32)[:, None]  # quantiles: RMS 1, sorted


def _gradient(spec, w):
    rep = weights.representation(spec)
    return np.asarray(jax.grad(lambda w: jnp.sum(rep.quantize(w)))(w))


@pytest.mark.parametrize("ones", [0, 1, 7, 59, 60])
def test_magnitude_mask_keeps_exactly_the_given_number(ones):
    """The mask has the largest magnitudes of each matrix, as found by a sort, with ties broken by place."""
    w = np.round(np.asarray(jax.random.normal(jax.random.key(0), (3, 6, 10))) * 2) / 2
    mask, threshold = magnitude_mask(jnp.asarray(w), ones)
    for matrix, keep, least in zip(w, mask, threshold, strict=True):
        order = np.argsort(-np.abs(matrix).reshape(-1), kind="stable")
        expected = np.zeros(60, bool)
        expected[order[:ones]] = True
        assert np.array_equal(np.asarray(keep).reshape(-1), expected)
        if ones:
            assert float(least[0, 0]) == np.abs(matrix).reshape(-1)[order[ones - 1]]


def test_magnitude_mask_of_zeros_and_of_a_traced_count():
    """A matrix of zeros also gets the exact number, and the number may be traced, as in a schedule."""
    assert magnitude_mask(jnp.zeros((5, 8)), 13)[0].sum() == 13
    counts = jax.jit(jax.vmap(lambda n: magnitude_mask(jnp.ones((5, 8)), n)[0].sum()))(jnp.arange(41))
    assert counts.tolist() == list(range(41))


@pytest.mark.slow("compiles each format")
def test_a_ramp_sets_the_share_of_zeros():
    """The share of zeros rises from 0 to s as a cubic, inside jit, with and without a quantiser."""
    w = jax.random.normal(jax.random.key(0), (20, 10))
    for spec in ("sparse(s=0.8,ramp=0.5)", "sparse(s=0.8,rule=area_rbbm,ramp=0.5)+int(b=4)"):
        rep = weights.representation(spec)

        @jax.jit
        def zeros(progress, rep=rep):
            return jnp.sum(rep.quantize(w, params=rep.schedule(progress)) == 0)

        assert [int(zeros(progress)) for progress in (0, 0.25, 0.5, 1)] == [0, 140, 160, 160]
        assert int(jnp.sum(rep.quantize(w) == 0)) == 160
    assert (
        weights.representation("sparse(s=0.8)").schedule(0.1) == weights.representation("int(b=4)").schedule(0.1) == {}
    )
    with pytest.raises(InputError, match="only sparse has a schedule"):
        weights.representation("nm").quantize(w, params={"sparsity": 0.5})


def test_sparsity_belongs_to_matrices():
    """Each kernel of a stack, and each activation vector, has its own share of zeros."""
    scaled = jax.random.normal(jax.random.key(0), (3, 20, 10)) * jnp.array([1.0, 10, 100])[:, None, None]
    rep = weights.representation("sparse(s=0.75)")
    assert np.count_nonzero(rep.quantize(scaled), axis=(1, 2)).tolist() == [50, 50, 50]
    assert np.count_nonzero(rep.quantize(scaled[:, :, :8], axis=-1), axis=-1).tolist() == [[2] * 20] * 3


def test_nm_keeps_the_largest_of_each_group_along_the_reduction_axis():
    """In a given kernel, two of four inputs are kept for each output, and as many as exist of a shorter group."""
    w = jnp.array([[1.0, -8.0, 3.0, 2.0, 0.5, 0.125], [4.0, 4.0, 4.0, 4.0, 0.0, 2.0]]).T
    assert weights.representation("nm").quantize(w).T.tolist() == [[0, -8, 3, 0, 0.5, 0.125], [4, 4, 0, 0, 0, 2]]
    assert weights.representation("nm(n=1,m=3)").quantize(w).T.tolist() == [[0, -8, 0, 2, 0, 0], [4, 0, 0, 4, 0, 0]]
    assert weights.representation("nm").quantize(w.T, axis=-1).tolist()[0] == [0, -8, 3, 0, 0.5, 0.125]


def test_pairs_are_kept_or_dropped_together():
    """Two pairs of four are kept by the sum of their squares, and the last weight of an odd row is kept.

    GMSE, an integral, equals the error of a million weights.
    """
    w = jnp.array([[3.0, 3.0, 4.0, 0.0, 0.0, 5.0, 1.0, 1.0, 0.5, 0.5, 0.1]])
    rep = weights.representation("nm(n=4,m=8,block=2)")
    assert rep.quantize(w, axis=-1).tolist()[0] == [3, 3, 0, 0, 0, 5, 0, 0, 0.5, 0.5, pytest.approx(0.1)]
    w = jax.random.normal(jax.random.key(0), (1000, 1000))
    assert rep.gmse() == pytest.approx(float(jnp.mean((rep.quantize(w) - w) ** 2)), rel=0.01)
    with pytest.raises(InputError, match="expected an even n"):
        weights.representation("nm(n=3,m=8,block=2)")


@pytest.mark.parametrize(
    "spec, least, band",
    [
        ("sparse(s=0.5)", 0.6745, 0.0),
        ("sparse(s=0.5,rule=area_rbbm,a=0.5)", 0.6745, 0.3186),
        ("sparse(s=0.5,rule=area_rbbm,a=0.25)", 0.6745, 0.4888),
        ("sparse(s=0.5,rule=area_rbbm,a=1)", 0.6745, 0.0),
        ("sparse(s=0.5,rule=area_rbbm,a=0)", 0.6745, 0.6745),
        ("sparse(s=0.5,rule=rbbm,p=0)", 0.6745, 0.0),
        ("sparse(s=0.5,rule=rbbm,p=0.125)", 0.6745, 0.3186),
        ("sparse(s=0.5,rule=ste)", 0.0, 0.0),
        ("sparse(s=0.5,rule=rigl)", 0.0, 0.0),
        ("sparse(s=0.5,rule=rms,p=0.125)", 0.3186, 0.0),
        ("sparse(s=0.9,rule=rbbm,p=0.3)", 1.6449, 0.8416),
    ],
)
def test_gradients_pass_outside_the_band(spec, least, band):
    """The thresholds T_k, T_p and T_a on normal quantiles equal the check values of papers/003."""
    size, passed = np.abs(NORMAL), _gradient(spec, NORMAL) == 1
    clear = (np.abs(size - least) > 2e-3) & (np.abs(size - band) > 2e-3)
    assert np.array_equal(passed[clear], ((size > least) | (size < band))[clear])


def test_a_band_beyond_the_threshold_lies_within_the_weights_kept():
    """For T_p > T_k the band is [T_k, T_p], and all pruned weights get a gradient."""
    size, passed = np.abs(NORMAL), _gradient("sparse(s=0.5,rule=rbbm,p=0.4)", NORMAL) == 1
    clear = (np.abs(size - 0.6745) > 2e-3) & (np.abs(size - 1.2816) > 2e-3)
    assert np.array_equal(passed[clear], ((size < 0.6745) | (size > 1.2816))[clear])


def test_hybrids_keep_the_rules_of_both():
    """With a quantiser, the sparsity rule gives pruned weights a gradient, and the trust mask still masks kept ones."""
    w = np.array([0.1, 0.2, 1.0, -1.1, 1.2, -0.9, 0.3, 30.0], np.float32)[:, None]
    masked = _gradient("sparse(s=0.5)+int(b=2,rule=quest,hadamard=0)", w)
    ste = _gradient("sparse(s=0.5,rule=ste)+int(b=2,rule=quest,hadamard=0)", w)
    assert masked[[0, 1, 6], 0].tolist() == [0, 0, 0] and ste[[0, 1, 6], 0].tolist() == [1, 1, 1]
    assert masked[7, 0] == ste[7, 0] == 0  # clipped


def test_a_learned_scale_learns_from_kept_weights_alone():
    """Gradients of zeros go to pruned weights (rule=ste), but not to the quantiser's scale."""
    rep = weights.representation("sparse(s=0.5,rule=ste)+int(b=2,rule=lsq)")
    w = jnp.array([[0.1], [0.2], [1.0], [-1.1]])
    _, back = jax.vjp(lambda w, p: rep.quantize(w, params=p), w, rep.init_params(w))
    of_zeros, of_kept = (back(jnp.array(g)[:, None]) for g in ([1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]))
    assert of_zeros[0][:, 0].tolist() == [1, 1, 0, 0] and float(of_zeros[1]["scale"]) == 0
    assert float(of_kept[1]["scale"]) != 0


def test_impossible_hybrids_are_refused():
    """A format that mixes weights cannot follow sparsity, and sparsity cannot follow a format."""
    for spec in ("sparse(s=0.5)+int(b=4,rule=quest)", "nm+vq(dim=2,bits=2)", "sparse(s=0.5)+nm"):
        with pytest.raises(InputError, match="hadamard=0"):
            weights.representation(spec)
    with pytest.raises(InputError, match="Sparsify first"):
        weights.representation("int(b=4)+sparse(s=0.5)")
    with pytest.raises(InputError, match="joins 3 representations"):
        weights.representation("nm+nm+int(b=4)")
