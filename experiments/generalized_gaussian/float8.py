"""Relative errors of RF8, E4M3, E5M2 and E3M4 on random weights, with `quantize` of the formats.

    python experiments/generalized_gaussian/float8.py

Prints a Markdown table within half a minute on one core, one row per format:

- bits: bits per weight, scale or exponent included.
- values: number of different values in a matrix.
- binades: log2 of the largest magnitude over the smallest; in brackets, over the smallest with full precision.
- shape NU: mean squared error over mean square of generalized-Gaussian weights, in units of 1e-3. Large weights
  dominate it.
- N binades: root mean square and largest relative error of weights whose magnitudes are log-uniform over N binades, in
  per cent. All weights count equally, so weights below the range of a format have errors of up to 100 %.

Each figure is the mean over trials +- its standard error; largest errors are the maximum over all trials. E4M3, E5M2
and E3M4 have a float32 scale per matrix: the best one for that matrix and that error, of eight per octave. The scale of
RF8 is a power of two given by the largest weight, with no choice.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from compressed_lm import weights
from compressed_lm.errors import InputError
from compressed_lm.weights import rf8
from compressed_lm.weights.gennorm import GeneralizedGaussian

FORMATS = {
    "rf8": "rf8",
    "rf8(round=authors)": "rf8(round=authors)",
    "e4m3": "e4m3(rule=lsq)",  # the rule with a given scale per matrix
    "e5m2": "e5m2(rule=lsq)",
    "e3m4": "e3m4(rule=lsq)",
}
"""Representations by name in the table."""
SHAPES = (0.5, 1.0, 2.0)
BINADES = (8, 15)
STEPS = 8  # scales tried per octave
HEADROOM = 5  # octaves: the largest level is tried from 2**-HEADROOM of the largest weight to 2**HEADROOM of it

Error = Callable[[jax.Array, jax.Array], jax.Array]


def squared_error(w: jax.Array, quantized: jax.Array) -> jax.Array:
    """Returns the mean squared error divided by the mean square."""
    return jnp.mean((quantized - w) ** 2) / jnp.mean(w**2)


def relative_error(w: jax.Array, quantized: jax.Array) -> jax.Array:
    """Returns the mean squared relative error."""
    return jnp.mean((quantized / w - 1) ** 2)


def gaussian_draws(shape: float, side: int, trials: int, seed: int) -> Iterator[np.ndarray]:
    """Returns float32[side, side] matrices of generalized-Gaussian weights with standard deviation 1."""
    distribution = GeneralizedGaussian.from_std(shape, 1.0)
    for trial in range(trials):
        yield distribution.sample(np.random.default_rng([seed, trial]), (side, side)).astype(np.float32)


def log_uniform_draws(binades: int, side: int, trials: int, seed: int) -> Iterator[np.ndarray]:
    """Returns float32[side, side] matrices of both signs with magnitudes 2**u, u uniform over (-binades, 0]."""
    for trial in range(trials):
        rng = np.random.default_rng([seed, trial])
        magnitude = 2.0 ** -rng.uniform(0, binades, (side, side))
        yield (magnitude * rng.choice([-1.0, 1.0], (side, side))).astype(np.float32)


def levels_of(rep: weights.Representation) -> np.ndarray:
    """Returns the sorted values of a format before scaling."""
    return rf8.levels_and_edges(rep.rounding)[0] if isinstance(rep, rf8.RF8) else rep.grid()


def quantized_best(rep: weights.Representation, w: np.ndarray, error: Error) -> jax.Array:
    """Returns w in the format, with the scale of least error if the format has a free scale."""
    if isinstance(rep, rf8.RF8):
        return rep.quantize(w)
    octaves = np.arange(-HEADROOM * STEPS, HEADROOM * STEPS + 1) / STEPS
    scales = np.abs(w).max() / levels_of(rep)[-1] * 2.0**octaves
    quantize = lambda scale: rep.quantize(w, params={"scale": scale})  # noqa: E731
    errors = jax.lax.map(lambda scale: error(w, quantize(scale)), jnp.asarray(scales, jnp.float32))
    return quantize(jnp.asarray(scales[int(jnp.argmin(errors))], jnp.float32))


def mean_and_error(values) -> tuple[float, float]:
    """Returns mean and standard error."""
    return float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values)))


def measure(rep: weights.Representation, *, side: int, trials: int, seed: int) -> dict[str, object]:
    """Returns the row of a format: errors as fractions, each with its standard error."""
    levels = levels_of(rep)
    positive = levels[levels > 0]
    # From here on the spacing grows with the magnitude; values below are subnormal.
    normal = positive[0] if isinstance(rep, rf8.RF8) else 2.0 ** (2 - 2 ** (rep.e - 1))
    row = {
        "bits": rep.bits_per_weight((side, side)),
        "values": len(levels),
        "binades": math.log2(positive[-1] / positive[0]),
        "normal_binades": math.log2(positive[-1] / normal),
    }
    for shape in SHAPES:
        draws = gaussian_draws(shape, side, trials, seed)
        errors = [float(squared_error(w, quantized_best(rep, w, squared_error))) for w in draws]
        row[f"shape_{shape:g}"], row[f"shape_{shape:g}_error"] = mean_and_error(errors)
    for binades in BINADES:
        rms, largest = [], 0.0
        for w in log_uniform_draws(binades, side, trials, seed):
            quantized = quantized_best(rep, w, relative_error)
            rms.append(math.sqrt(relative_error(w, quantized)))
            largest = max(largest, float(jnp.max(jnp.abs(quantized / w - 1))))
        row[f"binades_{binades}_rms"], row[f"binades_{binades}_rms_error"] = mean_and_error(rms)
        row[f"binades_{binades}_max"] = largest
    return row


def table(*, side: int = 512, trials: int = 8, seed: int = 0) -> list[dict[str, object]]:
    """Returns the rows of all formats.

    Args:
        side: matrices are side x side.
        trials: number of matrices per distribution, at least 2; the same for each format.
        seed: seed of the matrices.

    Raises:
        InputError: fewer than two trials, or a side below 1.
    """
    if trials < 2 or side < 1:
        raise InputError(
            f"trials={trials} and side={side} were given; expected 2 or more trials, for a standard error, and a side "
            "of 1 or more."
        )
    return [
        {"format": name} | measure(weights.representation(spec), side=side, trials=trials, seed=seed)
        for name, spec in FORMATS.items()
    ]


def markdown(rows: list[dict[str, object]]) -> str:
    """Returns the rows as a Markdown table."""
    heads = ["format", "bits", "values", "binades", *(f"shape {shape:g}, 1e-3" for shape in SHAPES)]
    for binades in BINADES:
        heads += [f"{binades} binades, rms %", "max %"]
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1)]
    for row in rows:
        cells = [f"{row['format']}", f"{row['bits']:.4f}", f"{row['values']}"]
        cells += [f"{row['binades']:.1f} ({row['normal_binades']:.1f})"]
        for shape in SHAPES:
            cells.append(f"{1e3 * row[f'shape_{shape:g}']:.4f} ± {1e3 * row[f'shape_{shape:g}_error']:.4f}")
        for binades in BINADES:
            name = f"binades_{binades}"
            cells += [f"{100 * row[f'{name}_rms']:.3f} ± {100 * row[f'{name}_rms_error']:.3f}"]
            cells += [f"{100 * row[f'{name}_max']:.2f}"]
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options = (
        ("side", 512, "side of the square matrices"),
        ("trials", 8, "matrices of each distribution, 2 or more"),
        ("seed", 0, "of the draws"),
    )
    for name, default, text in options:
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{text} (default {default})")
    arguments = parser.parse_args()
    try:
        print(markdown(table(side=arguments.side, trials=arguments.trials, seed=arguments.seed)))
    except InputError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
