"""Peak performance of chips, for MFU and for estimates before a run."""

import dataclasses
from collections.abc import Sequence

import jax


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peak performance of one JAX device; a chip that JAX sees as two devices has half of its numbers.

    Attributes:
        name: common name.
        bf16_flops: peak dense bfloat16 FLOP/s, accumulated in float32.
        memory_bytes: bytes of its large memory (HBM) that a program can use.
        memory_bandwidth: bytes/s of that memory.
        link_bandwidth: bytes/s that it sends over all its links to other chips.
        torus: dimensions of the torus that the links form, two links in each; 0 for a switch.
        wraps: length from which a dimension of the torus is a ring.
        longest: largest length of a dimension, if libtpu accepts larger ones than are built; 0 for any.
        topologies: names of slices, such as "v5e:4x4"; () if dry runs do not know the chip.
    """

    name: str
    bf16_flops: float
    memory_bytes: float
    memory_bandwidth: float
    link_bandwidth: float
    torus: int = 0
    wraps: int = 0
    longest: int = 0
    topologies: tuple[str, ...] = ()


GiB = 2**30
_V4 = Chip("TPU v4", 275e12, 30.75 * GiB, 1200e9, 300e9, 3, 4, topologies=("v4:2x2x1", "v4:4x4x4"))
_V5E = Chip(
    *("TPU v5e", 197e12, 15.75 * GiB, 819e9, 200e9, 2, 16, 16),
    topologies=("v5e:1x1", "v5e:2x2", "v5e:4x4", "v5e:16x16"),
)
_V5P = Chip(*("TPU v5p", 459e12, 95.74 * GiB, 2765e9, 600e9, 3, 4), topologies=("v5p:2x2x1", "v5p:4x4x4", "v5p:8x8x8"))
_V6E = Chip(*("TPU v6e", 918e12, 31.25 * GiB, 1638e9, 400e9, 2, 16, 16), topologies=("v6e:1x1", "v6e:2x2", "v6e:16x16"))
_V7X = Chip(
    *("TPU7x", 2307e12 / 2, 94.75 * GiB, 7380e9 / 2, 600e9 / 2, 3, 4), topologies=("tpu7x:2x2x1", "tpu7x:4x4x4")
)

CHIPS = {
    "TPU v4": _V4,
    "TPU v5 lite": _V5E,
    "TPU v5e": _V5E,
    "TPU v5": _V5P,
    "TPU v5p": _V5P,
    "TPU v6 lite": _V6E,
    "TPU v6e": _V6E,
    "TPU7x": _V7X,
    "TPU v7x": _V7X,
    "NVIDIA A100-SXM4-40GB": Chip("A100 40GB", 312e12, 40e9, 1555e9, 300e9),
    "NVIDIA A100-SXM4-80GB": Chip("A100 80GB", 312e12, 80e9, 2039e9, 300e9),
    "NVIDIA H100": Chip("H100 SXM", 989.4e12, 80e9, 3350e9, 450e9),
    "NVIDIA H100 PCIe": Chip("H100 PCIe", 756e12, 80e9, 2000e9, 300e9),
    "NVIDIA H100 NVL": Chip("H100 NVL", 835.5e12, 94e9, 3900e9, 300e9),
    "NVIDIA H200": Chip("H200", 989.4e12, 141e9, 4800e9, 450e9),
    "NVIDIA B200": Chip("B200", 2250e12, 180e9, 8000e9, 900e9),
    "NVIDIA L4": Chip("L4", 121e12, 24e9, 300e9, 32e9),
    "NVIDIA L40S": Chip("L40S", 362e12, 48e9, 864e9, 32e9),
}
"""Chips by the beginning of `device_kind`; the longest match counts.

Sources:
TPU: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}, tables "key specifications". The documented interconnect
  bandwidth counts both directions; here it is one direction. TPU7x has two devices per chip; the two cores of v4 and
  v5p are one device ("megacore"). Memory is what libtpu 0.0.42 gives to a program, from its error about a program that
  does not fit; the documents say 32, 16, 95, 32 and 192 GiB per chip.
  `wraps`: jax-ml.github.io/scaling-book/tpus, "TPU networking".
NVIDIA: data sheets of A100, H100, H200, HGX B200, L4 and L40S at nvidia.com/data-center; dense figures. Links are
  NVLink (PCIe for L4 and L40S) in one direction, to the GPUs of one host only.
"""


def chip_of(device: jax.Device) -> Chip | None:
    """Returns the chip of a device, or None if it is not in `CHIPS` (such as a CPU)."""
    kind = device.device_kind
    names = [name for name in CHIPS if kind == name or kind.startswith(name + " ")]
    return CHIPS[max(names, key=len)] if names else None


def peak_flops(device: jax.Device) -> float | None:
    """Returns the peak bfloat16 FLOP/s of a device, or None if it is not known."""
    chip = chip_of(device)
    return chip.bf16_flops if chip else None


def send_bandwidth(chip: Chip, group: Sequence[jax.Device], mesh: Sequence[jax.Device]) -> float:
    """Returns the peak bytes/s that each device of a group sends to the others.

    In a torus only the dimensions that the group extends over count: two links if the dimension is a ring, otherwise
    one link, since data for the far end passes through.

    Args:
        chip: kind of the devices.
        group: the devices that exchange data.
        mesh: all devices of the program, which give the lengths of the torus.
    """
    if not chip.torus or not all(hasattr(device, "coords") for device in mesh):
        return chip.link_bandwidth
    lengths = [len(set(positions)) for positions in zip(*(device.coords for device in mesh), strict=True)]
    extends = [len(set(positions)) > 1 for positions in zip(*(device.coords for device in group), strict=True)]
    links = sum(2 if length >= chip.wraps else 1 for length, used in zip(lengths, extends, strict=True) if used)
    if not links:
        return chip.link_bandwidth  # two devices of one chip
    return chip.link_bandwidth * links / (2 * chip.torus)
