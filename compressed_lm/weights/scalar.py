"""Scalar grids with a scale per row or group: int, ternary, fp, lloyd."""

import abc
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Shaped

from compressed_lm.errors import InputError
from compressed_lm.weights import grids, hadamard, rounding, rules
from compressed_lm.weights.options import check_choice, check_range
from compressed_lm.weights.protocol import Representation, kept, to_rows
from compressed_lm.weights.storage import Floats, Levels

RULES = ("ste", "quest", "lsq")
SCALES = ("rms", "absmax")
ABSMAX_ROW = 1024  # row length in `gmse` for abs-max scales of whole rows, whose error does not converge for long rows


@dataclasses.dataclass(frozen=True)
class Grid(Representation, abc.ABC):
    """A scalar grid: each weight becomes the nearest level times its scale.

    Attributes:
        rule: gradient rule. ste: straight-through. quest: after a Hadamard transform, only where the error is at most
            the largest half-interval of the grid (Panferov et al. 2025, papers/003 section 5). lsq: straight-through
            inside the grid, with one trained scale per matrix (Esser et al. 2020).
        scale: rms: the root mean square times the factor of least squared error for a Gaussian. absmax: the largest
            magnitude is the outermost level. For lsq, rms is the initial value.
        g: number of weights that share a scale; 0 for a whole row. A row's last group may be shorter.
        hadamard: largest block of quest's transform, a power of two; 0 for none. The other rules have no transform.
    """

    maskable: ClassVar[bool] = True

    rule: str = dataclasses.field(default="ste", kw_only=True)
    scale: str = dataclasses.field(default="rms", kw_only=True)
    g: int = dataclasses.field(default=0, kw_only=True)
    hadamard: int = dataclasses.field(default=128, kw_only=True)

    def __post_init__(self) -> None:
        check_choice(self.name, "rule", self.rule, RULES)
        check_choice(self.name, "scale", self.scale, SCALES)
        check_range(self.name, "g", self.g, 0, 2**20)
        check_range(self.name, "hadamard", self.hadamard, 0, 2**16)
        if self.hadamard & (self.hadamard - 1):
            raise InputError(f"hadamard={self.hadamard} was given to {self.name}; expected 0 or a power of two.")
        if self.rotation and self.g:
            raise InputError(
                f"g={self.g} was given with quest's Hadamard transform, which mixes the weights of several groups. "
                "Leave out g, or use hadamard=0."
            )
        if self.rule == "lsq" and (self.scale != "rms" or self.g):
            raise InputError("rule=lsq was given with scale or g, but it trains one scale per matrix; leave out both.")

    @abc.abstractmethod
    def grid(self) -> Float64[np.ndarray, " levels"]:
        """Returns the sorted levels, without scale."""

    @abc.abstractmethod
    def _nearest(self, x: jax.Array) -> jax.Array:
        """Returns the nearest level of each float32."""

    @property
    def rotation(self) -> int:
        return self.hadamard if self.rule == "quest" else 0

    @property
    def _largest(self):
        return float(self.grid()[-1])

    @functools.cached_property
    def _levels(self) -> tuple[float, ...]:
        return tuple(self.grid().tolist())

    def init_params(self, w: jax.Array | np.ndarray, *, axis: int = -2) -> dict[str, jax.Array]:
        if self.rule != "lsq":
            return {}
        rows = jax.lax.stop_gradient(to_rows(w, axis))
        over = (-1, -2) if axis == -2 else tuple(range(rows.ndim))
        return {"scale": jnp.maximum(jnp.sqrt(jnp.mean(rows**2, axis=over)) * optimal_factor(self, None), 1e-6)}

    def gmse_with_error(self) -> tuple[float, float]:
        if self.scale == "rms" and not self.g:
            return grids.grid_error(self.grid(), optimal_factor(self, None)), 0.0
        if self.scale == "absmax":
            size = self.g or ABSMAX_ROW
            return grids.blockwise_error(self.grid(), lambda m: m / self._largest, size), 0.0
        return super().gmse_with_error()

    def _kept_error(self, source):
        if self.scale == "absmax" or self.g:
            return None
        factor = optimal_factor(self, source) * source.kept_rms
        return grids.grid_error(self.grid(), factor, source.density)

    def _prepare(self, rows):
        return hadamard.rotate(rows, largest=self.rotation) if self.rotation else rows

    def _apply(self, rows, *, params=None, key=None, rotated=False, keep=None, source=None):
        del key
        x = self._prepare(rows)
        parts = self._stored_parts(x, params, keep, source)
        value = kept(self._restore(parts, rows.shape[-1], rotated=True), keep)
        if self.rule == "lsq":
            surrogate = rules.lsq(x, _learned(params, x, self), self._nearest, largest=self._largest)
            surrogate = surrogate if keep is None else jnp.where(keep, surrogate, x)  # zeros must not train the scale
        elif self.rule == "quest":
            surrogate = self._trusted(x, value, parts["scale"], keep)
        else:
            surrogate = x
        if self.rotation and not rotated:
            surrogate = hadamard.rotate(surrogate, largest=self.rotation)
            value = self._restore(parts, rows.shape[-1])
        return rules.straight_through(surrogate, value)

    def _trusted(self, x, value, scale, keep):
        """Returns x, with a gradient where QuEST trusts it; for weights not kept, the sparsity rule decides."""
        levels = self.grid()
        scale = spread(scale, x.shape[-1], self.g)
        if len(levels) == 2:
            factor = rules.TRUST_ONE_BIT if self.rotation else rules.TRUST_ONE_BIT_PLAIN
            trusted = jnp.abs(x) <= np.float32(factor * levels[-1]) * scale
        else:
            trusted = jnp.abs(value - x) <= np.float32(np.diff(levels).max() / 2) * scale
        return rules.masked(x, trusted if keep is None else trusted | ~keep)

    def _parts(self, x, *, params, keep, source):
        if self.rule == "lsq":
            scale = jnp.broadcast_to(_learned(params, x, self), (*x.shape[:-2], 1, 1))
        elif self.scale == "absmax":
            size = jnp.max(jnp.abs(groups(kept(x, keep), self.g)), axis=-1)
            scale = rounding.stored_scale(size / np.float32(self._largest))
        else:
            square = jnp.sum(groups(kept(x, keep), self.g) ** 2, axis=-1)
            ones = jnp.ones_like(x) if keep is None else keep.astype(x.dtype)
            count = jnp.maximum(jnp.sum(groups(ones, self.g), axis=-1), 1)
            scale = rounding.stored_scale(jnp.sqrt(square / count) * np.float32(optimal_factor(self, source)))
        values = self._nearest(rounding.divide(x, spread(scale, x.shape[-1], self.g)))
        return {"scale": scale, "values": values}

    def _restore(self, parts, length, *, rotated=False):
        values, scale = parts["values"], parts["scale"]
        if self.rotation and not rotated:
            # Transforms the levels without scale, whose sums are exact; with a scale, bits depend on the order.
            values = hadamard.unscaled(values, self.rotation)
            scale = scale * np.float32(hadamard.block_size(length, self.rotation) ** -0.5)
        return values * spread(scale, length, self.g)

    def _layout(self, shape):
        if self.rule == "lsq":
            scales = Floats((*shape[:-2], 1, 1))
        else:
            scales = Floats((*shape[:-1], n_groups(shape[-1], self.g)), "bfloat16")
        return {"scale": scales, "values": Levels(shape, self._levels)}


