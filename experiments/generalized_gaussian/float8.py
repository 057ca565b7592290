"""RF8 beside E4M3, E5M2 and E3M4: relative errors on drawn weights, by the formats' own quantize.

    python experiments/generalized_gaussian/float8.py

prints a Markdown table, in half a minute of one core, one row a format:

- bits: a weight of the matrix, its scale or exponent included.
- values: different ones a matrix can have.
- binades: log2 of the largest magnitude over the smallest; in brackets, over the smallest of full precision.
- shape NU: mean squared error over mean square of generalized-Gaussian weights, in units of 1e-3. Large weights
  dominate it.
- N binades: root mean square and largest relative error of weights whose magnitudes are log-uniform over N binades, in
  per cent. All weights count the same, so what falls below a format's range counts as an error of up to 100 %.

Each figure is the mean over the trials +- its standard error; largest errors are the largest of all trials. E4M3, E5M2
and E3M4 have a float32 scale for each matrix, the best one for that matrix and that error, of eight in an octave. RF8
has the power of two that its largest weight gives it, and no choice.
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
    "e4m3": "e4m3(rule=lsq)",  # the rule whose scale is given, one for each matrix
    "e5m2": "e5m2(rule=lsq)",
    "e3m4": "e3m4(rule=lsq)",
}
"""Representations by the name in the table."""
SHAPES = (0.5, 1.0, 2.0)
BINADES = (8, 15)
STEPS = 8  # scales tried in an octave
HEADROOM = 5  # octaves: the largest level is tried from 2**-HEADROOM of the largest weight to 2**HEADROOM of it

Error = Callable[[jax.Array, jax.Array], jax.Array]


def squared_error(w: jax.Array, quantized: jax.Array) -> jax.Array:
    """Mean squared error over mean square."""
    return jnp.mean((quantized - w) ** 2) / jnp.mean(w**2)


def relative_error(w: jax.Array, quantized: jax.Array) -> jax.Array:
    """Mean squared relative error."""
    return jnp.mean((quantized / w - 1) ** 2)


def gaussian_draws(shape: float, side: int, trials: int, seed: int) -> Iterator[np.ndarray]:
    """Matrices float32[side, side] of generalized-Gaussian weights of standard deviation 1."""
    distribution = GeneralizedGaussian.from_std(shape, 1.0)
    for trial in range(trials):
        yield distribution.sample(np.random.default_rng([seed, trial]), (side, side)).astype(np.float32)


def log_uniform_draws(binades: int, side: int, trials: int, seed: int) -> Iterator[np.ndarray]:
    """Matrices float32[side, side] of either sign whose magnitudes are 2**u, u uniform over (-binades, 0]."""
    for trial in range(trials):
        rng = np.random.default_rng([seed, trial])
        magnitude = 2.0 ** -rng.uniform(0, binades, (side, side))
        yield (magnitude * rng.choice([-1.0, 1.0], (side, side))).astype(np.float32)


def levels_of(rep: weights.Representation) -> np.ndarray:
    """The values of a matrix before its scale, sorted."""
    return rf8.levels_and_edges(rep.rounding)[0] if isinstance(rep, rf8.RF8) else rep.grid()


def quantized_best(rep: weights.Representation, w: np.ndarray, error: Error) -> jax.Array:
    """w by the format, with the scale of least error where it has one to choose."""
    if isinstance(rep, rf8.RF8):
        return rep.quantize(w)
    octaves = np.arange(-HEADROOM * STEPS, HEADROOM * STEPS + 1) / STEPS
    scales = np.abs(w).max() / levels_of(rep)[-1] * 2.0**octaves
    quantize = lambda scale: rep.quantize(w, params={"scale": scale})  # noqa: E731
    errors = jax.lax.map(lambda scale: error(w, quantize(scale)), jnp.asarray(scales, jnp.float32))
    return quantize(jnp.asarray(scales[int(jnp.argmin(errors))], jnp.float32))


def mean_and_error(values) -> tuple[float, float]:
    """Mean and standard error."""
    return float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values)))


def measure(rep: weights.Representation, *, side: int, trials: int, seed: int) -> dict[str, object]:
    """What the row of a format says of it: errors as fractions, each with its standard error."""
    levels = levels_of(rep)
    positive = levels[levels > 0]
    # From here up the spacing follows the magnitude: subnormal numbers lie below.
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
    """The rows of all formats.

    Args:
        side: matrices are side x side.
        trials: matrices of each distribution, the same ones for each format; 2 or more.
        seed: of the draws.

    Raises:
        InputError: fewer than two trials, or matrices without weights.
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
    """The rows as a table."""
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
