"""Difference of two codecs on the same documents, and its interval."""

import itertools

import numpy as np
import pytest

from compressed_lm import scaling
from compressed_lm.errors import InputError
from compressed_lm.scaling import coverage


def test_difference_is_that_of_the_sums_and_documents_are_paired():
    """Variation common to both methods does not widen the interval."""
    rng = np.random.default_rng(0)
    n_bytes = rng.integers(100, 5000, 300)
    hard = rng.lognormal(0, 1, 300) * n_bytes  # documents differ a lot
    found = scaling.paired_difference(hard - 0.1 * n_bytes, hard, n_bytes)
    assert found.value == pytest.approx(-0.1) and found.low == pytest.approx(-0.1) and found.high == pytest.approx(-0.1)


def test_three_seeds_hold_the_truth_as_often_as_stated():
    """If three seeds dominate, 95 % intervals contain the truth in 93 to 97 % of cases (resampled seeds: 85 %)."""
    rng, hits, draws = np.random.default_rng(1), 0, 400
    n_bytes = rng.integers(500, 1500, 60)
    for _ in range(draws):
        a, b = ((level + rng.normal(0, 0.01, 60) + rng.normal(0, 0.02, (3, 1))) * n_bytes for level in (2.0, 2.1))
        found = scaling.paired_difference(a, b, n_bytes)
        hits += found.low <= -0.1 <= found.high
    assert 0.93 * draws <= hits <= 0.98 * draws


@pytest.mark.parametrize("runs", [(2, 2), (2, 3), (3, 3), (5, 5)], ids=str)
def test_coverage_is_the_stated_one_whatever_dominates(runs):
    """Few or more seeds, large or small seed variance, Gaussian or heavy tails: 93 to 97 %, plus simulation noise."""
    for freedom, ratio in itertools.product((np.inf, 3.0), (0.1, 1.0, 10.0)):
        assert 0.93 < coverage.coverage(runs, 50, ratio, freedom=freedom, samples=4000) < 0.975
    assert 0.93 < coverage.coverage(runs, 400, 1.0, samples=1000) < 0.975


def test_one_seed_gives_an_interval_over_documents_only():
    """With one run of a method, seeds are not covered; with two runs of each, they are."""
    rng = np.random.default_rng(0)
    n_bytes = rng.integers(500, 1500, 100)
    a, b = (rng.normal(2, 0.1, (2, 100)) * n_bytes for _ in range(2))
    assert scaling.paired_difference(a, b, n_bytes).over_seeds
    for pair in ((a[0], b), (a, b[:1]), (a[0], b[0])):
        assert not scaling.paired_difference(*pair, n_bytes).over_seeds


def test_wider_levels_give_wider_intervals_around_one_value():
    """The same call gives the same numbers, and 99 % gives a wider interval than 90 %."""
    rng = np.random.default_rng(0)
    n_bytes = rng.integers(500, 1500, 100)
    a, b = (rng.normal(2, 0.1, (3, 100)) * n_bytes for _ in range(2))
    narrow, wide = (scaling.paired_difference(a, b, n_bytes, level=level) for level in (0.9, 0.99))
    assert narrow == scaling.paired_difference(a, b, n_bytes, level=0.9)
    assert wide.low < narrow.low < narrow.value == wide.value < narrow.high < wide.high


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones(3), np.ones(4), np.ones(3)), "the same documents"),
        ((np.ones(1), np.ones(1), np.ones(1)), "at least 2"),
        ((np.ones(3), np.ones(3), np.array([5, 0, 0])), "at least 2"),
    ],
)
def test_what_has_no_interval_is_refused(arguments, message):
    """Different numbers of documents in bits and bytes, and fewer than two documents, are errors."""
    with pytest.raises(InputError, match=message):
        scaling.paired_difference(*arguments)


def test_levels_that_are_no_share_are_refused():
    """A level of 95 instead of 0.95 is an error."""
    with pytest.raises(InputError, match="between 0 and 1"):
        scaling.paired_difference(np.ones(3), np.ones(3), np.ones(3), level=95)
