"""Formats with low-bit block scales or outliers: mxfp4, nvfp4, outlier."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from compressed_lm.weights import grids, rounding
from compressed_lm.weights.options import check_choice, check_range
from compressed_lm.weights.protocol import Representation, kept
from compressed_lm.weights.scalar import Int, groups, n_groups, spread
from compressed_lm.weights.sparsity import magnitude_mask, scattered
from compressed_lm.weights.storage import Floats, Levels, Mask

E2M1_MAX = 6.0
E4M3_MAX = 448.0
_E2M1 = tuple(grids.float_levels(2, 1).tolist())
LARGEST_OF_TENSOR = 5.0  # assumed largest weight of a matrix, in standard deviations, for the scale in nvfp4's `gmse`


@dataclasses.dataclass(frozen=True)
class MXFP4(Representation):
    """E2M1 in blocks of 32 with a power-of-two scale (OCP microscaling); straight-through gradient.

    Attributes:
        scale: floor: 2**(floor(log2 of the largest magnitude) - 2), as in the standard, which clips the largest
            weights. best: this or twice this, whichever has the smaller squared error.
    """

    name: ClassVar[str] = "mxfp4"
    summary: ClassVar[str] = "OCP microscaling: 4-bit floats, a power-of-two scale for every 32"
    example: ClassVar[str] = "mxfp4"
    maskable: ClassVar[bool] = True
    block: ClassVar[int] = 32
    scale: str = "floor"

    def __post_init__(self) -> None:
        check_choice(self.name, "scale", self.scale, ("floor", "best"))

    def gmse_with_error(self) -> tuple[float, float]:
        if self.scale == "best":
            return super().gmse_with_error()
        scale_of = lambda m: 2.0 ** (np.floor(np.log2(m)) - 2)  # noqa: E731
        return grids.blockwise_error(np.array(_E2M1), scale_of, self.block), 0.0

    def _parts(self, rows, *, params, keep, source):
        x = groups(kept(rows, keep), self.block)
        largest = jnp.max(jnp.abs(x), axis=-1)
        scale = rounding.power_of_two(jnp.clip(rounding.floor_log2(largest) - 2, -100, 125))
        if self.scale == "best":
            error = lambda s: jnp.sum((_e2m1(x, s[..., None]) * s[..., None] - x) ** 2, axis=-1)  # noqa: E731
            scale = jnp.where(error(2 * scale) < error(scale), 2 * scale, scale)
        return {"scale": scale, "values": _e2m1(rows, spread(scale, rows.shape[-1], self.block))}

    def _restore(self, parts, length, *, rotated=False):
        return parts["values"] * spread(parts["scale"], length, self.block)

    def _layout(self, shape):
        scales = (*shape[:-1], n_groups(shape[-1], self.block))
        return {"scale": Floats(scales, "float8_e8m0fnu"), "values": Levels(shape, _E2M1)}


@dataclasses.dataclass(frozen=True)
class NVFP4(Representation):
    """E2M1 in blocks of 16 with E4M3 scales and a float32 scale per matrix; straight-through gradient.

    A block's scale maps its largest magnitude to level 6; the matrix's scale maps its largest block scale to 448.
    """

    name: ClassVar[str] = "nvfp4"
    summary: ClassVar[str] = "4-bit floats, an 8-bit float scale for every 16"
    example: ClassVar[str] = "nvfp4"
    maskable: ClassVar[bool] = True
    block: ClassVar[int] = 16

    def gmse_with_error(self) -> tuple[float, float]:
        levels, e4m3 = np.array(_E2M1), grids.float_levels(4, 3)
        e4m3 = e4m3[e4m3 > 0]
        tensor = LARGEST_OF_TENSOR / (E2M1_MAX * E4M3_MAX)
        scale_of = lambda m: tensor * e4m3[np.argmin(np.abs(e4m3 - m / E2M1_MAX / tensor))]  # noqa: E731
        return grids.blockwise_error(levels, scale_of, self.block), 0.0

    def _parts(self, rows, *, params, keep, source):
        x = kept(rows, keep)
        largest = jnp.max(jnp.abs(x), axis=(-1, -2), keepdims=True)
        tensor = largest / np.float32(E2M1_MAX * E4M3_MAX)
        tensor = jnp.where(tensor < rounding.SMALLEST_SCALE, np.float32(0), tensor)
        block = jnp.max(jnp.abs(groups(x, self.block)), axis=-1) / np.float32(E2M1_MAX)
        scale = rounding.divide(block, tensor)
        scale = rounding.to_float(scale, exponent_bits=4, mantissa_bits=3, largest=E4M3_MAX)
        parts = {"tensor_scale": tensor, "scale": scale}
        return parts | {"values": _e2m1(rows, self._spread(parts, rows.shape[-1]))}

    def _spread(self, parts, length):
        return spread(parts["scale"] * parts["tensor_scale"], length, self.block)

    def _restore(self, parts, length, *, rotated=False):
        return parts["values"] * self._spread(parts, length)

    def _layout(self, shape):
        scales = (*shape[:-1], n_groups(shape[-1], self.block))
        return {
            "tensor_scale": Floats((*shape[:-2], 1, 1)),
            "scale": Floats(scales, "float8_e4m3fn"),
            "values": Levels(shape, _E2M1),
        }


def _e2m1(x, scale):
    """Returns the nearest E2M1 level of x / scale."""
    return rounding.to_float(rounding.divide(x, scale), exponent_bits=2, mantissa_bits=1, largest=E2M1_MAX)


@dataclasses.dataclass(frozen=True)
class Outlier(Representation):
    """The largest weights of each matrix in bfloat16, the others on an integer grid with abs-max groups.

    Attributes:
        p: share of the weights in bfloat16.
        b: bits of each other weight.
        g: number of weights that share a scale.
    """

    name: ClassVar[str] = "outlier"
    summary: ClassVar[str] = "the largest weights of each matrix in bfloat16, the others as integers"
    example: ClassVar[str] = "outlier"
    p: float = 0.01
    b: int = 4
    g: int = 32

    def __post_init__(self) -> None:
        check_range(self.name, "p", self.p, 0, 1)
        check_range(self.name, "g", self.g, 1, 2**20)
        self._grid  # noqa: B018 (checks b)

    @functools.cached_property
    def _grid(self):
        return Int(self.b, scale="absmax", g=self.g)

    def gmse_with_error(self) -> tuple[float, float]:
        largest = 2**self.b - 1
        if self.p == 1:
            return super().gmse_with_error()
        return grids.blockwise_error(self._grid.grid(), lambda m: m / largest, self.g, outliers=self.p), 0.0

    def _stored_parts(self, rows, params, keep, source):
        rows = jax.lax.stop_gradient(rows)
        mask = magnitude_mask(rows, self._ones_each(rows.shape))[0]
        return {
            "mask": mask,
            "outliers": rounding.to_bfloat16(rows),
            **self._grid._stored_parts(rows, None, ~mask, None),
        }

    def _restore(self, parts, length, *, rotated=False):
        return jnp.where(parts["mask"], parts["outliers"], self._grid._restore(parts, length))

    def _ones_each(self, shape):
        return round(self.p * shape[-1] * shape[-2])

    def _layout(self, shape):
        count = int(np.prod(shape))
        ones = int(np.prod(shape[:-2])) * self._ones_each(shape)
        layout = self._grid._layout(shape)
        layout["values"] = dataclasses.replace(layout["values"], shape=(count - ones,))
        return {"mask": Mask(shape, ones), "outliers": Floats((ones,), "bfloat16"), **layout}

    def _compact(self, parts):
        mask = parts["mask"]
        return parts | {"outliers": parts["outliers"][mask], "values": parts["values"][~mask]}

    def _expand(self, parts, shape):
        mask = parts["mask"]
        return parts | {
            "outliers": scattered(parts["outliers"], mask),
            "values": scattered(parts["values"], ~mask),
        }
