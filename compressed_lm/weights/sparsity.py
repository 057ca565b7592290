"""Sparsity: unstructured magnitude sparsity, n:m sparsity, and hybrids with a format for the kept weights."""

import abc
import dataclasses
import functools
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float32, Float64, Shaped
from scipy import special

from compressed_lm.errors import InputError
from compressed_lm.weights import grids, rules
from compressed_lm.weights.options import check_choice, check_range
from compressed_lm.weights.plain import Dense
from compressed_lm.weights.protocol import Representation, kept
from compressed_lm.weights.storage import Choices, Mask, Stored


class Sparsifier(Representation, abc.ABC):
    """Base class of sparse representations: some weights are kept, the others become exactly 0.

    The kept weights stay float32 unless a format follows: `sparse(s=0.5)+int(b=4)`.
    """

    @abc.abstractmethod
    def mask(
        self, rows: Float32[Array, "*stack R N"], *, sparsity: jax.Array | None = None
    ) -> Bool[Array, "*stack R N"]:
        """Returns which weights are kept.

        Args:
            rows: the weights.
            sparsity: the share of zeros for this call, from a schedule.
        """

    @abc.abstractmethod
    def passed(
        self, rows: Float32[Array, "*stack R N"], keep: Bool[Array, "*stack R N"]
    ) -> Float32[Array, "*stack R N"]:
        """Returns the rows, with a gradient where the gradient rule allows it."""

    @abc.abstractmethod
    def density(self, x: Float64[np.ndarray, " n"]) -> Shaped[np.ndarray, " n"]:
        """Returns the probability that a weight x of N(0, 1) is kept in a large matrix."""

    @abc.abstractmethod
    def ones(self, shape: tuple[int, ...]) -> int:
        """Returns the number of kept weights in rows of this shape."""

    @abc.abstractmethod
    def _mask_layout(self, shape: tuple[int, ...]) -> Stored:
        """Returns the stored type of the mask for rows of this shape."""

    @functools.cached_property
    def kept_rms(self) -> float:
        """Root mean square of the kept weights of N(0, 1)."""
        square = 1 - grids.grid_error(np.zeros(1), 1.0, lambda x: 1 - self.density(x))
        share = grids.gaussian_mean(self.density)
        return math.sqrt(square / share)

    def then(self, other: Representation) -> "Hybrid":
        if not other.maskable or other.rotation:
            raise InputError(
                f"{self}+{other} was given, but {other} combines or rotates weights, so zeros do not stay zeros. After "
                "sparsity, use int, ternary, fp, lloyd (with hadamard=0), mxfp4, nvfp4, rf8, dense or noise."
            )
        return Hybrid(self, other)

    def gmse_with_error(self) -> tuple[float, float]:
        return grids.grid_error(np.zeros(1), 1.0, lambda x: 1 - self.density(x)), 0.0

    @property
    def _hybrid(self):
        return Hybrid(self, Dense())

    def _apply(self, rows, **settings):
        return self._hybrid._apply(rows, **settings)

    def _stored_parts(self, rows, params, keep, source):
        return self._hybrid._stored_parts(rows, params, keep, source)

    def _restore(self, parts, length, *, rotated=False):
        return self._hybrid._restore(parts, length)

    def _layout(self, shape):
        return self._hybrid._layout(shape)

    def _compact(self, parts):
        return self._hybrid._compact(parts)

    def _expand(self, parts, shape):
        return self._hybrid._expand(parts, shape)


