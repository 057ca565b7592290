"""Scaling of rotary positions in a GGUF file.

llama.cpp stores Llama 3's scaling as the divisors that it makes (conversion/llama.py), not as its settings.
"""

from typing import Any

import numpy as np

from compressed_lm.errors import InputError
from compressed_lm.models.gguf.metadata import Metadata
from compressed_lm.models.gguf.names import ROPE_FREQS

_LENGTHS = tuple(1 << bits for bits in range(10, 21))
"""Values of `original_max_position_embeddings` that are tried, after Llama 3's own."""

_HIGH = (4.0, 2.0, 8.0, 16.0)
"""Values of `high_freq_factor` that are tried; the first is Llama 3's."""


def rope_scaling(meta: Metadata, rope_freqs: np.ndarray | None, head_dim: int) -> dict[str, Any] | None:
    """Returns `rope_scaling`; the architecture decides whether it supports the type.

    Raises:
        InputError: the scaling depends on the length of a text, or is in divisors that are not Llama 3's.
    """
    if rope_freqs is not None and (rope_freqs != 1).any():
        return llama3_scaling(rope_freqs, theta=meta.real("rope.freq_base", 10_000.0), head_dim=head_dim)
    if meta.has("rope_factors_long.weight"):
        raise InputError(
            "The GGUF file has rotary positions that change with the length of a text (longrope), which are not "
            "supported. Use the model's variant for short texts, such as Phi-3-mini-4k."
        )
    kind = meta.get("rope.scaling.type", "linear")
    factor = meta.get("rope.scaling.factor", meta.get("rope.scale_linear", 0))
    if kind == "none" or kind == "linear" and factor in (0, 1):
        return None
    found: dict[str, Any] = dict(rope_type=str(kind)[:50])
    if factor:
        found["factor"] = meta.real("rope.scaling.factor", meta.get("rope.scale_linear"))
    if meta.get("rope.scaling.original_context_length"):
        found["original_max_position_embeddings"] = meta.number("rope.scaling.original_context_length")
    return found


def llama3_divisors(*, theta: float, head_dim: int, factor: float, low: float, high: float, length: int) -> np.ndarray:
    """Returns the divisors of the rotary frequencies of Llama 3.1, as conversion/llama.py of llama.cpp computes them.

    Args:
        theta: base of the frequencies.
        head_dim: size of a head.
        factor: divisor of low frequencies.
        low: `low_freq_factor`.
        high: `high_freq_factor`.
        length: `original_max_position_embeddings`.

    Returns:
        float32[head_dim / 2].
    """
    frequencies = np.float32(1) / np.float32(theta) ** (np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    wavelengths = 2 * np.pi / frequencies.astype(np.float64)
    smooth = np.clip((length / wavelengths - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)


def llama3_scaling(divisors: np.ndarray, *, theta: float, head_dim: int) -> dict[str, Any]:
    """Returns the `rope_scaling` of type llama3 that gives the divisors of a GGUF file.

    The file has only the divisors. Scaling low, high and length together changes nothing, so low is 1, as in all
    models of Llama 3.

    Raises:
        InputError: no such scaling gives them.
    """
    factor = float(np.max(divisors))
    if divisors.shape == (head_dim // 2,) and np.isfinite(divisors).all() and factor > 1:
        for length in (8192, *_LENGTHS):
            for high in _HIGH:
                if np.allclose(
                    llama3_divisors(theta=theta, head_dim=head_dim, factor=factor, low=1.0, high=high, length=length),
                    divisors,
                    rtol=2e-6,
                    atol=0,
                ):
                    return dict(
                        rope_type="llama3",
                        factor=factor,
                        low_freq_factor=1.0,
                        high_freq_factor=high,
                        original_max_position_embeddings=length,
                    )
    raise InputError(
        f"The GGUF file has the tensor {ROPE_FREQS} with divisors that are not those of Llama 3 (from "
        f"{np.min(divisors):.4g} to {factor:.4g}). Import the model's safetensors files instead."
    )
