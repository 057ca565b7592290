"""Mapping from optimised and stored numbers to a model's input vectors."""

import dataclasses
import functools
import hashlib

import jax
import jax.numpy as jnp
import numpy as np

from compressed_lm import weights
from compressed_lm.cramming.config import CramConfig, storable


@dataclasses.dataclass(frozen=True)
class Mapping:
    """Mapping from stored numbers [..., K, M] to vectors [..., K, D].

    Attributes:
        width: D, the model's width.
        dimensions: M; 0 for D, without a projection.
        seed: seed of the projection.
    """

    width: int
    dimensions: int = 0
    seed: int = 0

    @classmethod
    def of(cls, config: CramConfig, width: int) -> "Mapping":
        """Returns the mapping of the results of a configuration, for a model of this width.

        Results of learned maps are vectors, so their mapping has no projection.
        """
        dimensions = config.dimensions if config.projection == "signs" else 0
        return cls(width, dimensions, config.projection_seed if dimensions else 0)

    @property
    def stored(self) -> int:
        """M, stored numbers per vector."""
        return self.dimensions or self.width

    @functools.cached_property
    def matrix(self) -> np.ndarray | None:
        """float32[M, D], random signs divided by sqrt(M), which keeps the variance; None without a projection.

        Unlike Gaussian numbers, signs are the same on every machine for a seed, so they are not stored.
        """
        if not self.dimensions:
            return None
        bits = np.random.default_rng(self.seed).integers(0, 2, (self.dimensions, self.width), np.int8)
        return ((2 * bits - 1) / np.sqrt(self.dimensions)).astype(np.float32)

    def vectors(self, numbers: jax.Array | np.ndarray) -> jax.Array:
        """Returns float32[..., K, D] from float32[..., K, M]."""
        values = jnp.asarray(numbers)
        return values if self.matrix is None else values @ jnp.asarray(self.matrix)


def pack(numbers: np.ndarray, form: "str | weights.Representation") -> weights.PackedTensor:
    """Returns the packed numbers [K, M] of a text; each vector has its own scales."""
    return weights.pack(np.asarray(numbers, np.float32), storable(form), axis=-1)


def quantized(numbers: np.ndarray, form: "str | weights.Representation") -> np.ndarray:
    """Returns float32[K, M], the values of the packed numbers."""
    return weights.unpack(pack(numbers, form))


def initial(config: CramConfig, width: int, *, std: float, text: np.ndarray, seed: int) -> np.ndarray:
    """Returns float32[K, M], the initial numbers of a text.

    They depend only on the text and the seed, not on the other texts of a batch.

    Args:
        config: the settings.
        width: D.
        std: standard deviation of the model's embeddings.
        text: int32[N].
        seed: seed of the numbers.
    """
    rng = np.random.default_rng([seed, *_digest(text)])
    shape = config.n_vectors, config.dimensions or width
    if config.init == "uniform":
        return rng.uniform(-config.init_scale, config.init_scale, shape).astype(np.float32)
    return (rng.standard_normal(shape) * std * config.init_scale).astype(np.float32)


def initial_map(config: CramConfig, width: int, *, text: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Returns the initial learned map of a text: w float32[M, D] and b float32[D], uniform in -1 to 1 over sqrt(M).

    Args:
        config: the settings.
        width: D.
        text: int32[N].
        seed: seed of the map.
    """
    rng, bound = np.random.default_rng([seed, 1, *_digest(text)]), config.dimensions**-0.5
    shapes = {"w": (config.dimensions, width), "b": (width,)}
    return {name: rng.uniform(-bound, bound, shape).astype(np.float32) for name, shape in shapes.items()}


def _digest(text: np.ndarray) -> list[int]:
    return np.frombuffer(hashlib.sha256(np.asarray(text, "<i4").tobytes()).digest(), "<u4").tolist()
