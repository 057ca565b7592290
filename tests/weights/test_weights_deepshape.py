"""DeepShape: weights remapped to another generalized Gaussian."""

import numpy as np
import pytest
from scipy import stats

from compressed_lm.errors import InputError
from compressed_lm.weights.deepshape import reshape_tensors, reshape_weights, smooth_map
from compressed_lm.weights.gennorm import GeneralizedGaussian, fit_moments

STEPS = 8192  # levels of 13 fractional bits in 1


def _draws(shape, std, count, seed=0):
    scale = GeneralizedGaussian.from_std(shape, std).scale
    return stats.gennorm.rvs(shape, scale=scale, size=count, random_state=seed)


def _entropy(levels):
    _, counts = np.unique(levels, return_counts=True)
    share = counts / counts.sum()
    return -np.sum(share * np.log2(share))


def _authors(w, *, shape_factor=0.8, scale_factor=0.6):
    """Returns (levels before, levels after, leftovers) of the procedure of papers/002 section 4 for all weights."""
    levels = np.round(w * STEPS).astype(int)
    fit = fit_moments(levels)
    limit = np.abs(levels).max()
    places = np.arange(-limit, limit + 1)
    mean = levels.mean()
    pmf = np.exp(-((np.abs(places - mean) / (scale_factor * fit.scale)) ** (shape_factor * fit.shape)))
    filled = np.repeat(places, np.floor(len(w) * pmf / pmf.sum()).astype(int))
    order = np.argsort(levels, kind="stable")
    after = levels.copy()
    after[order[: len(filled)]] = filled
    return levels, after, len(w) - len(filled)


@pytest.mark.parametrize(
    "shape, std, before, after, narrower, change",
    [(1.5, 0.04, 10.387, 9.957, 0.765, 0.246), (1.2, 0.02, 9.348, 9.029, 0.843, 0.175)],
)
def test_a_million_weights_as_in_the_digest(shape, std, before, after, narrower, change):
    """Results equal the digest's simulation: entropies to 0.01 bit, width and change to 0.01 standard deviations.

    The authors' leftovers, which we do not have, cause up to 0.008 standard deviations.
    """
    w = _draws(shape, std, 1_000_000)
    levels, theirs, leftovers = _authors(w)
    spread = np.std(levels)
    assert _entropy(levels) == pytest.approx(before, abs=0.01)
    assert 1000 < leftovers < 2500 and np.std(theirs) / spread == pytest.approx(narrower, abs=0.004)
    ours = reshape_weights(w) * STEPS
    for reshaped in (theirs, ours):
        assert _entropy(reshaped) == pytest.approx(after, abs=0.01)
        assert np.std(reshaped) / spread == pytest.approx(narrower, abs=0.01)
        assert np.sqrt(np.mean((reshaped - levels) ** 2)) / spread == pytest.approx(change, abs=0.005)
    assert np.mean(np.abs(ours - theirs) <= 3) > 0.9  # their leftovers shift all ranks, mostly those of rare weights
    fitted, target = fit_moments(ours / STEPS), GeneralizedGaussian.from_std(shape, std)
    assert fitted.shape == pytest.approx(0.8 * shape, rel=0.01)
    assert fitted.scale == pytest.approx(0.6 * target.scale, rel=0.01)


@pytest.mark.parametrize("settings", [{}, {"adj_minnum": 30}, {"method": "smooth"}, {"scale_factor": 1.7}])
def test_ranks_stay(settings):
    """The rank order is kept in all methods, also if the mean is not 0; equal weights stay equal."""
    w = (_draws(1.3, 0.03, 20_000) + 0.004).astype(np.float32)
    w[:500] = w[500:1000]
    reshaped = reshape_weights(w.reshape(100, 200), **settings)
    assert reshaped.shape == (100, 200) and reshaped.dtype == np.float32
    reshaped = reshaped.reshape(-1)
    assert np.all(np.diff(reshaped[np.argsort(w)]) >= 0)
    assert np.array_equal(reshaped[:500], reshaped[500:1000])
    assert len(np.unique(reshaped)) > 200


def test_results_do_not_depend_on_the_order():
    """The result of a weight does not depend on the order of the weights, also for ties on the grid."""
    w = _draws(1.5, 0.002, 50_000).astype(
        np.float32
    )  # about 16 levels per standard deviation: most weights share a level
    order = np.random.default_rng(1).permutation(w.size)
    assert np.array_equal(reshape_weights(w)[order], reshape_weights(w[order]))


@pytest.mark.parametrize("shape, wider, more", [(0.75, 1, 1), (0.8, 1, 1), (0.82, 1, 0), (0.91, 1, 0), (0.92, 0, 0)])
def test_where_the_default_factors_widen(shape, wider, more):
    """The default factors raise the standard deviation for shapes up to 0.91, and the entropy for shapes up to 0.80."""
    source, target = GeneralizedGaussian(shape, 1.0), GeneralizedGaussian(0.8 * shape, 0.6)
    assert (target.std > source.std) == wider and (target.entropy > source.entropy) == more


