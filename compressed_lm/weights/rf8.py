"""RF8, an 8-bit residual floating-point format: each weight is a power of two plus or minus a smaller one.

papers/002 section 5 (arXiv 2506.00486 v1-v3). The value 2**e * (1 + r) has one of eight residuals r: 0, +1/2, +1/4,
+1/8, +1/16, -1/4, -1/8, -1/16, so a product is two shifts and an addition. The authors' program only simulates values;
the byte layout is ours: one sign bit, four exponent bits, three residual bits, and one exponent per matrix.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from compressed_lm.errors import InputError
from compressed_lm.weights import grids, rounding
from compressed_lm.weights.blocks import LARGEST_OF_TENSOR
from compressed_lm.weights.options import check_choice
from compressed_lm.weights.protocol import Representation, kept
from compressed_lm.weights.storage import Floats, Stored

BINADES = 16
FACTORS = (1.5, 0.75, 0.875, 0.9375, 1.0, 1.0625, 1.125, 1.25)
"""1 + r, by the three residual bits."""
LARGEST = 1.5  # magnitudes, as multiples of the matrix's power of two
SMALLEST = 0.75 * 2.0 ** (1 - BINADES)

_EXPONENTS = (-110, 126)  # of the matrix's power of two: its inverse and the smallest weight are normal float32 numbers


def octave(rule: str, *, limit: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Returns (points, edges), float64[2 * limit - 1] each: the magnitudes in [1, 2) and their upper boundaries.

    The authors round log2|w| to e1, log2 of the rest to e2, and keep both powers of two if e1 - e2 <= limit. Their
    boundaries |w| = 2**(e1 + 1/2) and |w - 2**e1| = 2**(e2 + 1/2) are these edges; the first is inside the cell of 1.5,
    which is both 1 + 1/2 and 2 - 1/2.

    Args:
        rule: nearest or authors.
        limit: largest difference of the exponents of the two powers of two; 4 in RF8.
    """
    above, below = 2.0 ** -np.arange(limit, 0, -1), 2.0 ** -np.arange(1, limit)
    points = np.concatenate([[1.0], 1 + above, 2 - below[1:]])
    if rule == "nearest":
        return points, (points + np.append(points[1:], 2)) / 2
    return points, np.concatenate([1 + above / np.sqrt(2), 2 - below / np.sqrt(2)])


