"""Vector quantisation: several weights in one code (as in HIGGS, Malinovskii et al. 2024)."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from compressed_lm.errors import InputError
from compressed_lm.weights import codebooks, hadamard, rounding, rules
from compressed_lm.weights.protocol import Representation
from compressed_lm.weights.scalar import groups
from compressed_lm.weights.storage import Codes, Floats

_AT_ONCE = 1 << 14  # vectors compared with a codebook at a time: 256 MB for 4096 codes


@dataclasses.dataclass(frozen=True)
class VQ(Representation):
    """Vector quantisation of `dim` neighbours along the reduction axis with a codebook for N(0, I).

    Each row is first Hadamard-transformed and divided by its root mean square. Gradient: straight-through inside the
    hypersphere around the codebook, none outside. The radius is the length of the longest code plus half the distance
    to its nearest neighbour.

    Attributes:
        dim: 2 or 4. Rows are padded with zeros to a multiple.
        bits: bits per weight; dim * bits is a whole number: the codebook has 2**(dim * bits) codes.
        hadamard: largest block of the transform, a power of two; 0 for none.
    """

    name: ClassVar[str] = "vq"
    summary: ClassVar[str] = "vector quantisation with a Gaussian codebook"
    example: ClassVar[str] = "vq(dim=2,bits=2)"
    dim: int
    bits: float
    hadamard: int = 128

    def __post_init__(self) -> None:
        sizes = codebooks.SIZES.get(self.dim, ())
        if 2 ** (self.dim * self.bits) not in sizes:
            valid = ", ".join(
                f"{np.log2(n) / d:g}" for d, all_n in codebooks.SIZES.items() for n in all_n if d == self.dim
            )
            raise InputError(
                f"vq(dim={self.dim},bits={self.bits:g}) was given; "
                + (f"for dim={self.dim}, bits must be one of {valid}." if valid else "expected dim=2 or dim=4.")
            )
        if self.hadamard < 0 or self.hadamard & (self.hadamard - 1):
            raise InputError(f"hadamard={self.hadamard} was given to vq; expected 0 or a power of two.")

    @property
    def rotation(self) -> int:
        return self.hadamard

    @property
    def _code_bits(self) -> int:
        return round(self.dim * self.bits)

    @functools.cached_property
    def _codes(self) -> np.ndarray:
        return codebooks.codebook(self.dim, 2**self._code_bits)

    @functools.cached_property
    def _radius(self) -> float:
        lengths = np.linalg.norm(self._codes, axis=1)
        longest = np.argmax(lengths)
        distances = np.sort(np.linalg.norm(self._codes - self._codes[longest], axis=1))
        return float(lengths[longest] + distances[1] / 2)

    def gmse_with_error(self) -> tuple[float, float]:
        return codebooks.codebook_gmse(self.dim, 2**self._code_bits)

    def _prepare(self, rows):
        return hadamard.rotate(rows, largest=self.rotation) if self.rotation else rows

    def _apply(self, rows, *, params=None, key=None, rotated=False, keep=None, source=None):
        x = self._prepare(rows)
        parts = self._stored_parts(x, params, keep, source)
        length = jnp.sqrt(jnp.sum(groups(jax.lax.stop_gradient(x), self.dim) ** 2, axis=-1, keepdims=True))
        trusted = length <= np.float32(self._radius) * parts["scale"][..., None]
        trusted = jnp.broadcast_to(trusted, (*trusted.shape[:-1], self.dim))
        surrogate = rules.masked(x, trusted.reshape(*x.shape[:-1], -1)[..., : x.shape[-1]])
        if self.rotation and not rotated:
            surrogate = hadamard.rotate(surrogate, largest=self.rotation)
        return rules.straight_through(surrogate, self._restore(parts, rows.shape[-1], rotated=rotated))

    def _parts(self, x, *, params, keep, source):
        scale = rounding.stored_scale(jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True)))
        vectors = groups(rounding.divide(x, scale), self.dim)
        half_square = np.sum(self._codes**2, axis=1) / 2

        def nearest(block):  # the minimum of |v - c|^2 is the maximum of v.c - |c|^2 / 2
            products = jnp.matmul(block, self._codes.T, precision=jax.lax.Precision.HIGHEST)
            return jnp.argmax(products - half_square[None], axis=-1)

        flat = vectors.reshape(-1, self.dim)
        padded = jnp.pad(flat, [(0, -len(flat) % min(len(flat), _AT_ONCE)), (0, 0)])
        codes = jax.lax.map(nearest, padded.reshape(-1, min(len(flat), _AT_ONCE), self.dim)).reshape(-1)
        return {"scale": scale, "codes": codes[: len(flat)].reshape(vectors.shape[:-1]).astype(jnp.int32)}

    def _restore(self, parts, length, *, rotated=False):
        values = jnp.asarray(self._codes)[parts["codes"]]
        values = values.reshape(*values.shape[:-2], -1)[..., :length]
        scale = parts["scale"]
        if self.rotation and not rotated:  # see `Grid._restore`
            values = hadamard.unscaled(values, self.rotation)
            scale = scale * np.float32(hadamard.block_size(length, self.rotation) ** -0.5)
        return values * scale

    def _layout(self, shape):
        codes = Codes((*shape[:-1], -(-shape[-1] // self.dim)), self._code_bits)
        return {"scale": Floats((*shape[:-1], 1), "bfloat16"), "codes": codes}
