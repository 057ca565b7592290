"""Scalar grids with a scale for each row or group: int, ternary, fp, lloyd."""

import abc
import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from compressed_lm.errors import InputError
from compressed_lm.weights import grids, hadamard, rounding, rules
from compressed_lm.weights.options import check_choice, check_range
from compressed_lm.weights.protocol import Representation, kept, to_rows
from compressed_lm.weights.storage import Floats, Levels

RULES = ("ste", "quest", "lsq")
SCALES = ("rms", "absmax")
ABSMAX_ROW = 1024  # row length that `gmse` takes for abs-max scales over whole rows, which have no limit for long rows


@dataclasses.dataclass(frozen=True)
class Grid(Representation, abc.ABC):
    """A scalar grid: each weight is the nearest level times its scale.

    Attributes:
        rule: the gradient. ste: passed straight through. quest: after a Hadamard transform, where the error is within
            the largest half-interval of the grid (Panferov et al. 2025, papers/003 section 5). lsq: straight through
            within the grid, with one trained scale for each matrix (Esser et al. 2020).
        scale: rms: the root mean square times the factor of least squared error for a Gaussian. absmax: the largest
            magnitude is the outermost level. lsq trains it, starting from rms.
        g: weights that share a scale; 0 for a whole row. A row's last group may be shorter.
        hadamard: largest block of quest's transform, a power of two; 0 for none. The other rules have none.
    """

    maskable: ClassVar[bool] = True

    rule: str = dataclasses.field(default="ste", kw_only=True)
    scale: str = dataclasses.field(default="rms", kw_only=True)
    g: int = dataclasses.field(default=0, kw_only=True)
    hadamard: int = dataclasses.field(default=128, kw_only=True)

    def __post_init__(self):
        check_choice(self.name, "rule", self.rule, RULES)
        check_choice(self.name, "scale", self.scale, SCALES)
        check_range(self.name, "g", self.g, 0, 2**20)
        check_range(self.name, "hadamard", self.hadamard, 0, 2**16)
        if self.hadamard & (self.hadamard - 1):
            raise InputError(f"hadamard={self.hadamard} was given to {self.name}; expected 0 or a power of two.")
        if self.rotation and self.g:
            raise InputError(
                f"g={self.g} was given with quest's Hadamard transform, which spreads each weight over several groups. "
                "Leave out g, or use hadamard=0."
            )
        if self.rule == "lsq" and (self.scale != "rms" or self.g):
            raise InputError("rule=lsq trains one scale for each matrix; leave out scale and g.")

    @abc.abstractmethod
    def grid(self) -> np.ndarray:
        """Returns float64[K], the levels, sorted, before any scale."""

    @abc.abstractmethod
    def _nearest(self, x):
        """Returns the nearest level of each float32."""

    @property
    def rotation(self):
        return self.hadamard if self.rule == "quest" else 0

    @property
    def _largest(self):
        return float(self.grid()[-1])

    @functools.cached_property
    def _levels(self):
        return tuple(self.grid().tolist())

    def init_params(self, w, *, axis=-2):
        if self.rule != "lsq":
            return {}
        rows = jax.lax.stop_gradient(to_rows(w, axis))
        over = (-1, -2) if axis == -2 else tuple(range(rows.ndim))
        return {"scale": jnp.maximum(jnp.sqrt(jnp.mean(rows**2, axis=over)) * optimal_factor(self, None), 1e-6)}

    def gmse_with_error(self):
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
            surrogate = surrogate if keep is None else jnp.where(keep, surrogate, x)  # zeros say nothing of the scale
        elif self.rule == "quest":
            surrogate = self._trusted(x, value, parts["scale"], keep)
        else:
            surrogate = x
        if self.rotation and not rotated:
            surrogate = hadamard.rotate(surrogate, largest=self.rotation)
            value = self._restore(parts, rows.shape[-1])
        return rules.straight_through(surrogate, value)

    def _trusted(self, x, value, scale, keep):
        """Returns x, with a gradient where QuEST trusts it (weights not kept belong to the rule that dropped them)."""
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
            # Of the bare levels, since their sums are exact: with a factor in them the bits would depend on the order.
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
def optimal_factor(rep: Grid, source) -> float:
    """Returns the multiplier of the levels for weights of root mean square 1 (over those that `source` keeps)."""
    if source is None:
        return grids.optimal_scale(rep.grid())
    return grids.optimal_scale(rep.grid(), source.density) / source.kept_rms


