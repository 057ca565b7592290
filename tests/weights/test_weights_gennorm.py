"""The generalized Gaussian equals scipy's, its shape is estimated correctly, and draws have the right variance."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from compressed_lm import weights
from compressed_lm.errors import InputError
from compressed_lm.weights import gennorm
from compressed_lm.weights.gennorm import GeneralizedGaussian, fit_mle, fit_moments, moment_ratio, shape_from_ratio

SHAPES = [0.1, 0.5, 0.7, 1.0, 1.3, 2.0, 3.0, 8.0]


@pytest.mark.parametrize("shape", SHAPES)
def test_density_distribution_and_quantiles_are_scipys(shape):
    """pdf, logpdf, cdf, ppf, entropy and standard deviation agree with `scipy.stats.gennorm`."""
    ours, oracle = GeneralizedGaussian(shape, 0.7, 0.2), stats.gennorm(shape, loc=0.2, scale=0.7)
    x = np.array([[-30.0, -1.5, -0.4, 0.199, 0.2], [0.21, 0.5, 1.0, 4.0, 30.0]])
    u = np.array([1e-12, 1e-3, 0.2, 0.3, 0.499, 0.5, 0.75, 0.9, 0.999])
    np.testing.assert_allclose(ours.logpdf(x), oracle.logpdf(x), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(ours.pdf(x), oracle.pdf(x), rtol=1e-11)
    np.testing.assert_allclose(ours.cdf(x), oracle.cdf(x), rtol=1e-10)
    np.testing.assert_allclose(ours.ppf(u), oracle.ppf(u), rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(ours.cdf(ours.ppf(u)), u, rtol=1e-9)
    assert ours.entropy == pytest.approx(float(oracle.entropy()), abs=1e-12)
    assert ours.std == pytest.approx(float(oracle.std()), rel=1e-12)


def test_entropies_of_variance_one_are_those_of_the_digest():
    """Golden values of papers/002 section 1, in nats."""
    found = [GeneralizedGaussian.from_std(shape, 1.0).entropy for shape in (0.5, 0.7, 1.0, 1.3, 2.0)]
    np.testing.assert_allclose(found, [0.9926, 1.2160, 1.3466, 1.3949, 1.4189], atol=6e-5)
    assert GeneralizedGaussian.from_std(2.0, 3.0).scale == pytest.approx(3 * math.sqrt(2))


def test_moment_ratios_are_those_of_the_digest():
    """Golden values of papers/002 sections 1 and 7; exact for 0.5, 1 and 2."""
    assert moment_ratio(0.5) == pytest.approx(10 / 3, rel=1e-14)
    assert moment_ratio(1) == pytest.approx(2, rel=1e-14)
    assert moment_ratio(2.0) == pytest.approx(math.pi / 2, rel=1e-14)
    expected = [6.661, 2.4846, 2.2686, 1.8413, 1.7844, 1.6981, 1.4610]
    np.testing.assert_allclose(moment_ratio([0.3, 0.7, 0.8, 1.2, 1.3, 1.5, 3.0]), expected, atol=6e-5)


def test_the_table_is_the_authors():
    """The table has 290 shapes (0.10 to 2.99) and the authors' ratios; NumPy and JAX find the nearest entry."""
    shapes, ratios = gennorm.shape_table()
    assert len(shapes) == len(ratios) == 290 and (shapes[0], shapes[-1]) == (0.1, 2.99)
    assert (round(ratios[0], 4), round(ratios[-1], 5)) == (216.8266, 1.46167)
    given = np.array([500.0, 2.0, 2.001, 1.9, 1.57, 1.0])
    nearest = shapes[[np.argmin(np.abs(ratios - ratio)) for ratio in given]]
    np.testing.assert_array_equal(shape_from_ratio(given, table=True), nearest)
    lookup = jax.jit(lambda ratio: shape_from_ratio(ratio, table=True))
    np.testing.assert_allclose(lookup(jnp.asarray(given)), nearest, rtol=1e-6)
    assert nearest[0] == 0.1 and nearest[1] == 1.0 and nearest[-1] == 2.99
    assert shape_from_ratio(2.0, table=True) == 1.0 and float(lookup(jnp.float32(2.0))) == 1.0


