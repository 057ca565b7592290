"""Weights as they are, and weights with noise."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from compressed_lm.errors import InputError
from compressed_lm.weights import grids, rounding
from compressed_lm.weights.options import check_choice, check_range
from compressed_lm.weights.protocol import Representation, kept
from compressed_lm.weights.storage import Floats


@dataclasses.dataclass(frozen=True)
class Dense(Representation):
    """The weights themselves.

    Attributes:
        dtype: float32, or bfloat16 for weights rounded to it (straight through).
    """

    name: ClassVar[str] = "dense"
    summary: ClassVar[str] = "floating-point weights as they are, or in a smaller dtype"
    example: ClassVar[str] = "dense(dtype=bfloat16)"
    maskable: ClassVar[bool] = True
    dtype: str = "float32"

    def __post_init__(self):
        check_choice(self.name, "dtype", self.dtype, ("float32", "bfloat16"))

    def quantize(self, w, *, key=None, params=None, axis=-2, rotated=False):
        if self.dtype == "float32" and not rotated:
            return w
        return super().quantize(w, key=key, params=params, axis=axis, rotated=rotated)

    def gmse_with_error(self):
        # A bfloat16 is a float grid of 8 + 7 bits; from 2**-14 down its error is below 1e-14.
        return (grids.grid_error(grids.float_levels(5, 7), 1.0) if self.dtype == "bfloat16" else 0.0), 0.0

    def _kept_error(self, source):
        if self.dtype == "float32":
            return 0.0
        return grids.grid_error(grids.float_levels(5, 7), 1.0, source.density)

    def _parts(self, rows, *, params, keep, source):
        return {"values": rows if self.dtype == "float32" else rounding.to_bfloat16(rows)}

    def _restore(self, parts, length, *, rotated=False):
        return parts["values"]

    def _layout(self, shape):
        return {"values": Floats(shape, self.dtype)}


@dataclasses.dataclass(frozen=True)
class Noise(Representation):
    """Gaussian noise of a chosen GMSE in the place of quantisation, fresh at each call (papers/003 section 2).

    `w + normal * std(w) * sqrt(gmse)`, the standard deviation being that of a row, with ordinary gradients.

    Attributes:
        mse: the GMSE, spelled `noise(gmse=0.0115)`; 4**-b for an ideal code of b bits.
    """

    name: ClassVar[str] = "noise"
    summary: ClassVar[str] = "the weights plus Gaussian noise of a given relative error"
    example: ClassVar[str] = "noise(gmse=0.01)"
    stored: ClassVar[bool] = False
    maskable: ClassVar[bool] = True
    mse: float = dataclasses.field(metadata={"spelled": "gmse"})

    def __post_init__(self):
        check_range(self.name, "gmse", self.mse, 0, 1)

    @property
    def needs_key(self):
        return True

    def gmse_with_error(self):
        return self.mse, 0.0

    def _apply(self, rows, *, params=None, key=None, rotated=False, keep=None, source=None):
        if key is None:
            raise InputError(f"{self} draws noise and no key was given; pass key=jax.random.key(...).")
        variance = jnp.var(rows, axis=-1, keepdims=True)
        # A row of zeros gets no noise; the bound keeps the square root's gradient finite there.
        std = jnp.where(variance > 0, jnp.sqrt(jnp.maximum(variance, 1e-30)), jnp.float32(0))
        return kept(rows + jax.random.normal(key, rows.shape) * std * jnp.float32(self.mse**0.5), keep)
