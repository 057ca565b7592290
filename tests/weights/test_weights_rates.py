"""Rates of storage methods: what is counted as bits is what is stored, and matrices are changed as stated."""

import numpy as np
import pytest

from compressed_lm.coding import levels
from compressed_lm.weights import bitstream, rates

KERNELS = {
    "attention/q/kernel": np.random.default_rng(0).laplace(size=(2, 64, 48)).astype(np.float32),
    "mlp/up/kernel": 0.02 * np.random.default_rng(1).normal(size=(2, 64, 96)).astype(np.float32),
}
COUNT = sum(w.size for w in KERNELS.values())


def test_coded_bits_are_those_of_the_stream():
    """The bits of levels are those of the range coder's stream, and each matrix has its own step."""
    stored, rate = rates.coded(KERNELS, "0.25std")
    n_bytes = 0
    for name, w in KERNELS.items():
        step = 0.25 * w.std()
        assert np.max(np.abs(stored[name] - w)) <= step / 2 * 1.001
        n_bytes += len(levels.encode_levels(bitstream.to_levels(w, step).reshape(-1)))
    assert rate["bits"] == pytest.approx(8 * n_bytes / COUNT)
    assert rate["entropy"] < rate["bits"] < 1.1 * rate["entropy"] + 0.2 and rate["entropy"] < rate["eg0"]
    zeros = sum(np.sum(w == 0) for w in stored.values()) / COUNT
    assert rate["zeros"] == pytest.approx(zeros)


def test_formats_count_scales():
    """A format of 4 bits with a scale of 16 bits per group of 32 takes 4.5 bits per weight."""
    stored, rate = rates.formatted(KERNELS, "int(b=4,g=32)")
    assert rate["bits"] == pytest.approx(4.5)
    assert all(0 < np.mean(np.square(stored[name] - w)) < 0.05 * np.mean(w * w) for name, w in KERNELS.items())


def test_pruned_matrices_have_zeros():
    """The given share of each matrix is 0 after pruning and coding."""
    stored, rate = rates.pruned(KERNELS, 0.7)
    assert all(np.mean(w == 0) > 0.695 for w in stored.values()) and rate["zeros"] > 0.695


def test_scaling_has_the_deviations_of_deepshape():
    """The control scales each layer to the deviation that DeepShape leaves, with the same steps."""
    shaped, scaled = rates.deepshaped(KERNELS)[0], rates.scaled(KERNELS)[0]
    for name, w in KERNELS.items():
        assert shaped[name].std() < 0.97 * w.std()
        assert scaled[name].std(axis=(1, 2)) == pytest.approx(shaped[name].std(axis=(1, 2)), rel=0.02)


def test_floats_are_unchanged():
    """The baseline of 32 bits has the same matrices."""
    stored, rate = rates.floats(KERNELS)
    assert stored is KERNELS and rate == {"bits": 32.0}