@pytest.mark.parametrize("bounds", [(0.1, 3.0), (0.1, 10.0), (0.5, 2.0)])
def test_ratios_are_inverted_exactly(bounds):
    """`shape_from_ratio` inverts `moment_ratio` to 1e-10 in NumPy and 2e-4 in float32 under jit, clamped to bounds."""
    shapes = np.geomspace(*bounds, 301)
    ratios = moment_ratio(shapes)
    np.testing.assert_allclose(shape_from_ratio(ratios, bounds=bounds), shapes, rtol=1e-10)
    invert = jax.jit(lambda ratio: shape_from_ratio(ratio, bounds=bounds))
    np.testing.assert_allclose(invert(jnp.asarray(ratios, jnp.float32)), shapes, rtol=2e-4)
    for beyond, end in ((1e9, 0), (math.inf, 0), (1.34, 1), (1.0, 1)):
        assert shape_from_ratio(beyond, bounds=bounds) == pytest.approx(bounds[end], rel=1e-15)
        assert float(invert(jnp.float32(beyond))) == pytest.approx(bounds[end], rel=1e-4)


def test_the_shape_of_scalars_stays_a_scalar():
    """Scalars give scalars, JAX results are float32 for any input type, and NaN gives NaN in JAX."""
    assert isinstance(shape_from_ratio(2.0), float) and isinstance(moment_ratio(1.0), float)
    found = jax.jit(shape_from_ratio)(jnp.bfloat16(2.0))
    assert found.shape == () and found.dtype == jnp.float32 and float(found) == pytest.approx(1.0, rel=1e-4)
    assert math.isnan(float(shape_from_ratio(jnp.float32(math.nan))))
    assert float(moment_ratio(jnp.float32(0.5))) == pytest.approx(10 / 3, rel=1e-5)


@pytest.mark.slow("compiles each format")
@pytest.mark.parametrize("shape", [0.5, 30.0])
def test_draws_follow_the_distribution(shape):
    """A Kolmogorov-Smirnov test accepts 20,000 draws of JAX (traced or not) and of NumPy."""
    distribution = GeneralizedGaussian(shape, 0.3, 0.1)
    sample = lambda key: distribution.sample(key, (200, 100))  # noqa: E731
    drawn = (jax.jit(sample) if shape < 1 else sample)(jax.random.key(1))  # jax.random.gamma takes seconds to compile
    assert drawn.dtype == jnp.float32
    for draws in (np.asarray(drawn, np.float64), sample(np.random.default_rng(1))):
        assert draws.shape == (200, 100)
        assert stats.kstest(draws.reshape(-1), distribution.cdf).pvalue > 0.01


def test_sharp_peaks_are_drawn_to_rounding():
    """Draws of shape 0.1 around 0 range over twenty powers of ten and follow the CDF."""
    distribution = GeneralizedGaussian.from_std(0.1, 1.0)
    draws = np.asarray(distribution.sample(jax.random.key(0), (200, 100)), np.float64).reshape(-1)
    assert np.isfinite(draws).all() and np.abs(draws).min() < 1e-8 and np.abs(draws).max() > 1
    assert stats.kstest(draws, distribution.cdf).pvalue > 0.01


