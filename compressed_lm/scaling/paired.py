"""Two codecs on the same documents: how sure a difference in bits per byte is."""

import functools

import numpy as np

from compressed_lm.scaling.bootstrap import Estimate, interval


@functools.lru_cache(maxsize=4)
def _draws(n_documents, runs_a, runs_b, samples, seed) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How often each document and each run is drawn, [samples, ...]; kept, since most of the time goes into drawing."""
    rng, drawn = np.random.default_rng(seed), []
    for _ in range(samples):
        documents = rng.multinomial(n_documents, np.full(n_documents, 1 / n_documents))
        drawn.append((documents, *(np.bincount(rng.integers(n, size=n), minlength=n) for n in (runs_a, runs_b))))
    return tuple(np.array(part, float) for part in zip(*drawn, strict=True))


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
    documents, *runs = _draws(len(n_bytes), len(bits_a), len(bits_b), samples, seed)
    of_runs = [(n * (documents @ bits.T)).sum(1) / len(bits) for n, bits in zip(runs, (bits_a, bits_b), strict=True)]
    drawn = (of_runs[0] - of_runs[1]) / (documents @ n_bytes)
    value = float((bits_a.mean(0) - bits_b.mean(0)).sum() / n_bytes.sum())
    return Estimate(value, *interval(drawn, level=level), float(drawn.std(ddof=1)))
