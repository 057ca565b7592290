"""Codebooks for N(0, I) in 2 and 4 dimensions, made by `make_codebooks` and stored in `codebooks.npz`."""

import functools
import pathlib

import numpy as np
from jaxtyping import Float32

from compressed_lm.weights.grids import DYADIC

FILE = pathlib.Path(__file__).with_name("codebooks.npz")
SIZES = {2: (4, 8, 16, 32, 64, 128, 256, 512, 1024), 4: (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)}
"""Sizes of the codebooks, by dimension."""


@functools.cache
def codebook(dim: int, size: int) -> Float32[np.ndarray, "{size} {dim}"]:
    """Returns a codebook; its numbers are multiples of 1 / DYADIC."""
    with np.load(FILE) as arrays:
        return arrays[f"codes_{dim}_{size}"].astype(np.float32) / DYADIC


@functools.cache
def codebook_gmse(dim: int, size: int) -> tuple[float, float]:
    """Returns (mean squared error per dimension on new samples of N(0, I), standard error), measured once."""
    with np.load(FILE) as arrays:
        value, error = arrays[f"gmse_{dim}_{size}"]
    return float(value), float(error)
