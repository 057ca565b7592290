"""From the numbers that are optimised and stored to the vectors that a model reads."""

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
    """How stored numbers [..., K, M] become vectors [..., K, D].

    Attributes:
        width: D, of the model.
        dimensions: M; 0 for D itself, without a projection.
        seed: of the projection.
    """

    width: int
    dimensions: int = 0
    seed: int = 0

    @classmethod
    def of(cls, config: CramConfig, width: int) -> "Mapping":
        """Returns the mapping of a configuration, for a model of this width."""
        return cls(width, config.dimensions, config.projection_seed if config.dimensions else 0)

    @property
    def stored(self) -> int:
        """M, numbers of a vector that are stored."""
        return self.dimensions or self.width

    @functools.cached_property
    def matrix(self) -> np.ndarray | None:
        """float32[M, D], random signs over sqrt(M), which keeps the variance of numbers; None without a projection.

        Signs, and not Gaussian numbers: any machine makes the same ones from the seed, so none are stored.
        """
        if not self.dimensions:
            return None
        bits = np.random.default_rng(self.seed).integers(0, 2, (self.dimensions, self.width), np.int8)
        return ((2 * bits - 1) / np.sqrt(self.dimensions)).astype(np.float32)

    def vectors(self, numbers: jax.Array) -> jax.Array:
        """Returns float32[..., K, D] from float32[..., K, M]."""
        return numbers if self.matrix is None else numbers @ jnp.asarray(self.matrix)


def pack(numbers: np.ndarray, form: "str | weights.Representation") -> weights.PackedTensor:
    """Returns the numbers [K, M] of a text as they are stored: each vector has scales of its own."""
    return weights.pack(np.asarray(numbers, np.float32), storable(form), axis=-1)


def quantized(numbers: np.ndarray, form: "str | weights.Representation") -> np.ndarray:
    """Returns float32[K, M], what the stored numbers stand for."""
    return weights.unpack(pack(numbers, form))


def initial(config: CramConfig, width: int, *, std: float, text: np.ndarray, seed: int) -> np.ndarray:
    """Returns float32[K, M], the numbers that the optimisation of a text starts from.

    They depend on the text and the seed alone, not on what else is crammed along with it.

    Args:
        config: the settings.
        width: D.
        std: standard deviation of the model's embeddings.
        text: int32[N].
        seed: another one gives other numbers.
    """
    digest = np.frombuffer(hashlib.sha256(np.asarray(text, "<i4").tobytes()).digest(), "<u4")
    rng = np.random.default_rng([seed, *digest.tolist()])
    shape = config.n_vectors, config.dimensions or width
    if config.init == "uniform":
        return rng.uniform(-config.init_scale, config.init_scale, shape).astype(np.float32)
    return (rng.standard_normal(shape) * std * config.init_scale).astype(np.float32)
