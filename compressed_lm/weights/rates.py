"""Rates of storage methods: matrices in a storage method, and the bits per weight that they take."""

from collections.abc import Callable, Mapping

import numpy as np

from compressed_lm.coding import exp_golomb, levels
from compressed_lm.weights import bitstream
from compressed_lm.weights.deepshape import reshape_weights
from compressed_lm.weights.packing import pack, unpack
from compressed_lm.weights.registry import representation

Kernels = Mapping[str, np.ndarray]
"""Matrices by name, float32[n_layers, inputs, outputs]."""

Method = Callable[[Kernels], tuple[Kernels, dict[str, float]]]
"""Function from matrices to the stored matrices and their rate: "bits" per weight, and what else is known."""

DEEPSHAPE_STEP = "0.25std"


def floats(kernels: Kernels) -> tuple[Kernels, dict[str, float]]:
    """Returns the matrices unchanged, 32 bits per weight."""
    return kernels, {"bits": 32.0}


def coded(kernels: Kernels, step: str) -> tuple[Kernels, dict[str, float]]:
    """Returns the matrices rounded to uniform levels, entropy-coded.

    Args:
        kernels: the matrices.
        step: distance between levels, such as 0.01 or 0.25std; see `bitstream.parse_step`.

    Returns:
        The rounded matrices; and bits per weight of the range coder's stream ("bits", tables included), the entropy of
        the levels, the length under exp-Golomb codes of order 0 ("eg0"), and the share of zeros.
    """
    return _levels(kernels, _steps(kernels, step))


def pruned(kernels: Kernels, s: float, step: str = DEEPSHAPE_STEP) -> tuple[Kernels, dict[str, float]]:
    """Prunes the share s of each matrix by magnitude, then codes it with the step of the matrix before pruning."""
    return _levels(formatted(kernels, f"sparse(s={s})")[0], _steps(kernels, step))


def formatted(kernels: Kernels, form: str) -> tuple[Kernels, dict[str, float]]:
    """Returns the matrices in a representation (`weights.representation`), and its stored bits per weight."""
    rep = representation(form)
    stored, n_bytes = {}, 0
    for name, w in kernels.items():
        tensor = pack(w, rep)
        stored[name], n_bytes = unpack(tensor), n_bytes + tensor.nbytes
    return stored, {"bits": 8 * n_bytes / _count(kernels)}


def deepshaped(kernels: Kernels, step: str = DEEPSHAPE_STEP) -> tuple[Kernels, dict[str, float]]:
    """Applies DeepShape (shape x 0.8, scale x 0.6), then codes with the step of the original matrix."""
    return _levels(_deepshape(kernels), _steps(kernels, step))


def scaled(kernels: Kernels, step: str = DEEPSHAPE_STEP) -> tuple[Kernels, dict[str, float]]:
    """Scales each layer to the standard deviation after DeepShape, then codes with the same step."""
    goal = _deepshape(kernels)
    factors = {name: (goal[name].std(axis=(1, 2)) / w.std(axis=(1, 2)))[:, None, None] for name, w in kernels.items()}
    return _levels({name: w * factors[name] for name, w in kernels.items()}, _steps(kernels, step))


def _deepshape(kernels):
    return {name: np.stack([reshape_weights(layer) for layer in w]) for name, w in kernels.items()}


def _steps(kernels, step):
    return {name: bitstream.parse_step(step).of(w) for name, w in kernels.items()}


def _levels(kernels, steps):
    sums, stored = dict.fromkeys(("bits", "entropy", "eg0", "zeros"), 0.0), {}
    for name, w in kernels.items():
        found = bitstream.to_levels(w, steps[name])
        flat = found.reshape(-1)
        distinct, counts = levels.histogram(flat)
        sums["bits"] += 8 * len(levels.encode_levels(flat))
        sums["entropy"] += levels.empirical_entropy(flat) * flat.size
        sums["eg0"] += float((exp_golomb.code_lengths(exp_golomb.zigzag(distinct)) * counts).sum())
        sums["zeros"] += float(counts[distinct == 0].sum())
        stored[name] = bitstream.from_levels(found, steps[name])
    return stored, {what: total / _count(kernels) for what, total in sums.items()}


def _count(kernels):
    return sum(w.size for w in kernels.values())
