"""Uniformity of the bit stream of a codec (Lester et al. 2024, section 6.3, appendix D.6)."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from compressed_lm.codecs.protocol import Codec
from compressed_lm.errors import InputError
from compressed_lm.token_analysis.windows import token_width


def ngram_uniformity(
    codec: Codec,
    documents: Sequence[bytes],
    n_bits: Sequence[int] = (1, 2, 4, 8, 12, 16),
    *,
    n_partitions: int = 20,
    seed: int = 0,
) -> pd.DataFrame:
    """Returns the divergence from uniform of the bit n-grams of a codec's stream, and of equally many random bits.

    The stream is the concatenated ids of the documents, each in the fewest bits for V ids (a vocabulary that is not a
    power of two therefore cannot be uniform). It is split into equal parts; the n-grams of a part start at every bit
    ("overlapping") or at every n-th bit ("aligned"; parts start at token boundaries). In the divergence n - H, H has
    the Miller-Madow correction: plus (different n-grams - 1) / (2 x n-grams), in nats. The divergence can be below 0.
    With fewer than about 2^n n-grams per part it is too high; `control_*` shows by how much.

    Args:
        codec, documents: the stream; its ids are held in memory.
        n_bits: values of n, 1 to 24.
        n_partitions: number of parts; percentiles are over parts.
        seed: random seed of the random bits.

    Returns:
        One row per kind and n: `codec`, `kind`, `n_bits`, `n_ngrams` (in each part), and `p5`, `p50`, `p95`,
        `control_p5`, `control_p50`, `control_p95` (percentiles over parts of the Kullback-Leibler divergence in bits
        per n-gram).

    Raises:
        InputError: the text is too short for the parts.
    """
    ids = np.concatenate([np.zeros(0, np.int32), *codec.encode_batch(documents)])
    return uniformity_of_ids(codec, ids, n_bits, n_partitions=n_partitions, seed=seed)


def uniformity_of_ids(
    codec: Codec, ids: np.ndarray, n_bits: Sequence[int], *, n_partitions: int, seed: int
) -> pd.DataFrame:
    """Returns `ngram_uniformity` of a stream of ids int32[T]."""
    width = token_width(codec.vocab_size)
    step = math.lcm(width, *n_bits) // width
    size = len(ids) // n_partitions // step * step
    if size == 0:
        raise InputError(
            f"{len(ids)} ids of {codec.spec} were given. Expected {n_partitions} parts of at least {step} ids: give "
            "more text or fewer parts."
        )
    rng = np.random.default_rng(seed)
    shifts = np.arange(width - 1, -1, -1)
    keys = [(kind, n) for n in n_bits for kind in ("overlapping", "aligned")]
    divergences: dict[tuple[str, int, str], list[float]] = {
        (*key, name): [] for key in keys for name in ("", "control_")
    }
    n_ngrams: dict[tuple[str, int], int] = {}
    for start in range(0, n_partitions * size, size):
        part = (ids[start : start + size, None] >> shifts & 1).astype(np.uint8).reshape(-1)
        for name, bits in (("", part), ("control_", rng.integers(0, 2, len(part), np.uint8))):
            grams, n = bits.astype(np.uint32), 1
            for wanted in sorted(set(n_bits)):
                for more in range(n, wanted):
                    grams = (grams[:-1] << np.uint32(1)) | bits[more:]
                n = wanted
                for kind, chosen in (("overlapping", grams), ("aligned", grams[::n])):
                    n_ngrams[kind, n] = len(chosen)
                    divergences[kind, n, name].append(kl_to_uniform(np.bincount(chosen, minlength=1 << n)))
    rows = []
    for kind, n in keys:
        row = {"codec": codec.spec, "kind": kind, "n_bits": n, "n_ngrams": n_ngrams[kind, n]}
        for name in ("", "control_"):
            percentiles = np.percentile(divergences[kind, n, name], (5, 50, 95))
            row |= {f"{name}p{p}": value for p, value in zip((5, 50, 95), percentiles, strict=True)}
        rows.append(row)
    return pd.DataFrame(rows)


def entropy_bits(counts: np.ndarray, *, corrected: bool = True) -> float:
    """Returns the entropy in bits of a distribution from integer[K] counts, with the Miller-Madow correction."""
    seen = counts[counts > 0].astype(float)
    total = seen.sum()
    if not total:
        return 0.0
    plain = math.log2(total) - float((seen * np.log2(seen)).sum()) / total
    return plain + corrected * (len(seen) - 1) / (2 * total * math.log(2))


def kl_to_uniform(counts: np.ndarray) -> float:
    """Returns the divergence in bits of a distribution from the uniform one over K, from integer[K] counts."""
    return math.log2(len(counts)) - entropy_bits(counts)
