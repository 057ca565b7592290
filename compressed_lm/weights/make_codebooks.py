"""Makes `codebooks.npz`: k-means on samples of N(0, I), in 2 and 4 dimensions.

    python -m compressed_lm.weights.make_codebooks

writes the same bits from the same seeds; it takes about ten minutes on two cores.
"""

import numpy as np
from scipy.spatial import cKDTree

from compressed_lm.weights.codebooks import FILE, SIZES
from compressed_lm.weights.grids import DYADIC

_SAMPLES = 1 << 19
_ROUNDS = 60
_TEST_SAMPLES = 1 << 22


def make(dim: int, size: int, *, samples: int = _SAMPLES, rounds: int = _ROUNDS) -> np.ndarray:
    """Returns int16[size, dim] in units of 1 / DYADIC: Lloyd's algorithm on a sample of fixed seed."""
    rng = np.random.default_rng(dim * 10_000 + size)
    x = rng.standard_normal((samples, dim))
    # The density of the best codes goes with pdf**(dim / (dim + 2)), which is a wider normal.
    codes = rng.standard_normal((size, dim)) * np.sqrt((dim + 2) / dim)
    for _ in range(rounds):
        nearest = cKDTree(codes).query(x)[1]
        count = np.bincount(nearest, minlength=size)
        total = np.stack([np.bincount(nearest, weights=x[:, d], minlength=size) for d in range(dim)], axis=1)
        codes = np.where(count[:, None] > 0, total / np.maximum(count, 1)[:, None], x[:size])
    return np.round(codes * DYADIC).astype(np.int16)


def measure(codes: np.ndarray, *, samples: int = _TEST_SAMPLES, seed: int = 0) -> tuple[float, float]:
    """Returns (mean squared error a dimension, standard error) of int16[size, dim] on N(0, I)."""
    x = np.random.default_rng(seed).standard_normal((samples, codes.shape[1]))
    errors = cKDTree(codes / DYADIC).query(x)[0] ** 2 / codes.shape[1]
    return errors.mean(), errors.std() / np.sqrt(samples)


def main() -> None:
    """Writes `codebooks.npz` and prints each codebook's GMSE."""
    arrays = {}
    for dim, sizes in SIZES.items():
        for size in sizes:
            codes = make(dim, size)
            value, error = measure(codes)
            arrays |= {f"codes_{dim}_{size}": codes, f"gmse_{dim}_{size}": np.array([value, error])}
            name = f"dim={dim} bits={np.log2(size) / dim:g}"
            print(f"{name} GMSE {value:.5g} +- {error:.1g}, {-np.log(value) / np.log(4):.3f} effective bits")
    np.savez_compressed(FILE, **arrays)


if __name__ == "__main__":
    main()
