"""Sparse matrices: unstructured magnitude sparsity, n:m, and the formats of what remains."""

import abc
import dataclasses
import functools
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri
from scipy import special

from compressed_lm.errors import InputError
from compressed_lm.weights import grids, rules
from compressed_lm.weights.options import check_choice, check_range
from compressed_lm.weights.plain import Dense
from compressed_lm.weights.protocol import Representation, kept
from compressed_lm.weights.storage import Choices, Mask, Stored


class Sparsifier(Representation, abc.ABC):
    """A representation that keeps some weights and makes the others exactly zero. The kept ones stay float32 unless a
    format follows: `sparse(s=0.5).then(Int(4))`."""

    @abc.abstractmethod
    def mask(self, rows: jax.Array, *, sparsity=None) -> jax.Array:
        """Returns bool[..., R, N]: the weights kept, for rows float32[..., R, N].

        Args:
            rows: the weights.
            sparsity: the share of zeros for this call, where a schedule changes it.
        """

    @abc.abstractmethod
    def passed(self, rows: jax.Array, keep: jax.Array) -> jax.Array:
        """Returns the rows, differentiable where the backward rule lets gradients pass."""

    @abc.abstractmethod
    def density(self, x: np.ndarray) -> np.ndarray:
        """Returns the probability that a weight x of N(0, 1) is kept in a large matrix."""

    @abc.abstractmethod
    def ones(self, shape: tuple[int, ...]) -> int:
        """Returns how many weights of rows of this shape are kept."""

    @abc.abstractmethod
    def _mask_layout(self, shape) -> Stored:
        """Returns how the mask of rows of this shape is stored."""

    @functools.cached_property
    def kept_rms(self) -> float:
        """The root mean square of the weights that are kept from N(0, 1)."""
        square = 1 - grids.grid_error(np.zeros(1), 1.0, lambda x: 1 - self.density(x))
        share = grids.gaussian_mean(self.density)
        return math.sqrt(square / share)

    def then(self, other):
        if not other.maskable or other.rotation:
            raise InputError(
                f"{self} was asked to be followed by {other}, in which zeros would not stay zeros: it joins or rotates "
                "weights. Follow it by int, ternary, fp, lloyd (with hadamard=0), mxfp4, nvfp4, rf8, dense or noise."
            )
        return Hybrid(self, other)

    def gmse_with_error(self):
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
    """Unstructured sparsity: the weights of least magnitude of each matrix are zero, chosen anew at each call.

    `quantize(w, params=rep.schedule(progress))` has the share of zeros of that moment of a gradual schedule. Packed
    weights have the share s.

    Attributes:
        s: the share of zeros; round((1 - s) * weights) are kept, ties by place.
        rule: which weights get a gradient. masked: those kept. ste: all. rbbm, area_rbbm: those kept and the smallest,
            but not the band between (papers/003 section 5; equations 12 and 13 of Panferov et al. 2025). rms: those
            above a multiple of the root mean square, kept or not. rigl: all; the optimizer chooses which to keep, by
            magnitudes and gradients, now and then (Evci et al. 2020; `training.rigl`).
        p: for rbbm: the band's lower end is RMS * Phi^-1(1/2 + p), for a normal matrix 2p of the weights; 0 is masked.
            For rms: its threshold, likewise.
        a: for area_rbbm: the band's share of the probability below the threshold; 1 is masked, 0 is ste.
        ramp: the part of a run over which the share of zeros rises from 0 to s (gradual magnitude pruning, Zhu & Gupta
            2017, equation 1); 0 for s from the beginning.
        every: for rigl: updates from one choice to the next.
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

    def __post_init__(self):
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
                    f"rule={' and rule='.join(of)}."
                )
        if self.ramp and self.rule == "rigl":
            raise InputError("rule=rigl keeps as many weights from beginning to end; leave out ramp.")

    def schedule(self, progress):
        if not self.ramp:
            return {}
        return {"sparsity": self.s * (1 - (1 - jnp.clip(progress / self.ramp, 0, 1)) ** 3)}

    def mask(self, rows, *, sparsity=None):
        if sparsity is None:
            return magnitude_mask(rows, self._ones_each(rows.shape))[0]
        ones = jnp.round((1 - sparsity) * (rows.shape[-1] * rows.shape[-2])).astype(jnp.int32)
        return magnitude_mask(rows, ones)[0]

    def passed(self, rows, keep):
        if self.rule in ("ste", "rigl"):
            return rows
        if self.rule == "masked":
            return rules.masked(rows, keep)
        return rules.masked(rows, self._banded(jax.lax.stop_gradient(rows), keep))

    def _banded(self, rows, keep):
        """Returns bool[..., R, N]: the weights that RBBM gives a gradient."""
        size = jnp.abs(rows)
        threshold = jnp.min(jnp.where(keep, size, jnp.inf), axis=(-1, -2), keepdims=True)
        rms = jnp.sqrt(jnp.mean(rows**2, axis=(-1, -2), keepdims=True))
        if self.rule == "area_rbbm":
            below = ndtr(threshold / jnp.maximum(rms, 1e-30)) - 0.5
            return keep | (size < rms * ndtri(0.5 + (1 - self.a) * below))
        edge = rms * np.float32(special.ndtri(0.5 + self.p))
        if self.rule == "rms":
            return size > edge
        # With p beyond the threshold the band lies within the weights kept.
        return (size < jnp.minimum(edge, threshold)) | jnp.where(edge > threshold, size > edge, keep)

    def density(self, x):
        return np.abs(x) >= special.ndtri((1 + self.s) / 2)

    def gmse_with_error(self):
        t = special.ndtri((1 + self.s) / 2)
        return (self.s - (2 * t * math.exp(-t * t / 2) / math.sqrt(2 * math.pi) if self.s < 1 else 0.0)), 0.0

    def ones(self, shape):
        return math.prod(shape[:-2]) * self._ones_each(shape)

    def _ones_each(self, shape):
        return round((1 - self.s) * shape[-1] * shape[-2])

    def _mask_layout(self, shape):
        return Mask(shape, self.ones(shape))


@dataclasses.dataclass(frozen=True)
class NM(Sparsifier):
    """n:m sparsity: of each m neighbours along the reduction axis the n of largest magnitude are kept.

    Attributes:
        n: weights kept.
        m: of so many, at most 16.
        rule: masked or ste, as for `Sparse`.
        block: 2 to keep or drop pairs of neighbours by the sum of their squares, n and m being even: 4:8 in pairs is
            what 4-bit numbers need in place of 2:4 (QuEST); the last weight of an odd row stays. 1 for single weights.
    """

    name: ClassVar[str] = "nm"
    summary: ClassVar[str] = "N of every M weights remain"
    example: ClassVar[str] = "nm(n=2,m=4)"
    n: int = 2
    m: int = 4
    rule: str = "masked"
    block: int = 1

    def __post_init__(self):
        check_range(self.name, "m", self.m, 2, 16)
        check_range(self.name, "n", self.n, 1, self.m)
        check_range(self.name, "block", self.block, 1, 2)
        check_choice(self.name, "rule", self.rule, ("masked", "ste"))
        if self.n % self.block or self.m % self.block:
            raise InputError(f"{self} keeps pairs; expected an even n and an even m, such as nm(n=4,m=8,block=2).")

    def mask(self, rows, *, sparsity=None):
        if sparsity is not None:
            raise InputError(f"A sparsity was given to {self}, whose share of zeros is fixed; sparse takes a schedule.")
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

    def passed(self, rows, keep):
        return rows if self.rule == "ste" else rules.masked(rows, keep)

    def density(self, x):
        if self.block == 1:
            larger, others = 2 * special.ndtr(-np.abs(x)), self.m - 1
            return sum(math.comb(others, j) * larger**j * (1 - larger) ** (others - j) for j in range(self.n))
        # Another pair is larger with probability q = exp(-(x**2 + y**2) / 2), y being the neighbour: powers of q have
        # means over y in closed form, and P(fewer than n / 2 of the others are larger) is a polynomial in q.
        others, x = self.m // 2 - 1, np.asarray(x, float)
        at_most = np.polynomial.Polynomial([0.0])
        for j in range(self.n // 2):
            others_smaller = np.polynomial.Polynomial([1.0, -1.0]) ** (others - j)
            at_most += math.comb(others, j) * np.polynomial.Polynomial([0.0, 1.0]) ** j * others_smaller
        return sum(c * np.exp(-k * x**2 / 2) / math.sqrt(1 + k) for k, c in enumerate(at_most.coef))

    def ones(self, shape):
        whole, rest = divmod(-(-shape[-1] // self.block), self.m // self.block)
        blocks = whole * (self.n // self.block) + min(rest, self.n // self.block)
        return math.prod(shape[:-1]) * (blocks * self.block - shape[-1] % self.block)

    def _mask_layout(self, shape):
        return Choices(shape, self.n, self.m, self.block)


@dataclasses.dataclass(frozen=True)
class Hybrid(Representation):
    """Sparsity, then a format for the weights that remain: `sparse(s=0.5)+int(b=4)`.

    The format sees kept weights only: its scales are theirs, and for scalar grids the factor is the best one for the
    distribution that the sparsity leaves of a Gaussian. Codes of zeros are not stored.
    """

    name: ClassVar[str] = "hybrid"
    first: Sparsifier
    second: Representation

    def __str__(self):
        return f"{self.first}+{self.second}"

    @property
    def needs_key(self):
        return self.second.needs_key

    def init_params(self, w, *, axis=-2):
        return self.second.init_params(w, axis=axis)

    def schedule(self, progress):
        return self.first.schedule(progress)

    def gmse_with_error(self):
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


def scattered(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns float32 of the mask's shape: the values where it is true, in order, and 0 elsewhere."""
    out = np.zeros(mask.shape, np.float32)
    out[mask] = values
    return out