@dataclasses.dataclass(frozen=True)
class Sparse(Sparsifier):
    """Unstructured sparsity: in each call, the weights of least magnitude of each matrix become zero.

    With a gradual schedule, `quantize(w, params=rep.schedule(progress))` has the share of zeros of that moment. Packed
    weights have the share s.

    Attributes:
        s: the share of zeros; round((1 - s) * weights) are kept, ties by place.
        rule: which weights get a gradient. masked: the kept ones. ste: all. rbbm, area_rbbm: the kept and the smallest
            ones, but not the band between them (papers/003 section 5; equations 12 and 13 of Panferov et al. 2025).
            rms: those above a multiple of the root mean square, kept or not. rigl: all; at intervals, the optimizer
            selects the kept weights by magnitudes and gradients (Evci et al. 2020; `training.rigl`).
        p: for rbbm, the band starts at RMS * Phi^-1(1/2 + p), so a share 2p of a normal matrix is below it; 0 is the
            rule masked. For rms, the threshold, by the same formula.
        a: for area_rbbm, the band's share of the probability below the threshold; 1 is the rule masked, 0 is ste.
        ramp: share of a run in which the share of zeros rises from 0 to s (gradual magnitude pruning, Zhu & Gupta 2017,
            equation 1); 0 for s from the beginning.
        every: for rigl, training steps between selections.
    """

    name: ClassVar[str] = "sparse"
    summary: ClassVar[str] = "unstructured sparsity: the smallest weights are 0"
    example: ClassVar[str] = "sparse(s=0.5)"
    s: float
    rule: str = "masked"
    p: float = 0.0
    a: float = 0.5
    ramp: float = 0.0
    every: int = 100

    def __post_init__(self) -> None:
        check_range(self.name, "s", self.s, 0, 1)
        check_range(self.name, "ramp", self.ramp, 0, 1)
        check_choice(self.name, "rule", self.rule, ("masked", "ste", "rbbm", "area_rbbm", "rms", "rigl"))
        check_range(self.name, "p", self.p, 0, 0.5)
        check_range(self.name, "a", self.a, 0, 1)
        check_range(self.name, "every", self.every, 1, 2**31)
        of_rules = (
            ("p", self.p, ("rbbm", "rms"), 0.0),
            ("a", self.a, ("area_rbbm",), 0.5),
            ("every", self.every, ("rigl",), 100),
        )
        for option, value, of, default in of_rules:
            if value != default and self.rule not in of:
                raise InputError(
                    f"{option}={value} was given to sparse with rule={self.rule}; {option} is an option of "
                    f"rule={' and rule='.join(of)}. Leave it out."
                )
        if self.ramp and self.rule == "rigl":
            raise InputError(
                f"ramp={self.ramp} was given with rule=rigl, which keeps a constant number of weights; leave out ramp."
            )

    def schedule(self, progress: ArrayLike) -> dict[str, jax.Array]:
        if not self.ramp:
            return {}
        return {"sparsity": self.s * (1 - (1 - jnp.clip(progress / self.ramp, 0, 1)) ** 3)}

    def mask(self, rows: jax.Array, *, sparsity: jax.Array | None = None) -> jax.Array:
        if sparsity is None:
            return magnitude_mask(rows, self._ones_each(rows.shape))[0]
        ones = jnp.round((1 - sparsity) * (rows.shape[-1] * rows.shape[-2])).astype(jnp.int32)
        return magnitude_mask(rows, ones)[0]

    def passed(self, rows: jax.Array, keep: jax.Array) -> jax.Array:
        if self.rule in ("ste", "rigl"):
            return rows
        if self.rule == "masked":
            return rules.masked(rows, keep)
        return rules.masked(rows, self._banded(jax.lax.stop_gradient(rows), keep))

    def _banded(self, rows, keep):
        """Returns bool[..., R, N]: the weights with a gradient for the rules rbbm, area_rbbm and rms."""
        size = jnp.abs(rows)
        threshold = jnp.min(jnp.where(keep, size, jnp.inf), axis=(-1, -2), keepdims=True)
        rms = jnp.sqrt(jnp.mean(rows**2, axis=(-1, -2), keepdims=True))
        if self.rule == "area_rbbm":
            below = ndtr(threshold / jnp.maximum(rms, 1e-30)) - 0.5
            return keep | (size < rms * ndtri(0.5 + (1 - self.a) * below))
        edge = rms * np.float32(special.ndtri(0.5 + self.p))
        if self.rule == "rms":
            return size > edge
        # If p is above the threshold, the band is inside the kept weights.
        return (size < jnp.minimum(edge, threshold)) | jnp.where(edge > threshold, size > edge, keep)

    def density(self, x: np.ndarray) -> np.ndarray:
        return np.abs(x) >= special.ndtri((1 + self.s) / 2)

    def gmse_with_error(self) -> tuple[float, float]:
        t = special.ndtri((1 + self.s) / 2)
        return (self.s - (2 * t * math.exp(-t * t / 2) / math.sqrt(2 * math.pi) if self.s < 1 else 0.0)), 0.0

    def ones(self, shape: tuple[int, ...]) -> int:
        return math.prod(shape[:-2]) * self._ones_each(shape)

    def _ones_each(self, shape):
        return round((1 - self.s) * shape[-1] * shape[-2])

    def _mask_layout(self, shape):
        return Mask(shape, self.ones(shape))