@pytest.mark.parametrize(("shape", "errors"), [(0.5, (0.044, 0.014)), (1.0, (0.067, 0.020)), (2.0, (0.144, 0.046))])
def test_moment_estimates_scatter_as_the_digest_says(shape, errors):
    """In 400 trials, the standard deviation is that of papers/002 section 1 to 20 %, and the bias is below 2 %."""
    rng = np.random.default_rng(5)
    for n, expected in zip((1_000, 10_000), errors, strict=True):
        draws = GeneralizedGaussian.from_std(shape, 0.02).sample(rng, (400, n))
        found = [fit_moments(row, bounds=(0.1, 10.0)).shape for row in draws]
        assert np.std(found) == pytest.approx(expected, rel=0.2)
        assert np.mean(found) == pytest.approx(shape, rel=0.02)


@pytest.mark.parametrize("shape", [0.5, 1.0, 1.5, 2.0])
def test_likelihood_estimates_scatter_as_their_standard_error_says(shape):
    """In 200 trials of 2,000 draws, the mean is the shape, and the standard deviation is `shape_error` to 20 %."""
    draws = GeneralizedGaussian(shape, 0.02).sample(np.random.default_rng(7), (200, 2_000))
    found = [fit_mle(row).shape for row in draws]
    error = gennorm.shape_error(shape, 2_000)
    assert np.std(found) == pytest.approx(error, rel=0.2)
    assert abs(np.mean(found) - shape) < 4 * error / math.sqrt(200) + 0.01 * shape


@pytest.mark.parametrize("shape", [0.6, 1.0, 1.7, 4.0])
def test_likelihood_estimates_are_scipys(shape):
    """`fit_mle` gives the result of `scipy.stats.gennorm.fit`, with at least the same likelihood."""
    w = GeneralizedGaussian(shape, 0.03).sample(np.random.default_rng(3), (1_500,))
    ours, (theirs, _, scale) = fit_mle(w), stats.gennorm.fit(w, floc=0)
    assert ours.shape == pytest.approx(theirs, rel=1e-3) and ours.scale == pytest.approx(scale, rel=1e-3)
    likelihood = ours.logpdf(w).mean()
    assert likelihood >= stats.gennorm.logpdf(w, theirs, scale=scale).mean() - 1e-10
    assert likelihood == pytest.approx(-ours.entropy, abs=1e-12)


def test_the_scale_of_a_given_shape_is_the_likeliest():
    """The scale is the root mean square for shape 2 and the mean magnitude for shape 1; likelihood = -entropy."""
    w = np.array([0.5, -1.0, 2.0, 0.0, -0.25, 4.0])
    gaussian, laplace = gennorm.fit_scale(w, 2.0), gennorm.fit_scale(w, 1.0)
    assert gaussian.std == pytest.approx(math.sqrt(np.mean(w**2))) and laplace.scale == pytest.approx(np.abs(w).mean())
    for fit in (gaussian, laplace):
        assert fit.logpdf(w).mean() == pytest.approx(-fit.entropy)


def test_estimates_stand_heavy_tails_zeros_and_any_unit():
    """Cauchy draws, pruned weights, tiny and huge units and a location give finite fits that scale with the weights."""
    rng = np.random.default_rng(0)
    cauchy, w = rng.standard_cauchy(5_000), GeneralizedGaussian(1.2, 0.1).sample(rng, (5_000,))
    pruned = np.where(np.abs(w) < 0.02, 0.0, w)
    for data in (cauchy, pruned, np.r_[np.zeros(4_999), 1.0]):
        for fit in (fit_moments(data), fit_mle(data)):
            assert 0.0999 <= fit.shape <= 10 and np.isfinite([fit.scale, fit.std]).all()
    for fit in (fit_moments, fit_mle):
        plain = fit(w)
        for unit in (1e-30, 1e200):
            assert fit(w * unit).shape == pytest.approx(plain.shape, rel=1e-5)
            assert fit(w * unit).scale == pytest.approx(plain.scale * unit, rel=1e-5)
        moved = fit(w + 1.0, loc=1.0)
        assert (moved.shape, moved.loc) == (pytest.approx(plain.shape, rel=1e-5), 1.0)
    assert fit_moments(w, table=True).shape == pytest.approx(fit_moments(w).shape, abs=0.006)


