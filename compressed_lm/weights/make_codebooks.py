"""Creation of `codebooks.npz`: k-means on samples of N(0, I), in 2 and 4 dimensions.

    python -m compressed_lm.weights.make_codebooks

The same seeds give the same bits. It takes about 10 minutes on two cores.
"""

import numpy as np
from jaxtyping import Int16
from scipy.spatial import cKDTree

from compressed_lm.weights.codebooks import FILE, SIZES
from compressed_lm.weights.grids import DYADIC

_SAMPLES = 1 << 19
_ROUNDS = 60
_TEST_SAMPLES = 1 << 22


def make(dim: int, size: int, *, samples: int = _SAMPLES, rounds: int = _ROUNDS) -> Int16[np.ndarray, "{size} {dim}"]:
    """Returns a codebook in units of 1 / DYADIC: Lloyd's algorithm on a sample with a fixed seed."""
    rng = np.random.default_rng(dim * 10_000 + size)
    x = rng.standard_normal((samples, dim))
    # The density of the best codes is proportional to pdf**(dim / (dim + 2)), a wider normal distribution.
    codes = rng.standard_normal((size, dim)) * np.sqrt((dim + 2) / dim)
    for _ in range(rounds):
        nearest = cKDTree(codes).query(x)[1]
        count = np.bincount(nearest, minlength=size)
        total = np.stack([np.bincount(nearest, weights=x[:, d], minlength=size) for d in range(dim)], axis=1)
        codes = np.where(count[:, None] > 0, total / np.maximum(count, 1)[:, None], x[:size])
    return np.round(codes * DYADIC).astype(np.int16)


def measure(
    codes: Int16[np.ndarray, "size dim"], *, samples: int = _TEST_SAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Returns (mean squared error per dimension, standard error) of a codebook on N(0, I)."""
    x = np.random.default_rng(seed).standard_normal((samples, codes.shape[1]))
    errors = cKDTree(codes / DYADIC).query(x)[0] ** 2 / codes.shape[1]
    return errors.mean(), errors.std() / np.sqrt(samples)


def main() -> None:
    """Writes `codebooks.npz` and prints the GMSE of each codebook."""
    arrays: dict[str, np.ndarray] = {}
    for dim, sizes in SIZES.items():
        for size in sizes:
            codes = make(dim, size)
            value, error = measure(codes)
            arrays |= {f"codes_{dim}_{size}": codes, f"gmse_{dim}_{size}": np.array([value, error])}
            name = f"dim={dim} bits={np.log2(size) / dim:g}"
            print(f"{name} GMSE {value:.5g} +- {error:.1g}, {-np.log(value) / np.log(4):.3f} effective bits")
    np.savez_compressed(FILE, allow_pickle=False, **arrays)


if __name__ == "__main__":
    main()