@functools.cache
def optimal_factor(rep: Grid, source: Any) -> float:
    """Returns the best multiplier of the levels for weights of root mean square 1.

    Args:
        rep: the grid.
        source: None, or the sparse representation whose kept weights have this root mean square.
    """
    if source is None:
        return grids.optimal_scale(rep.grid())
    return grids.optimal_scale(rep.grid(), source.density) / source.kept_rms


def _learned(params: Mapping[str, jax.Array] | None, rows: jax.Array, grid: Grid) -> jax.Array:
    """Returns the trained scale float32[..., 1, 1] of each matrix."""
    if not params or "scale" not in params:
        raise InputError(f"No params were given to {grid}, which has a trained scale. Start with init_params(w).")
    scale = jnp.asarray(params["scale"], jnp.float32)
    return jnp.maximum(scale.reshape(*scale.shape, *(1,) * (rows.ndim - scale.ndim)), 1e-8)


def n_groups(length: int, g: int) -> int:
    """Returns the number of groups of g in a row of `length`; g = 0 is one group."""
    return -(-length // g) if g else 1


def groups(x: Shaped[Array, "*rows N"], g: int) -> Shaped[Array, "*rows G g"]:
    """Returns x in groups of g, the last one padded with zeros; g = 0 is one group of N."""
    if not g:
        return x[..., None, :]
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % g)])
    return x.reshape(*x.shape[:-1], -1, g)