def levels_and_edges(rule: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns (levels float64[227], edges float64[226]) for a matrix whose power of two is 1, sorted."""
    points, edges = octave(rule)
    powers = 2.0 ** np.arange(-BINADES, 1)[:, None]
    points, edges = (points[None] * powers).reshape(-1), (edges[None] * powers).reshape(-1)
    own = (points >= SMALLEST) & (points <= LARGEST)
    points, edges = points[own], np.concatenate([[SMALLEST / 2], edges[own][:-1]])
    return np.concatenate([-points[::-1], [0.0], points]), np.concatenate([-edges[::-1], edges])


@dataclasses.dataclass(frozen=True)
class RF8(Representation):
    """Two powers of two in a byte, with one exponent per matrix; straight-through gradient.

    A matrix's power of two P is such that its largest magnitude is in (0.75 P, 1.5 P]. There are seven magnitudes in an
    octave (1, 1.0625, 1.125, 1.25, 1.5, 1.75, 1.875), from 0.75 * 2**-15 P to 1.5 P, and zero. A weight below the
    smallest magnitude becomes that magnitude or zero, whichever is nearer.

    Attributes:
        rounding: the option `round`. nearest: to the nearest value, ties to the smaller magnitude. authors: in the
            logarithm, as in the authors' program (see `octave`).
    """

    name: ClassVar[str] = "rf8"
    summary: ClassVar[str] = "sums of two powers of two, in a byte"
    example: ClassVar[str] = "rf8"
    maskable: ClassVar[bool] = True
    rounding: str = dataclasses.field(default="nearest", metadata={"option": "round"})

    def __post_init__(self) -> None:
        check_choice(self.name, "round", self.rounding, ("nearest", "authors"))

    def gmse_with_error(self) -> tuple[float, float]:
        return self._error(None), 0.0

    def _kept_error(self, source):
        return self._error(source.density)

    def _error(self, density):
        # Levels are scaled by powers of two, so the largest weight only determines the ends of the range.
        power = 2.0 ** np.ceil(np.log2(LARGEST_OF_TENSOR / LARGEST))
        levels, edges = levels_and_edges(self.rounding)
        return grids.grid_error(levels, power, density, edges=edges)

    def _parts(self, rows, *, params, keep, source):
        largest = jnp.max(jnp.abs(kept(rows, keep)), axis=(-1, -2), keepdims=True)
        exponent = rounding.floor_log2(largest)
        exponent = exponent + (largest > LARGEST * rounding.power_of_two(jnp.maximum(exponent, -126)))
        exponent = jnp.clip(exponent, *_EXPONENTS)
        values = self._rounded(rows * rounding.power_of_two(-exponent))
        return {"scale": rounding.power_of_two(exponent), "values": values}

    def _rounded(self, x):
        """Returns the value of each float32, for a matrix whose power of two is 1. NaN stays."""
        size = jnp.minimum(jnp.abs(x), np.float32(LARGEST))
        exponent = rounding.floor_log2(size)
        fraction = size * rounding.power_of_two(-exponent)  # exact, in [1, 2); 0 for 0
        points, edges = octave(self.rounding)
        steps = np.diff(np.append(points, 2)).astype(np.float32)
        magnitude = jnp.ones_like(size)
        for edge, step in zip(_float32_below(edges), steps, strict=True):
            magnitude = magnitude + jnp.where(fraction > edge, step, np.float32(0))
        magnitude = magnitude * rounding.power_of_two(exponent)
        flushed = jnp.where(size > np.float32(SMALLEST / 2), np.float32(SMALLEST), np.float32(0))
        magnitude = jnp.where(size < np.float32(SMALLEST), flushed, magnitude)
        value = jnp.where(x < 0, -magnitude, magnitude)
        return jnp.where(jnp.isnan(x), x, rounding.without_sign_of_zero(value))

    def _restore(self, parts, length, *, rotated=False):
        return parts["values"] * parts["scale"]

    def _layout(self, shape):
        return {"scale": Floats((*shape[:-2], 1, 1), "float8_e8m0fnu"), "values": ResidualCodes(shape)}


def _float32_below(edges):
    """Returns the largest float32 of at most each edge: a float32 is above it if and only if it is above the edge.

    The authors' edges are irrational: no float32 is equal to them, and float64 is precise enough for this.
    """
    nearest = edges.astype(np.float32)
    return np.where(nearest > edges, np.nextafter(nearest, np.float32(0)), nearest)


def _byte_values():
    """Returns float32[256], the value of each byte for a matrix whose power of two is 1; NaN for unused bytes.

    1 + 1/2 and 2 - 1/2 are the same magnitude. It is written as the second, so only the highest exponent uses the
    residual +1/2. This frees 30 bytes, and the first of them is zero; no magnitude is lost.
    """
    exponents = np.arange(1 - BINADES, 1)[:, None]
    magnitudes = np.array(FACTORS, np.float32)[None] * np.float32(2) ** exponents
    magnitudes[:-1, 0] = np.nan
    values = np.stack([magnitudes, -magnitudes]).reshape(-1)
    values[0] = 0
    return values.astype(np.float32)


_VALUES = _byte_values()
_ORDER = np.argsort(_VALUES)[: np.isfinite(_VALUES).sum()].astype(np.uint8)  # NaN sorts last


@dataclasses.dataclass(frozen=True)
class ResidualCodes(Stored):
    """RF8 values, one byte each: sign (1 bit), exponent (4 bits, 15 for P), residual (3 bits, see `FACTORS`)."""

    @property
    def nbytes(self) -> int:
        return self.count

    def to_bytes(self, array: np.ndarray) -> bytes:
        array = np.asarray(array, np.float32).reshape(-1)
        if np.isnan(array).any():
            raise InputError(
                "Weights that are NaN were given; expected numbers, because rf8 has no code for NaN. Pack a checkpoint "
                "from before the run diverged."
            )
        return _ORDER[np.searchsorted(_VALUES[_ORDER], array)].tobytes()

    def from_bytes(self, content: bytes) -> np.ndarray:
        values = _VALUES[np.frombuffer(content, np.uint8)].reshape(self.shape)
        if np.isnan(values).any():
            raise ValueError("a byte without a value")
        return values
