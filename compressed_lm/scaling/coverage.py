"""Coverage of the intervals of `paired_difference`, by simulation.

    python -m compressed_lm.scaling.coverage

prints a Markdown table with the share of 95 % intervals that contain the true difference, by seeds and documents.
"""

import argparse
import itertools
from typing import Any

import numpy as np
import scipy.stats

from compressed_lm.scaling import paired

RUNS = ((2, 2), (2, 3), (3, 3), (5, 5))
DOCUMENTS = (50, 400)
RATIOS = (0.1, 0.5, 1.0, 2.0, 10.0)
EFFECTS: dict[str, dict[str, Any]] = {  # label in the table -> options of `coverage`
    "Gaussian": {},
    "heavy tails (t3)": {"freedom": 3.0},
    "Gaussian, only b has seeds that vary": {"equal_seeds": False},
}
_LEVEL = 0.95
_CHUNK = 1000  # comparisons held in memory at a time
_PER_DOCUMENT = 0.1  # standard deviation of the effect of a document on one method (bits per byte)
_HARD = 0.5  # standard deviation of the effect of a document on both methods (bits per byte)
_INTERACTION = 0.02  # standard deviation of the effect of a seed on a document (bits per byte)
_LENGTHS = 1.0  # standard deviation of the log of a document's bytes


def coverage(
    runs: tuple[int, int],
    n_documents: int,
    ratio: float,
    *,
    freedom: float = np.inf,
    equal_seeds: bool = True,
    samples: int = 2000,
    seed: int = 0,
) -> float:
    """Returns the share of simulated comparisons whose 95 % interval contains the true difference.

    Args:
        runs: number of seeds of each method.
        n_documents: number of documents; their lengths are log-normal.
        ratio: standard deviation of the difference due to seeds, divided by the one due to documents.
        freedom: degrees of freedom of Student's t for the effects of documents; infinite for Gaussian effects.
        equal_seeds: whether the seeds of both methods vary equally; if not, those of the first do not vary.
        samples: number of simulated comparisons.
        seed: random seed.
    """
    rng = np.random.default_rng(seed)
    held = 0
    for done in range(0, samples, _CHUNK):
        bits_a, bits_b, n_bytes = _draw(
            rng, runs, (min(_CHUNK, samples - done), n_documents), ratio, freedom, equal_seeds
        )
        value, sd, df = paired.student(paired.variance(bits_a, bits_b, n_bytes), runs)
        held += int((np.abs(value) <= scipy.stats.t.ppf((1 + _LEVEL) / 2, df) * sd).sum())
    return held / samples


def _draw(rng, runs, shape, ratio, freedom, equal_seeds) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns bits float64[samples, runs, D] of two equally good methods, and bytes float64[samples, D]."""

    def effects(scale):
        if np.isinf(freedom):
            return scale * rng.normal(size=shape)
        return scale * rng.standard_t(freedom, shape) * np.sqrt((freedom - 2) / freedom)

    n_bytes = rng.lognormal(7, _LENGTHS, shape)
    hard = 2 + effects(_HARD)
    of_documents = _PER_DOCUMENT * np.sqrt(2 * np.exp(_LENGTHS**2) / shape[1])
    of_seeds = [ratio * of_documents / np.sqrt(2)] * 2 if equal_seeds else [0.0, ratio * of_documents]
    bits = []
    for n, of_seed in zip(runs, of_seeds, strict=True):
        own = hard + effects(_PER_DOCUMENT)
        moved = of_seed * np.sqrt(n) * rng.normal(size=(shape[0], n, 1))
        moved = moved + _INTERACTION * rng.normal(size=(shape[0], n, shape[1]))
        bits.append((own[:, None] + moved) * n_bytes[:, None])
    return *bits, n_bytes


def table(*, samples: int = 2000) -> str:
    """Returns the coverage in all cases as a Markdown table; the last columns are named by `ratio`."""
    lines = [
        "| seeds of a, of b | documents | effects | " + " | ".join(f"{ratio:g}" for ratio in RATIOS) + " |",
        "| --- | --- | --- |" + " --- |" * len(RATIOS),
    ]
    for runs, n, (name, options) in itertools.product(RUNS, DOCUMENTS, EFFECTS.items()):
        found = [coverage(runs, n, ratio, samples=samples, **options) for ratio in RATIOS]
        lines.append(f"| {runs[0]}, {runs[1]} | {n} | {name} | {' | '.join(f'{share:.3f}' for share in found)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2000, help="comparisons for each case (default %(default)s)")
    print(table(samples=parser.parse_args().samples))


if __name__ == "__main__":
    main()
