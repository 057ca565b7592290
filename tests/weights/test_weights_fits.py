"""AIC selects the family that weights were drawn from; pooling arrays of different scales lowers the shape."""

import numpy as np
import pytest
from scipy import stats

from compressed_lm.errors import InputError
from compressed_lm.weights import fits
from compressed_lm.weights.gennorm import GeneralizedGaussian

N = 20_000


def draws(family, n=N, seed=11):
    """Returns float64[n] with a standard deviation of about 0.05."""
    rng = np.random.default_rng(seed)
    return {
        fits.GENERALIZED: lambda: GeneralizedGaussian.from_std(1.4, 0.05).sample(rng, (n,)),
        fits.GAUSSIAN: lambda: rng.normal(0, 0.05, n),
        fits.LAPLACE: lambda: rng.laplace(0, 0.05 / np.sqrt(2), n),
        fits.STUDENT: lambda: 0.05 / np.sqrt(2) * rng.standard_t(4, n),
    }[family]()


@pytest.mark.parametrize(
    ("family", "n", "least"),
    [(fits.GENERALIZED, N, 40), (fits.STUDENT, N, 40), (fits.GAUSSIAN, 5_000, 29), (fits.LAPLACE, 5_000, 29)],
)
def test_aic_finds_the_family(family, n, least):
    """The true family has the lowest AIC in all of 40 trials, or at least in 29 for Gaussian and Laplace.

    Families that contain Gaussian and Laplace win by chance, by a small margin: chi-square with 1 degree of freedom
    exceeds 2 in 15.7 % of trials.
    """
    trials = [fits.fit_tensor(draws(family, n, seed), "w") for seed in range(40)]
    wins = [fit.best.family == family for fit in trials]
    assert sum(wins) >= least
    for fit, won in zip(trials, wins, strict=True):
        assert won or (fit.best.family in (fits.GENERALIZED, fits.STUDENT) and fit.margin < 5 / n)
        assert (fit.n, fit.loc, fit.zeros) == (n, 0.0, 0.0) and fit.std == pytest.approx(0.05, rel=0.1)


def test_likelihoods_and_aic_are_those_of_scipy():
    """Mean log-likelihoods and AIC of all four families equal those of scipy's fits."""
    w = draws(fits.STUDENT, 3_000)
    fit = fits.fit_tensor(w, "w")
    expected = {
        fits.GENERALIZED: stats.gennorm(*stats.gennorm.fit(w, floc=0)),
        fits.GAUSSIAN: stats.norm(0, np.sqrt(np.mean(w**2))),
        fits.LAPLACE: stats.laplace(0, np.abs(w).mean()),
        fits.STUDENT: stats.t(*stats.t.fit(w, floc=0)),
    }
    for own in fit.families:
        oracle = expected[own.family]
        assert own.log_likelihood == pytest.approx(oracle.logpdf(w).mean(), abs=1e-7)
        assert own.distribution.logpdf(w).mean() == pytest.approx(own.log_likelihood, abs=1e-10)
        parameters = {fits.GENERALIZED: 2, fits.GAUSSIAN: 1, fits.LAPLACE: 1, fits.STUDENT: 2}[own.family]
        assert own.aic == pytest.approx(2 * parameters - 2 * oracle.logpdf(w).sum(), abs=1e-3)
    first, second = sorted(own.aic for own in fit.families)[:2]
    assert fit.margin == pytest.approx((second - first) / 6_000)


@pytest.mark.parametrize("df", [1.0, 3.0, 30.0])
def test_the_student_t_is_scipys(df):
    """Degrees of freedom, scale and density equal those of `scipy.stats.t.fit`."""
    w = 0.02 * np.random.default_rng(2).standard_t(df, 4_000)
    found = next(own.distribution for own in fits.fit_tensor(w, "w").families if own.family == fits.STUDENT)
    theirs, _, scale = stats.t.fit(w, floc=0)
    assert found.df == pytest.approx(theirs, rel=2e-3) and found.scale == pytest.approx(scale, rel=1e-3)
    np.testing.assert_allclose(found.pdf(w[:9]), stats.t.pdf(w[:9], found.df, scale=found.scale), rtol=1e-12)


