"""Devices as a mesh, and where each parameter lives on it."""

import math
from collections.abc import Sequence

import jax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding

from compressed_lm.errors import InputError
from compressed_lm.models.partitioning import AXES, RULES, Rules, partition, path_name


def use_cpu_devices(n: int) -> None:
    """Makes the CPU look like n devices; must come before JAX is first used.

    Raises:
        InputError: JAX is already running with another number.
    """
    try:
        jax.config.update("jax_num_cpu_devices", n)
    except RuntimeError as error:
        raise InputError(
            f"{n} virtual CPU devices were asked for, but JAX already runs with {jax.device_count()}; "
            "ask for them before anything uses JAX, or set XLA_FLAGS=--xla_force_host_platform_device_count."
        ) from error


def make_mesh(shape: Sequence[int] | None = None, *, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh with the axes data, fsdp and tensor over the first devices, by default all of them on data.

    Args:
        shape: sizes of the three axes. `data` copies the parameters, `fsdp` splits them and the batch, `tensor` splits
            heads, MLP and vocabulary.
        devices: those to choose from, by default all of this run.

    Raises:
        InputError: there are not enough devices.
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
    except NotImplementedError as error:  # JAX, of shapes that the wires of a TPU have not
        raise InputError(
            f"The mesh {shape} was given, which does not fit the shape of the TPU ({error}); expected axes that are "
            "products of the sizes of its dimensions, such as 4,16,1 on 4x4x4."
        ) from error


def on_host(tree):
    """Returns a tree of arrays as numpy arrays, whole, in every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def shardings(tree, mesh: Mesh, *, rules: Rules = RULES):
    """Returns a tree of NamedSharding for a tree of arrays or shapes, from the (pattern, spec) rules."""

    def place(path, leaf):
        return NamedSharding(mesh, partition(path_name(path), leaf.shape, mesh, rules=rules))

    return jax.tree.map_with_path(place, tree)
