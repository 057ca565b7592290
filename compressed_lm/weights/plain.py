"""Dense weights, and weights plus noise."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from compressed_lm.errors import InputError
from compressed_lm.weights import grids, rounding
from compressed_lm.weights.options import check_choice, check_range
from compressed_lm.weights.protocol import Representation, kept
from compressed_lm.weights.storage import Floats

FLOAT16_MAX = 65504.0


@dataclasses.dataclass(frozen=True)
class Dense(Representation):
    """Unquantised weights.

    Attributes:
        dtype: float32; or bfloat16 or float16 for rounded weights (straight-through gradient).
    """

    name: ClassVar[str] = "dense"
    summary: ClassVar[str] = "floating-point weights as they are, or in a smaller dtype"
    example: ClassVar[str] = "dense(dtype=bfloat16)"
    maskable: ClassVar[bool] = True
    dtype: str = "float32"

    def __post_init__(self) -> None:
        check_choice(self.name, "dtype", self.dtype, ("float32", "bfloat16", "float16"))

    def quantize(
        self,
        w: jax.Array | np.ndarray,
        *,
        key: jax.Array | None = None,
        params: Mapping[str, jax.Array] | None = None,
        axis: int = -2,
        rotated: bool = False,
    ) -> jax.Array:
        if self.dtype == "float32" and not rotated:
            return w  # type: ignore[return-value]  # w itself, also if it is a NumPy array
        return super().quantize(w, key=key, params=params, axis=axis, rotated=rotated)

    def gmse_with_error(self) -> tuple[float, float]:
        return (grids.grid_error(self._levels(), 1.0) if self.dtype != "float32" else 0.0), 0.0

    def _kept_error(self, source):
        return grids.grid_error(self._levels(), 1.0, source.density) if self.dtype != "float32" else 0.0

    def _levels(self):
        # bfloat16 is a float grid of 8 + 7 bits; below 2**-14, its error is less than 1e-14.
        return grids.float_levels(5, 7) if self.dtype == "bfloat16" else grids.float_levels(5, 10)

    def _parts(self, rows, *, params, keep, source):
        if self.dtype == "float16":
            return {"values": rounding.to_float(rows, exponent_bits=5, mantissa_bits=10, largest=FLOAT16_MAX)}
        return {"values": rows if self.dtype == "float32" else rounding.to_bfloat16(rows)}

    def _restore(self, parts, length, *, rotated=False):
        return parts["values"]

    def _layout(self, shape):
        return {"values": Floats(shape, self.dtype)}


@dataclasses.dataclass(frozen=True)
class Noise(Representation):
    """The weights plus Gaussian noise of a given GMSE instead of quantisation, new in each call (papers/003 section 2).

    `w + normal * std(w) * sqrt(gmse)`, with the standard deviation of the row and ordinary gradients.

    Attributes:
        mse: the GMSE, the option `gmse` as in `noise(gmse=0.0115)`; 4**-b for an ideal code of b bits.
    """

    name: ClassVar[str] = "noise"
    summary: ClassVar[str] = "the weights plus Gaussian noise of a given relative error"
    example: ClassVar[str] = "noise(gmse=0.01)"
    stored: ClassVar[bool] = False
    maskable: ClassVar[bool] = True
    mse: float = dataclasses.field(metadata={"option": "gmse"})

    def __post_init__(self) -> None:
        check_range(self.name, "gmse", self.mse, 0, 1)

    @property
    def needs_key(self) -> bool:
        return True

    def gmse_with_error(self) -> tuple[float, float]:
        return self.mse, 0.0

    def _apply(self, rows, *, params=None, key=None, rotated=False, keep=None, source=None):
        if key is None:
            raise InputError(f"No key was given to {self}, which draws noise. Pass key=jax.random.key(...).")
        variance = jnp.var(rows, axis=-1, keepdims=True)
        # A row of zeros gets no noise; the lower bound keeps the gradient of its square root finite.
        std = jnp.where(variance > 0, jnp.sqrt(jnp.maximum(variance, 1e-30)), jnp.float32(0))
        return kept(rows + jax.random.normal(key, rows.shape) * std * jnp.float32(self.mse**0.5), keep)