@jax.jit
def magnitude_mask(rows: jax.Array, ones) -> tuple[jax.Array, jax.Array]:
    """Returns (bool[..., R, N], float32[..., 1, 1]): the `ones` largest magnitudes of each matrix, and the least of
    them.

    Exactly `ones` are true: among equal magnitudes the first in the matrix. `ones` may be traced.
    """
    # A positive float32 and its bits as an integer have the same order: search the threshold bit by bit,
    # 31 sums instead of a sort.
    bits = jax.lax.bitcast_convert_type(jnp.abs(rows), jnp.int32)
    threshold = _largest_with(lambda t: bits >= t, ones, bits.shape, n_bits=31)
    surely = bits > threshold
    equal, wanted = bits == threshold, ones - jnp.sum(surely, axis=(-1, -2), keepdims=True)
    place = jax.lax.broadcasted_iota(jnp.int32, bits.shape, bits.ndim - 2) * bits.shape[-1]
    place = place + jax.lax.broadcasted_iota(jnp.int32, bits.shape, bits.ndim - 1)
    # Of the equal ones the first: those whose distance from the end is at least a threshold of its own.
    rest = bits.shape[-1] * bits.shape[-2] - place
    n_bits = (bits.shape[-1] * bits.shape[-2]).bit_length()
    first = _largest_with(lambda t: equal & (rest >= t), wanted, bits.shape, n_bits=n_bits)
    return surely | (equal & (rest >= first) & (wanted > 0)), jax.lax.bitcast_convert_type(threshold, jnp.float32)


def _largest_with(at_least, ones, shape, *, n_bits):
    """Returns int32[..., 1, 1]: the largest t for which `at_least(t)` is true `ones` times or more in each matrix."""

    def body(i, t):
        candidate = t | (1 << (n_bits - 1 - i))
        enough = jnp.sum(at_least(candidate), axis=(-1, -2), keepdims=True) >= ones
        return jnp.where(enough, candidate, t)

    return jax.lax.fori_loop(0, n_bits, body, jnp.zeros((*shape[:-2], 1, 1), jnp.int32))
