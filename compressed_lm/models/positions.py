"""Position encodings: T5's relative-position buckets and rotary positions (RoPE)."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32

from compressed_lm.models.config import TransformerConfig, parse_rope_scaling


def relative_buckets(length: int, *, n_buckets: int, max_distance: int) -> Int32[np.ndarray, " {length}"]:
    """Returns the bucket of each distance 0..length-1 back in time (T5's causal rule).

    The first half of the buckets holds one distance each; the others grow geometrically up to `max_distance`.
    """
    distance = np.arange(length)
    exact = n_buckets // 2
    growth = np.log(np.maximum(distance, exact) / exact) / math.log(max_distance / exact)
    # 1e-9, because rounding could move the first distance of a bucket into the bucket before it.
    far = exact + np.floor(growth * (n_buckets - exact) + 1e-9).astype(int)
    return np.where(distance < exact, distance, np.minimum(far, n_buckets - 1)).astype(np.int32)


def rotary_frequencies(config: TransformerConfig, *, local: bool = False) -> Float[Array, " pairs"]:
    """Returns float32[rotary_dims / 2], the angle (radians) by which each pair rotates per position.

    Args:
        config: the model's config.
        local: whether they are those of a layer with a window.
    """
    half, own = config.rotary_dims // 2, local and config.local_rope_theta > 0
    frequencies = (config.local_rope_theta if own else config.rope_theta) ** (-jnp.arange(half) / half)
    if own or not (scaling := parse_rope_scaling(config.rope_scaling)):
        return frequencies
    if "low" not in scaling:
        return frequencies / scaling["factor"]
    # Llama 3.1: long wavelengths are stretched, short ones are unchanged, those between are interpolated.
    turns = scaling["length"] * frequencies / (2 * math.pi)  # within the length of the original training
    kept = jnp.clip((turns - scaling["low"]) / (scaling["high"] - scaling["low"]), 0, 1)
    return frequencies * (kept + (1 - kept) / scaling["factor"])


def rotate(
    x: Float[Array, "*rows H K"], positions: Int[Array, "..."], frequencies: Float[Array, " pairs"]
) -> Float[Array, "*rows H K"]:
    """Returns x with pairs of numbers rotated by positions * frequencies (RoPE).

    A pair has one number in each half of the first R = 2 * pairs numbers of a head; the rest is unchanged.

    Args:
        x: queries or keys.
        positions: broadcasts to the rows.
        frequencies: from `rotary_frequencies`.
    """
    half = len(frequencies)
    angles = jnp.multiply.outer(positions, frequencies)[..., None, :]  # [..., 1, R / 2]
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    first, second = jnp.split(x[..., : 2 * half].astype(jnp.float32), 2, axis=-1)
    turned = [first * cos - second * sin, second * cos + first * sin]
    rest = [x[..., 2 * half :].astype(jnp.float32)] if 2 * half < x.shape[-1] else []
    return jnp.concatenate(turned + rest, axis=-1).astype(x.dtype)
