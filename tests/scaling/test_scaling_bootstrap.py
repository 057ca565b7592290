"""Intervals have their nominal coverage, and common variation cancels in differences."""

import numpy as np
import pandas as pd
import pytest

from compressed_lm import scaling
from compressed_lm.scaling import CHINCHILLA, bootstrap, difference, estimate, fit

TRUTH = {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.34, "beta": 0.28}


def runs(seed=0, noise=0.01, **changes):
    n, d = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e10, 8), np.geomspace(1e9, 1e12, 8)))
    table = pd.DataFrame({"n_params": n, "tokens": d})
    scatter = np.exp(noise * np.random.default_rng(seed).normal(size=n.size))
    return table.assign(loss=CHINCHILLA(TRUTH | changes, table) * scatter)


@pytest.fixture(scope="module")
def fitted():
    return bootstrap(fit(runs(), diagnose=False), samples=400, seed=1)


def test_a_fit_has_no_intervals_before_and_all_of_them_after(fitted):
    """The original is unchanged; intervals contain the estimate; the same seed gives the same samples."""
    plain = fit(runs(), diagnose=False)
    assert plain.intervals is None and plain.samples is None
    with pytest.raises(ValueError, match="has no intervals yet. Call scaling.bootstrap"):
        estimate(plain, "alpha")
    assert set(fitted.intervals) == set(TRUTH)
    for name, (low, high) in fitted.intervals.items():
        assert low < fitted.params[name] < high
    again = bootstrap(plain, samples=400, seed=1)
    np.testing.assert_array_equal(again.samples["alpha"], fitted.samples["alpha"])


def test_resampled_fits_are_those_of_the_resampled_tables():
    """The batch agrees with single fits to tables with the same row counts."""
    table = runs()
    plain = fit(table, diagnose=False)
    drawn = bootstrap(plain, samples=6, seed=3)
    counts = np.random.default_rng(3).multinomial(len(table), np.full(len(table), 1 / len(table)), size=6)
    for k, count in enumerate(counts):
        alone = fit(table.loc[np.repeat(table.index, count)], diagnose=False)
        assert drawn.samples["alpha"][k] == pytest.approx(alone.params["alpha"], rel=1e-5)
        assert drawn.samples["B"][k] == pytest.approx(alone.params["B"], rel=1e-3)


@pytest.mark.slow("refits thousands of resampled tables")
def test_intervals_cover_the_truth():
    """Over 40 tables, the 90 % interval of each exponent contains the true one in 75 to 100 % of the cases."""
    hits = {"alpha": 0, "beta": 0}
    for seed in range(40):
        drawn = bootstrap(fit(runs(seed), diagnose=False), samples=150, level=0.9)
        for name in hits:
            low, high = drawn.intervals[name]
            hits[name] += low <= TRUTH[name] <= high
    assert all(30 <= count <= 40 for count in hits.values()), hits


def test_progress_is_reported():
    """The callback receives counts that rise to all samples."""
    seen = []
    bootstrap(fit(runs(), diagnose=False), samples=600, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (600, 600) and [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_differences_within_a_fit_are_paired(fitted):
    """A difference has the spread of paired samples; a parameter's name and a function give the same."""
    paired = difference(fitted, "alpha", "beta")
    assert paired.value == pytest.approx(fitted.params["alpha"] - fitted.params["beta"])
    assert paired.sd == pytest.approx(np.std(fitted.samples["alpha"] - fitted.samples["beta"], ddof=1))
    assert difference(fitted, lambda p: p["alpha"], "beta") == paired
    assert difference(fitted, "alpha", "alpha").sd == 0
    with pytest.raises(ValueError, match="no parameter 'gamma'. It has: A, B, E, alpha, beta"):
        estimate(fitted, "gamma")
    with pytest.raises(ValueError, match="Give another quantity or another fit"):
        difference(fitted, "alpha")


def test_two_codecs_are_told_apart_by_their_fits(fitted):
    """A codec with a lower floor is better at any size, and the interval of the difference excludes 0."""
    better = bootstrap(fit(runs(seed=5, E=1.6), diagnose=False), samples=400, seed=2)
    row = {"n_params": 1e9, "tokens": 1e11}
    gap = difference(better, scaling.loss_at(better, row), scaling.loss_at(fitted, row), other_fit=fitted)
    assert gap.low < -0.09 < gap.high < 0
    low, high = scaling.band(fitted, row)
    assert low < fitted.predict(row) < high and high - low < 0.03
    same = difference(fitted, "alpha", other_fit=bootstrap(fit(runs(seed=7), diagnose=False), samples=400, seed=3))
    assert same.low < 0 < same.high
