"""Codebooks of vector quantisation."""

import numpy as np
import pytest

from compressed_lm.weights import codebooks, grids, make_codebooks


@pytest.mark.parametrize("dim, size", [(2, 16), (2, 1024), (4, 16), (4, 4096)])
def test_recorded_errors_are_those_of_the_codebooks(dim, size):
    """The GMSE in the file equals that of its codes on samples of another seed."""
    codes = np.round(codebooks.codebook(dim, size) * grids.DYADIC).astype(np.int16)
    value, error = make_codebooks.measure(codes, samples=200_000, seed=7)
    recorded, recorded_error = codebooks.codebook_gmse(dim, size)
    assert abs(value - recorded) < 4 * (error + recorded_error)


def test_vector_grids_beat_scalar_ones_and_obey_shannon():
    """At equal bits, errors are below Lloyd-Max, lower in four dimensions than in two, and above 4**-bits."""
    for bits in (1, 2, 3):
        scalar = grids.grid_error(grids.lloyd_levels(2**bits), 1.0)
        two, four = (codebooks.codebook_gmse(dim, 2 ** (dim * bits))[0] for dim in (2, 4))
        assert scalar * 1.001 > two > four > 4.0**-bits


def test_every_size_is_in_the_file():
    """All codebooks exist and have finite, distinct codes."""
    for dim, sizes in codebooks.SIZES.items():
        for size in sizes:
            codes = codebooks.codebook(dim, size)
            assert codes.shape == (size, dim) and len(np.unique(codes, axis=0)) == size and np.abs(codes).max() < 8


def test_making_a_codebook_is_deterministic():
    """The same seed gives the same codes, and their error is near that of the codes in the file."""
    first, second = (make_codebooks.make(2, 16, samples=30_000, rounds=30) for _ in range(2))
    assert np.array_equal(first, second)
    assert make_codebooks.measure(first, samples=200_000)[0] < 1.05 * codebooks.codebook_gmse(2, 16)[0]
