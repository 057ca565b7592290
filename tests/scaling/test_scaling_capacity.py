"""Capacity as a function of the Gaussian error."""

import numpy as np
import pytest

from compressed_lm.scaling import effective_bits, rho, sparsity_gmse


def test_effective_bits_of_an_ideal_code_are_its_bits():
    """Shannon's error 4^-b has b effective bits; no error has infinitely many."""
    np.testing.assert_allclose(effective_bits(4.0 ** -np.array([1, 2, 3.5])), [1, 2, 3.5])
    assert effective_bits(0.0) == np.inf


@pytest.mark.parametrize(
    ("gmse", "expected"),
    [(0.363380, 0.180), (0.118846, 0.445), (0.0374397, 0.670), (0.0115429, 0.820), (8.782e-5, 0.989)],
)
def test_capacity_of_integer_grids_with_the_published_constants(gmse, expected):
    """F = .41 and C = 1.39 (arXiv 2506.01863, table 3) give these capacities for INT1, 2, 3, 4 and 8."""
    assert rho(gmse, F=0.41, C=1.39) == pytest.approx(expected, abs=6e-4)


def test_capacity_ends_at_one_and_zero():
    """No rounding gives 1 for any L, total loss gives 0, and L scales all values between."""
    np.testing.assert_allclose(rho([0.0, 1.0], F=0.41, C=1.39, L=0.8), [1, 0])
    assert rho(0.1, F=0.41, C=1.39, L=0.8) == pytest.approx(0.8 * rho(0.1, F=0.41, C=1.39))


@pytest.mark.parametrize(
    ("sparsity", "gmse"), [(0.1, 5.2525e-4), (0.25, 8.3469e-3), (0.5, 0.0713259), (0.75, 0.276393), (0.9, 0.560714)]
)
def test_error_of_magnitude_pruning(sparsity, gmse):
    """The closed form agrees with its table and with pruning a large sample."""
    assert sparsity_gmse(sparsity) == pytest.approx(gmse, rel=2e-5)
    x = np.random.default_rng(0).normal(size=400_000)
    pruned = np.where(np.abs(x) < np.quantile(np.abs(x), sparsity), x, 0)
    assert np.mean(pruned**2) == pytest.approx(gmse, rel=0.02)