def test_ranks_and_quantiles_by_hand():
    """Four weights become the quantiles 1/8, 3/8, 5/8, 7/8 of the five levels' probabilities."""
    w = np.array([0.5, -2.0, 2.0, -0.5])
    fit = fit_moments(w)
    cumulative, total, expected = 0.0, 0.0, []
    probable = [float(np.exp(-((abs(x) / (0.6 * fit.scale)) ** (0.8 * fit.shape)))) for x in (-2, -1, 0, 1, 2)]
    total = sum(probable)
    quantiles = [1 / 8, 3 / 8, 5 / 8, 7 / 8]
    for level, p in zip((-2, -1, 0, 1, 2), probable, strict=True):
        cumulative += p / total
        while quantiles and quantiles[0] <= cumulative:
            expected.append(level)
            quantiles.pop(0)
    assert reshape_weights(w, fractional_bits=0)[np.argsort(w)].tolist() == expected


def test_both_maps_agree_within_a_level():
    """The histogram map equals the smooth map within 1.5 levels for 97 % of draws, and has the same moments."""
    w = _draws(1.5, 0.04, 200_000)
    histogram, smooth = reshape_weights(w), reshape_weights(w, method="smooth")
    within = np.abs(w) < 2 * 0.04
    assert np.mean(np.abs(histogram - smooth)[within] * STEPS < 1.5) > 0.97
    assert np.std(histogram) == pytest.approx(np.std(smooth), rel=0.003)
    assert np.mean(np.abs(histogram)) == pytest.approx(np.mean(np.abs(smooth)), rel=0.003)


def test_the_smooth_map_is_scipys():
    """The smooth map is F'^-1(F(x)) of scipy's gennorm, and finite and ordered beyond float64 probabilities."""
    x = np.array([-0.3, -0.05, -1e-6, 0.01, 0.02, 0.2])
    source, target = GeneralizedGaussian(1.5, 0.05, 0.01), GeneralizedGaussian(1.2, 0.03, 0.01)
    expected = stats.gennorm.ppf(stats.gennorm.cdf(x, 1.5, 0.01, 0.05), 1.2, 0.01, 0.03)
    # Without the last number: scipy's cdf has few correct digits so near to 1.
    np.testing.assert_allclose(smooth_map(x, source, target)[:-1], expected[:-1], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(smooth_map(x, source, target)[-1], 0.02 - smooth_map(-0.18, source, target), rtol=1e-12)
    far = smooth_map(np.array([-100.0, 0.0, 0.5, 100.0, 1e6]), source, target)
    assert np.isfinite(far).all() and np.all(np.diff(far) >= 0) and far[0] < -0.1 and far[-1] > far[2]


def test_the_tail_rule():
    """With adj_minnum, weights beyond the first rare level are only rounded, and the others are remapped."""
    w = _draws(1.0, 0.01, 100_000)
    levels = np.round(w * STEPS)
    rare = next(m for m in range(1, 10_000) if np.sum(levels == m) <= 50)
    reshaped = reshape_weights(w, adj_minnum=50) * STEPS
    tails = np.abs(levels) > rare
    assert 0.01 < tails.mean() < 0.2
    assert np.array_equal(reshaped[tails], levels[tails])
    assert np.abs(reshaped[~tails]).max() <= rare and np.std(reshaped[~tails]) < 0.8 * np.std(levels[~tails])


def test_one_fit_or_one_for_each():
    """Separate fits narrow each tensor; a pooled fit finds heavy tails and widens both tensors unequally."""
    tensors = {"wide": _draws(1.5, 0.04, 30_000).reshape(100, 300), "narrow": _draws(1.5, 0.004, 30_000, seed=1)}
    alone, pooled = reshape_tensors(tensors), reshape_tensors(tensors, pooled=True)
    for name, w in tensors.items():
        assert alone[name].shape == pooled[name].shape == w.shape
        np.testing.assert_array_equal(alone[name], reshape_weights(w))
        assert np.std(alone[name]) / np.std(w) == pytest.approx(0.76, abs=0.03)
    growth = [np.std(pooled[name]) / np.std(tensors[name]) for name in ("wide", "narrow")]
    assert 1.2 < growth[0] < growth[1] < 2
    together = np.concatenate([w.reshape(-1) for w in tensors.values()]).astype(np.float32)
    expected = reshape_weights(together)
    np.testing.assert_array_equal(np.concatenate([pooled["wide"].reshape(-1), pooled["narrow"]]), expected)
    assert reshape_tensors({}, pooled=True) == {}


@pytest.mark.parametrize(
    "given, message",
    [
        (
            lambda: reshape_weights(np.ones(4), scale_factor=0),
            "scale_factor=0 was given to DeepShape; expected a number",
        ),
        (lambda: reshape_weights(np.ones(4), shape_factor=-1.0), "shape_factor=-1.0 was given"),
        (lambda: reshape_weights(np.ones(4), method="exact"), "method=exact was given .* histogram or smooth"),
        (lambda: reshape_weights(np.array([1e-6, -2e-6])), "2 weights round to 0 .* largest is 2e-06. Use more"),
        (lambda: reshape_weights(np.array([])), "An empty array"),
        (lambda: reshape_weights(np.array([0.1, np.nan])), "1 of 2 weights are NaN or infinite"),
        (lambda: reshape_tensors({"norm": np.ones(4)}), "norm: All of 4 weights are 1"),
    ],
)
def test_errors_say_what_to_do(given, message):
    """Each misuse raises an InputError that describes it and names the tensor."""
    with pytest.raises(InputError, match=message):
        given()