@dataclasses.dataclass(frozen=True)
class NM(Sparsifier):
    """n:m sparsity: of each m neighbours along the reduction axis, the n of largest magnitude are kept.

    Attributes:
        n: number of kept weights per group.
        m: size of a group, at most 16.
        rule: masked or ste, as for `Sparse`.
        block: 1 for single weights. 2 keeps or drops pairs of neighbours by the sum of their squares, for even n and m:
            for 4-bit numbers, 4:8 in pairs replaces 2:4 (QuEST); the last weight of an odd row is always kept.
    """

    name: ClassVar[str] = "nm"
    summary: ClassVar[str] = "N of every M weights remain"
    example: ClassVar[str] = "nm(n=2,m=4)"
    n: int = 2
    m: int = 4
    rule: str = "masked"
    block: int = 1

    def __post_init__(self) -> None:
        check_range(self.name, "m", self.m, 2, 16)
        check_range(self.name, "n", self.n, 1, self.m)
        check_range(self.name, "block", self.block, 1, 2)
        check_choice(self.name, "rule", self.rule, ("masked", "ste"))
        if self.n % self.block or self.m % self.block:
            raise InputError(
                f"{self} was given, which keeps pairs; expected an even n and an even m, such as nm(n=4,m=8,block=2)."
            )

    def mask(self, rows: jax.Array, *, sparsity: jax.Array | None = None) -> jax.Array:
        if sparsity is not None:
            raise InputError(
                f"A sparsity was given to {self}, whose share of zeros is fixed. Leave it out; only sparse has a "
                "schedule."
            )
        n, m, size = self.n // self.block, self.m // self.block, jnp.abs(rows)
        if self.block == 2:
            size = jnp.pad(size, [(0, 0)] * (rows.ndim - 1) + [(0, rows.shape[-1] % 2)], constant_values=jnp.inf)
            size = size[..., 0::2] ** 2 + size[..., 1::2] ** 2
        size = jnp.pad(size, [(0, 0)] * (rows.ndim - 1) + [(0, -size.shape[-1] % m)], constant_values=-1)
        size = size.reshape(*size.shape[:-1], -1, m)
        mine, other = size[..., :, None], size[..., None, :]
        earlier = np.tri(m, k=-1, dtype=bool).reshape((1,) * (size.ndim - 1) + (m, m))
        ahead = (other > mine) | ((other == mine) & earlier)
        keep = jnp.repeat(jnp.sum(ahead, axis=-1) < n, self.block, axis=-1)
        return keep.reshape(*rows.shape[:-1], -1)[..., : rows.shape[-1]]

    def passed(self, rows: jax.Array, keep: jax.Array) -> jax.Array:
        return rows if self.rule == "ste" else rules.masked(rows, keep)

    def density(self, x: np.ndarray) -> np.ndarray:
        if self.block == 1:
            larger, others = 2 * special.ndtr(-np.abs(x)), self.m - 1
            terms = (math.comb(others, j) * larger**j * (1 - larger) ** (others - j) for j in range(self.n))
            return sum(terms, np.zeros_like(larger))
        # Another pair is larger with probability q = exp(-(x**2 + y**2) / 2), where y is the neighbour. Powers of q
        # have a closed-form mean over y, and P(fewer than n / 2 of the others are larger) is a polynomial in q.
        others, x = self.m // 2 - 1, np.asarray(x, float)
        at_most = np.polynomial.Polynomial([0.0])
        for j in range(self.n // 2):
            others_smaller = np.polynomial.Polynomial([1.0, -1.0]) ** (others - j)
            at_most += math.comb(others, j) * np.polynomial.Polynomial([0.0, 1.0]) ** j * others_smaller
        terms = (c * np.exp(-k * x**2 / 2) / math.sqrt(1 + k) for k, c in enumerate(at_most.coef))
        return sum(terms, np.zeros_like(x))

    def ones(self, shape: tuple[int, ...]) -> int:
        whole, rest = divmod(-(-shape[-1] // self.block), self.m // self.block)
        blocks = whole * (self.n // self.block) + min(rest, self.n // self.block)
        return math.prod(shape[:-1]) * (blocks * self.block - shape[-1] % self.block)

    def _mask_layout(self, shape):
        return Choices(shape, self.n, self.m, self.block)


@dataclasses.dataclass(frozen=True)
class Hybrid(Representation):
    """Sparsity, then a format for the kept weights: `sparse(s=0.5)+int(b=4)`.

    The format's scales are computed from the kept weights only; for scalar grids, the factor is the best one for the
    distribution of the kept weights of a Gaussian. Codes of zeros are not stored.
    """

    name: ClassVar[str] = "hybrid"
    first: Sparsifier
    second: Representation

    def __str__(self) -> str:
        return f"{self.first}+{self.second}"

    @property
    def needs_key(self) -> bool:
        return self.second.needs_key

    def init_params(self, w: jax.Array | np.ndarray, *, axis: int = -2) -> dict[str, jax.Array]:
        return self.second.init_params(w, axis=axis)

    def schedule(self, progress: ArrayLike) -> dict[str, jax.Array]:
        return self.first.schedule(progress)

    def gmse_with_error(self) -> tuple[float, float]:
        error = self.second._kept_error(self.first)
        return super().gmse_with_error() if error is None else (self.first.gmse() + error, 0.0)

    def _apply(self, rows, *, params=None, key=None, rotated=False, keep=None, source=None):
        keep = self.first.mask(jax.lax.stop_gradient(rows), sparsity=(params or {}).get("sparsity"))
        rows = rules.straight_through(self.first.passed(rows, keep), kept(rows, keep))
        return self.second._apply(rows, params=params, key=key, keep=keep, source=self.first)

    def _stored_parts(self, rows, params, keep, source):
        keep = self.first.mask(rows)
        return {"mask": keep, **self.second._stored_parts(kept(rows, keep), params, keep, self.first)}

    def _restore(self, parts, length, *, rotated=False):
        return kept(self.second._restore(parts, length), parts["mask"])

    def _layout(self, shape):
        layout = self.second._layout(shape)
        layout["values"] = dataclasses.replace(layout["values"], shape=(self.first.ones(shape),))
        return {"mask": self.first._mask_layout(shape), **layout}

    def _compact(self, parts):
        return parts | {"values": parts["values"][parts["mask"]]}

    def _expand(self, parts, shape):
        return parts | {"values": scattered(parts["values"], parts["mask"])}


def scattered(values: Shaped[np.ndarray, " n"], mask: Bool[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    """Returns the values, in order, where the mask is true, and 0 elsewhere."""
    out = np.zeros(mask.shape, np.float32)
    out[mask] = values
    return out


@jax.jit
def magnitude_mask(
    rows: Float32[Array, "*stack R N"], ones: ArrayLike
) -> tuple[Bool[Array, "*stack R N"], Float32[Array, "*stack 1 1"]]:
    """Returns (mask of the `ones` largest magnitudes of each matrix, the least of these magnitudes).

    Exactly `ones` entries are true: of equal magnitudes, the first in the matrix. `ones` may be traced.
    """
    # Positive float32 numbers and their bits as integers have the same order: the threshold is found bit by bit, with
    # 31 sums instead of a sort.
    bits = jax.lax.bitcast_convert_type(jnp.abs(rows), jnp.int32)
    threshold = _largest_with(lambda t: bits >= t, ones, bits.shape, n_bits=31)
    surely = bits > threshold
    equal, wanted = bits == threshold, ones - jnp.sum(surely, axis=(-1, -2), keepdims=True)
    place = jax.lax.broadcasted_iota(jnp.int32, bits.shape, bits.ndim - 2) * bits.shape[-1]
    place = place + jax.lax.broadcasted_iota(jnp.int32, bits.shape, bits.ndim - 1)
    # Of equal magnitudes the first: those whose distance from the end is at least a second threshold.
    rest = bits.shape[-1] * bits.shape[-2] - place
    n_bits = (bits.shape[-1] * bits.shape[-2]).bit_length()
    first = _largest_with(lambda t: equal & (rest >= t), wanted, bits.shape, n_bits=n_bits)
    return surely | (equal & (rest >= first) & (wanted > 0)), jax.lax.bitcast_convert_type(threshold, jnp.float32)


def _largest_with(at_least, ones, shape, *, n_bits):
    """Returns int32[..., 1, 1]: the largest t for which `at_least(t)` is true at least `ones` times in each matrix."""

    def body(i, t):
        candidate = t | (1 << (n_bits - 1 - i))
        enough = jnp.sum(at_least(candidate), axis=(-1, -2), keepdims=True) >= ones
        return jnp.where(enough, candidate, t)

    return jax.lax.fori_loop(0, n_bits, body, jnp.zeros((*shape[:-2], 1, 1), jnp.int32))
