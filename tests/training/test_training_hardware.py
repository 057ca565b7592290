"""Peaks are found by what a device calls itself, and bandwidth by where it stands."""

import types

import jax
import pytest

from compressed_lm.training.hardware import CHIPS, chip_of, peak_flops, send_bandwidth


def device(kind, *coords):
    """A device with a kind and, if given, coordinates in a torus."""
    return types.SimpleNamespace(device_kind=kind, **({"coords": list(coords)} if coords else {}))


@pytest.mark.parametrize(
    ("kind", "name", "flops"),
    [
        ("TPU v5 lite", "TPU v5e", 197e12),
        ("TPU v5", "TPU v5p", 459e12),
        ("TPU v4", "TPU v4", 275e12),
        ("TPU v6 lite", "TPU v6e", 918e12),
        ("TPU7x", "TPU7x", 1153.5e12),  # half a chip: JAX sees two devices
        ("NVIDIA H100 80GB HBM3", "H100 SXM", 989.4e12),
        ("NVIDIA H100 PCIe", "H100 PCIe", 756e12),
        ("NVIDIA H200", "H200", 989.4e12),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB", 312e12),
        ("NVIDIA L40S", "L40S", 362e12),
    ],
)
def test_a_chip_is_found_by_its_kind(kind, name, flops):
    """The longest known name that a kind begins with counts, so that v5 is not v5 lite and L4 not L40S."""
    assert chip_of(device(kind)).name == name
    assert peak_flops(device(kind)) == flops


def test_an_unknown_kind_has_no_peak():
    """A CPU, or a chip that is newer than the table, gives None and no guess."""
    assert peak_flops(jax.devices()[0]) is None
    assert peak_flops(device("TPU v50")) is None


def test_bandwidth_counts_the_links_that_a_group_can_use():
    """All links for a group over the whole torus, those of one dimension for a group along it, half without a ring."""
    v5e = CHIPS["TPU v5 lite"]  # four links of 50 GB/s
    pod = [device("TPU v5 lite", x, y, 0) for x in range(16) for y in range(16)]
    assert send_bandwidth(v5e, pod, pod) == 200e9
    assert send_bandwidth(v5e, pod[:16], pod) == 100e9
    small = [device("TPU v5 lite", x, y, 0) for x in range(4) for y in range(4)]
    assert send_bandwidth(v5e, small, small) == 100e9
    assert send_bandwidth(v5e, small[:4], small) == 50e9


def test_bandwidth_of_a_switch_and_within_a_chip():
    """GPUs behind a switch, and two devices of one chip, have the whole of it."""
    gpus = [device("NVIDIA H200")] * 8
    assert send_bandwidth(CHIPS["NVIDIA H200"], gpus[:2], gpus) == 450e9
    cores = [device("TPU7x", 0, 0, 0), device("TPU7x", 0, 0, 0), device("TPU7x", 1, 0, 0), device("TPU7x", 1, 0, 0)]
    assert send_bandwidth(CHIPS["TPU7x"], cores[:2], cores) == 300e9
