"""Two codecs on the same documents: how sure a difference in bits per byte is."""

import numpy as np

from compressed_lm.scaling.bootstrap import Estimate, interval


def paired_difference(
    bits_a: np.ndarray,
    bits_b: np.ndarray,
    n_bytes: np.ndarray,
    *,
    samples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Bits per byte of a less those of b, with an interval from a paired bootstrap over documents.

    Documents are drawn with replacement, the same for both, and the runs of each, apart. A document counts by its
    bytes, as in bits per byte.

    Args:
      bits_a, bits_b: float64[runs, D], bits of each document under each run (another seed); numbers of runs may differ.
      n_bytes: int64[D], bytes of each document.
      samples: number of draws.
      level: share of the draws within the interval.
      seed: of the drawing.

    Raises:
      ValueError: the arrays are not about the same documents.
    """
    bits_a, bits_b, n_bytes = np.atleast_2d(bits_a), np.atleast_2d(bits_b), np.asarray(n_bytes, float)
    if not bits_a.shape[1] == bits_b.shape[1] == len(n_bytes):
        raise ValueError(
            f"Bits of {bits_a.shape[1]} and {bits_b.shape[1]} documents were given, and bytes of {len(n_bytes)}; the "
            "same documents in the same order were expected."
        )
    rng, drawn = np.random.default_rng(seed), np.empty(samples)
    for i in range(samples):
        weights = rng.multinomial(len(n_bytes), np.full(len(n_bytes), 1 / len(n_bytes)))
        of_runs = [bits[rng.integers(len(bits), size=len(bits))].mean(0) for bits in (bits_a, bits_b)]
        drawn[i] = (of_runs[0] - of_runs[1]) @ weights / (n_bytes @ weights)
    value = float((bits_a.mean(0) - bits_b.mean(0)).sum() / n_bytes.sum())
    return Estimate(value, *interval(drawn, level=level), float(drawn.std(ddof=1)))