def spread(scale: Float[Array, "*rows G"], length: int, g: int) -> Float[Array, "*rows N"]:
    """Returns the scale of each weight's group; N is `length`, or 1 for g = 0."""
    return jnp.repeat(scale, g, axis=-1)[..., :length] if g else scale


@dataclasses.dataclass(frozen=True)
class Int(Grid):
    """Uniform symmetric grid of 2**b levels without zero, b from 1 to 8."""

    name: ClassVar[str] = "int"
    summary: ClassVar[str] = "integers of b bits with a scale for each row or group"
    example: ClassVar[str] = "int(b=4,g=32)"
    b: int

    def __post_init__(self) -> None:
        check_range(self.name, "b", self.b, 1, 8)
        super().__post_init__()

    def grid(self) -> np.ndarray:
        return grids.integer_levels(self.b)

    def _nearest(self, x):
        half = 2.0 ** (self.b - 1)
        return 2 * jnp.clip(jnp.floor(x / 2), -half, half - 1) + 1


@dataclasses.dataclass(frozen=True)
class Ternary(Grid):
    """The levels -1, 0, 1; stored in 1.6 bits."""

    name: ClassVar[str] = "ternary"
    summary: ClassVar[str] = "-1, 0 and 1 with a scale"
    example: ClassVar[str] = "ternary"

    def grid(self) -> np.ndarray:
        return grids.ternary_levels()

    def _nearest(self, x):
        return rounding.without_sign_of_zero(jnp.round(jnp.clip(x, -1, 1)))


@dataclasses.dataclass(frozen=True)
class Fp(Grid):
    """Floating-point grid of 1 + e + m bits, at most 8, with subnormals.

    Short names such as `e2m1` have the finite values of the types of these names in `ml_dtypes`: float4_e2m1fn,
    float6_e2m3fn, float6_e3m2fn, float8_e3m4, float8_e5m2. There are two types for e4m3: `e4m3` is float8_e4m3fn (OCP,
    up to 448), and `e4m3(nan=ieee)` is float8_e4m3 (up to 240).

    Attributes:
        e, m: bits of exponent and mantissa.
        nan: which codes are not numbers. one: the last of each sign. ieee: all with the highest exponent. none: no
            code. The default is one for e4m3, ieee for e5m2, none for all others. So `fp(e=3,m=4)` has 255 levels up to
            31, as in files of version 0.1.0, and `e3m4` is short for `fp(e=3,m=4,nan=ieee)`.
    """

    name: ClassVar[str] = "fp"
    summary: ClassVar[str] = "floating-point grids of few bits"
    example: ClassVar[str] = "e4m3"
    e: int
    m: int
    nan: str = ""

    def __post_init__(self) -> None:
        check_range(self.name, "e", self.e, 2, 6)
        check_range(self.name, "m", self.m, 0, 5)
        check_range(self.name, "e + m", self.e + self.m, 2, 7)
        if self.nan:
            check_choice(self.name, "nan", self.nan, grids.NAN)
        if self.nan == self._default:  # one spec for each grid
            object.__setattr__(self, "nan", "")
        super().__post_init__()

    @property
    def _default(self):
        return "none" if (self.e, self.m) == (3, 4) else grids.NAMED.get((self.e, self.m), "none")

    def grid(self) -> np.ndarray:
        return grids.float_levels(self.e, self.m, nan=self.nan or self._default)

    def _nearest(self, x):
        return rounding.to_float(x, exponent_bits=self.e, mantissa_bits=self.m, largest=self._largest)


@dataclasses.dataclass(frozen=True)
class Lloyd(Grid):
    """The grid of least squared error for a Gaussian: the optimum of scalar grids."""

    name: ClassVar[str] = "lloyd"
    summary: ClassVar[str] = "levels of least squared error for Gaussian weights"
    example: ClassVar[str] = "lloyd(levels=16)"
    levels: int = 16

    def __post_init__(self) -> None:
        check_range(self.name, "levels", self.levels, 2, 256)
        super().__post_init__()

    def grid(self) -> np.ndarray:
        return grids.lloyd_levels(self.levels)

    def _nearest(self, x):
        levels = self.grid().astype(np.float32)
        middles = (levels[1:] + levels[:-1]) / 2
        return jnp.asarray(levels)[jnp.searchsorted(middles, x, method="compare_all" if len(levels) <= 32 else "scan")]
