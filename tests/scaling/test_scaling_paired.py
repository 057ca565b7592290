"""The difference of two codecs on the same documents, and how sure it is."""

import numpy as np
import pytest

from compressed_lm import scaling


def test_difference_is_that_of_the_sums_and_documents_are_paired():
    """What both have in common, however much documents differ, does not widen the interval."""
    rng = np.random.default_rng(0)
    n_bytes = rng.integers(100, 5000, 300)
    hard = rng.lognormal(0, 1, 300) * n_bytes  # documents differ a lot
    found = scaling.paired_difference(hard - 0.1 * n_bytes, hard, n_bytes, samples=500)
    assert found.value == pytest.approx(-0.1) and found.low == pytest.approx(-0.1) and found.high == pytest.approx(-0.1)


def test_interval_holds_the_truth_as_often_as_it_says():
    """Over 200 draws of documents and runs the 90 % interval holds the true difference about 90 % of the time."""
    rng, hits = np.random.default_rng(1), 0
    for _ in range(200):
        n_bytes = rng.integers(500, 1500, 80)
        a = (2.0 + rng.normal(0, 0.1, 80) + rng.normal(0, 0.01, (5, 1))) * n_bytes
        b = (2.1 + rng.normal(0, 0.1, 80) + rng.normal(0, 0.01, (5, 1))) * n_bytes
        found = scaling.paired_difference(a, b, n_bytes, samples=300, level=0.9)
        hits += found.low <= -0.1 <= found.high
    assert 160 <= hits <= 196


def test_other_documents_are_refused():
    """Bits of other documents than the bytes are an error."""
    with pytest.raises(ValueError, match="the same documents"):
        scaling.paired_difference(np.ones(3), np.ones(4), np.ones(3))