def _learned(params, rows, grid):
    """Returns the trained scale float32[..., 1, 1] of each matrix."""
    if not params or "scale" not in params:
        raise InputError(f"{grid} has a trained scale and no params were given; start with init_params(w).")
    scale = jnp.asarray(params["scale"], jnp.float32)
    return jnp.maximum(scale.reshape(*scale.shape, *(1,) * (rows.ndim - scale.ndim)), 1e-8)


def n_groups(length: int, g: int) -> int:
    """Returns how many groups of g a row of `length` has; g = 0 is one group."""
    return -(-length // g) if g else 1


def groups(x: jax.Array, g: int) -> jax.Array:
    """Returns [..., G, g] from [..., N], the last group filled up with zeros; g = 0 is one group of N."""
    if not g:
        return x[..., None, :]
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % g)])
    return x.reshape(*x.shape[:-1], -1, g)


def spread(scale: jax.Array, length: int, g: int) -> jax.Array:
    """Returns [..., N]: the scale [..., G] of each weight's group; [..., 1] for g = 0."""
    return jnp.repeat(scale, g, axis=-1)[..., :length] if g else scale


@dataclasses.dataclass(frozen=True)
class Int(Grid):
    """Uniform symmetric grid of 2**b levels without zero, b from 1 to 8."""

    name: ClassVar[str] = "int"
    summary: ClassVar[str] = "integers of b bits with a scale for each row or group"
    example: ClassVar[str] = "int(b=4,g=32)"
    b: int

    def __post_init__(self):
        check_range(self.name, "b", self.b, 1, 8)
        super().__post_init__()

    def grid(self):
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

    def grid(self):
        return grids.ternary_levels()

    def _nearest(self, x):
        return rounding.without_sign_of_zero(jnp.round(jnp.clip(x, -1, 1)))


@dataclasses.dataclass(frozen=True)
class Fp(Grid):
    """Floating-point grid of 1 + e + m bits, at most 8, with subnormals.

    `e2m1` and the like are short for it, and have the finite values of the types of these names in `ml_dtypes`:
    float4_e2m1fn, float6_e2m3fn, float6_e3m2fn, float8_e3m4, float8_e5m2, and for `e4m3`, of which there are two,
    float8_e4m3fn (OCP, up to 448); `e4m3(nan=ieee)` is float8_e4m3 (up to 240).

    Attributes:
        e, m: bits of exponent and mantissa.
        nan: which codes are no numbers. one: the last of each sign. ieee: all with the highest exponent. none. By
            default one for e4m3, ieee for e5m2, none for all others. So `fp(e=3,m=4)` has 255 levels up to 31, as files
            of version 0.1.0 have them under this name, and `e3m4` is short for `fp(e=3,m=4,nan=ieee)`.
    """

    name: ClassVar[str] = "fp"
    summary: ClassVar[str] = "floating-point grids of few bits"
    example: ClassVar[str] = "e4m3"
    e: int
    m: int
    nan: str = ""

    def __post_init__(self):
        check_range(self.name, "e", self.e, 2, 6)
        check_range(self.name, "m", self.m, 0, 5)
        check_range(self.name, "e + m", self.e + self.m, 2, 7)
        if self.nan:
            check_choice(self.name, "nan", self.nan, grids.NAN)
        if self.nan == self._default:  # one spelling for each grid
            object.__setattr__(self, "nan", "")
        super().__post_init__()

    @property
    def _default(self):
        return "none" if (self.e, self.m) == (3, 4) else grids.NAMED.get((self.e, self.m), "none")

    def grid(self):
        return grids.float_levels(self.e, self.m, nan=self.nan or self._default)

    def _nearest(self, x):
        return rounding.to_float(x, exponent_bits=self.e, mantissa_bits=self.m, largest=self._largest)


@dataclasses.dataclass(frozen=True)
class Lloyd(Grid):
    """The grid of least squared error for a Gaussian: the bound for scalar grids."""

    name: ClassVar[str] = "lloyd"
    summary: ClassVar[str] = "levels of least squared error for Gaussian weights"
    example: ClassVar[str] = "lloyd(levels=16)"
    levels: int = 16

    def __post_init__(self):
        check_range(self.name, "levels", self.levels, 2, 256)
        super().__post_init__()

    def grid(self):
        return grids.lloyd_levels(self.levels)

    def _nearest(self, x):
        levels = self.grid().astype(np.float32)
        middles = (levels[1:] + levels[:-1]) / 2
        return jnp.asarray(levels)[jnp.searchsorted(middles, x, method="compare_all" if len(levels) <= 32 else "scan")]
