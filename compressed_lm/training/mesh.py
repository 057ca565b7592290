"""Device meshes and the sharding of parameters."""

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding

from compressed_lm.errors import InputError
from compressed_lm.models.partitioning import AXES, RULES, Rules, partition, path_name


def use_cpu_devices(n: int) -> None:
    """Splits the CPU into n virtual devices; call it before JAX is first used.

    Raises:
        InputError: JAX is already running with another number.
    """
    try:
        jax.config.update("jax_num_cpu_devices", n)
    except RuntimeError as error:
        raise InputError(
            f"{n} virtual CPU devices were requested, but JAX already runs with {jax.device_count()}. Request them "
            "before anything uses JAX, or set XLA_FLAGS=--xla_force_host_platform_device_count."
        ) from error


def make_mesh(shape: Sequence[int] | None = None, *, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh with the axes data, fsdp and tensor over the first devices.

    Args:
        shape: sizes of the three axes; by default all devices on `data`. `data` copies the parameters and splits the
            batch, `fsdp` splits both, `tensor` splits heads, MLP and vocabulary.
        devices: by default all devices of this run.

    Raises:
        InputError: there are not enough devices, or the shape does not fit the TPU.
    """
    devices = jax.devices() if devices is None else devices
    shape = tuple(shape or (len(devices), 1, 1))
    if len(shape) != 3 or min(shape) < 1 or math.prod(shape) > len(devices):
        raise InputError(
            f"The mesh {shape} was given; expected three positive sizes ({', '.join(AXES)}) whose product is at most "
            f"the number of devices, {len(devices)}."
        )
    try:
        return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices[: math.prod(shape)])
    except NotImplementedError as error:  # raised by JAX if the links of the TPU do not form this shape
        raise InputError(
            f"The mesh {shape} was given, but it does not fit the shape of the TPU ({error}); expected axes that are "
            "products of the sizes of its dimensions, such as 4,16,1 on 4x4x4."
        ) from error


def on_host(tree: Any) -> Any:
    """Returns a tree of arrays as whole numpy arrays, in every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def shardings(tree: Any, mesh: Mesh, *, rules: Rules = RULES) -> Any:
    """Returns the tree of `NamedSharding` of a tree of arrays or shapes, by the (pattern, spec) rules."""

    def place(path, leaf):
        return NamedSharding(mesh, partition(path_name(path), leaf.shape, mesh, rules=rules))

    return jax.tree.map_with_path(place, tree)