def test_pooling_different_scales_lowers_the_shape():
    """Pooled Gaussian arrays of different standard deviations look heavy-tailed, and Gaussian if each is scaled."""
    rng = np.random.default_rng(0)
    tensors = {f"w{i}": rng.normal(0, std, (100, 100)).astype(np.float32) for i, std in enumerate((0.01, 0.03, 0.1))}
    *own, pooled, scaled = fits.fit_tensors(tensors)
    assert [fit.name for fit in (*own, pooled, scaled)] == ["w0", "w1", "w2", fits.POOLED, fits.POOLED_SCALED]
    assert all(fit.shape_mle == pytest.approx(2, abs=4 * fit.shape_error) for fit in own)
    assert pooled.shape_mle < 1 and pooled.shape_moments < 1.1 and pooled.n == scaled.n == 30_000
    assert scaled.shape_mle == pytest.approx(2, abs=4 * scaled.shape_error)
    assert scaled.shape_moments == pytest.approx(2, abs=0.1) and scaled.std == pytest.approx(1)


def test_weights_far_from_zero_are_fitted_around_their_mean():
    """Norm scales near 1 are fitted around their mean, except in the pooled row, which is around 0 as the authors'."""
    w = 1 + 0.05 * np.random.default_rng(0).normal(size=4_000)
    own, pooled, scaled = fits.fit_tensors({"norm/scale": w})
    assert own.loc == pytest.approx(w.mean()) and own.std == pytest.approx(w.std())
    assert own.shape_mle == pytest.approx(2, abs=4 * own.shape_error)
    assert pooled.loc == 0 and pooled.std == pytest.approx(np.sqrt(np.mean(w**2)))
    assert scaled.shape_mle == pytest.approx(own.shape_mle, rel=1e-4)


def test_exact_zeros_are_a_point_mass():
    """Pruning does not change the maximum-likelihood shape of the kept weights, but lowers the moment shape."""
    w = draws(fits.LAPLACE)
    kept = np.random.default_rng(1).random(N) < 0.4
    fit, rest = fits.fit_tensor(np.where(kept, w, 0), "w"), fits.fit_tensor(w[kept], "w")
    assert fit.zeros == pytest.approx(1 - kept.mean()) and fit.n == N
    assert (fit.shape_mle, fit.families) == (rest.shape_mle, rest.families)
    assert fit.margin == pytest.approx(rest.margin)
    assert fit.shape_moments < 0.7 < rest.shape_moments


def test_constant_arrays_have_no_row_and_progress_ends_at_all_weights():
    """Arrays without two different weights have no row, and `progress` counts every weight three times."""
    w, seen = draws(fits.GAUSSIAN, 500), []
    rows = fits.fit_tensors({"a": w, "b": w.reshape(20, 25) * 2}, progress=seen.append)
    assert seen == [500, 1_000, 2_000, 3_000] and len(rows) == 4
    seen.clear()
    rows = fits.fit_tensors({"ones": np.ones(7), "w": w, "one": np.r_[0.0, 0.0, 0.3]}, progress=seen.append)
    assert seen[-1] == 3 * 510
    assert [row.name for row in rows] == ["w", fits.POOLED, fits.POOLED_SCALED]
    assert rows[1].n == 510 and rows[2].n == 500


def test_what_cannot_be_fitted_is_reported():
    """Empty, constant and infinite arrays raise errors that name the array."""
    with pytest.raises(InputError, match="2 arrays of weights were given, and none has two different non-zero weights"):
        fits.fit_tensors({"a": np.ones(3), "b": np.zeros(3)})
    with pytest.raises(InputError, match="b has no weights; expected at least one"):
        fits.fit_tensors({"a": np.arange(3.0), "b": np.zeros((0, 2))})
    with pytest.raises(InputError, match="layers/q: 1 of 3 weights are NaN or infinite"):
        fits.fit_tensor(np.array([0.1, np.inf, 0.2]), "layers/q")