def test_weights_without_a_distribution_are_refused():
    """Empty, constant and infinite weights and impossible parameters raise different errors with advice."""
    for fit in (fit_moments, fit_mle):
        with pytest.raises(InputError, match="An empty array of weights was given"):
            fit(np.zeros((0, 3)))
        with pytest.raises(InputError, match="All of 12 weights are 1; .* Leave this array out"):
            fit(np.ones((3, 4)))
        with pytest.raises(InputError, match="1 of 3 weights are NaN or infinite"):
            fit(np.array([1.0, math.nan, 2.0]))
    with pytest.raises(InputError, match=r"moment ratio of 0.5 was given; expected .* at least 1"):
        shape_from_ratio(np.array([2.0, 0.5]))
    with pytest.raises(InputError, match=r"bounds=\(2.0, 1.0\) was given"):
        shape_from_ratio(2.0, bounds=(2.0, 1.0))
    with pytest.raises(InputError, match="shape=-1 was given to a generalized Gaussian"):
        GeneralizedGaussian(-1, 1.0)
    with pytest.raises(InputError, match="scale=0.0 was given"):
        GeneralizedGaussian(1.0, 0.0)


@pytest.mark.slow("compiles each format")
@pytest.mark.parametrize("shape", [0.5, 1.0, 2.0])
def test_initial_weights_have_the_variance_asked_for(shape):
    """The variance is gain / fan_in within five standard errors of 200,000 draws, with fan_in as in Flax."""
    dimensions, gain = (5, 80, 500), 2.0
    w = np.asarray(gennorm.gg_initializer(shape, gain)(jax.random.key(0), dimensions, jnp.float32), np.float64)
    assert w.shape == dimensions
    kurtosis = math.exp(math.lgamma(5 / shape) + math.lgamma(1 / shape) - 2 * math.lgamma(3 / shape))
    error = math.sqrt((kurtosis - 1) / w.size)
    assert np.mean(w**2) * 400 / gain == pytest.approx(1, abs=5 * error)
    assert stats.kstest(w.reshape(-1), GeneralizedGaussian.from_std(shape, math.sqrt(gain / 400)).cdf).pvalue > 0.01
    if shape == 0.5:  # draws are not truncated: the largest is expected at about 26 standard deviations
        assert np.abs(w).max() > 15 * w.std()


def test_the_variance_of_the_initializer_is_exact():
    """The unit scale has scale^2 Gamma(3/nu) / Gamma(1/nu) = 1 for shapes from 0.1 to 50."""
    for shape in (0.1, 0.5, 1.0, 1.7, 2.0, 50.0):
        scale = gennorm.unit_scale(shape)
        assert scale**2 * math.gamma(3 / shape) / math.gamma(1 / shape) == pytest.approx(1, rel=1e-12)
        assert GeneralizedGaussian.from_std(shape, 0.3).std == pytest.approx(0.3, rel=1e-14)


def test_the_initializer_has_the_type_asked_for_and_refuses_nonsense():
    """The result has the given type, the same key gives the same weights, and bad shapes and gains are refused."""
    init = gennorm.gg_initializer(1.0)
    first, again = (init(jax.random.key(3), (5, 80, 500), jnp.bfloat16) for _ in range(2))
    assert first.dtype == jnp.bfloat16 and (first == again).all()
    with pytest.raises(InputError, match="shape=-0.5 was given to the generalized-Gaussian initializer"):
        gennorm.gg_initializer(-0.5)
    with pytest.raises(InputError, match="gain=0 was given"):
        gennorm.gg_initializer(1.0, 0)


def test_the_package_exports_the_distribution():
    """`compressed_lm.weights` exports the distribution and its estimators."""
    names = ("GeneralizedGaussian", "moment_ratio", "shape_from_ratio", "fit_moments", "fit_mle")
    assert all(getattr(weights, name) is getattr(gennorm, name) for name in names)
