"""Devices as a mesh, and where each parameter lives on it."""

import math
import re
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from compressed_lm.errors import InputError

AXES = ("data", "fsdp", "tensor")
BATCH = P(("data", "fsdp"))  # the rows of a batch

# (pattern searched for in a parameter's path, axes of its dimensions); the first that is found counts. Optimizer states
# carry the path of their parameter and so live beside it.
RULES = (
    (r"\bembed/embedding", P(("fsdp", "tensor"))),  # not D: what is looked up is already split by fsdp, along the batch
    (r"\bunembed/kernel", P("fsdp", "tensor")),
    (r"attention/[qkv]/kernel", P("fsdp", "tensor")),
    (r"attention/out/kernel", P("tensor", None, "fsdp")),
    (r"mlp/(up|gate)/kernel", P("fsdp", "tensor")),
    (r"mlp/down/kernel", P("tensor", "fsdp")),
)


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


def make_mesh(shape: Sequence[int] | None = None) -> Mesh:
    """Returns a mesh with the axes data, fsdp and tensor over the first devices, by default all of them on data.

    Args:
        shape: sizes of the three axes. `data` copies the parameters, `fsdp` splits them and the batch, `tensor` splits
            heads, MLP and vocabulary.

    Raises:
        InputError: there are not enough devices.
    """
    shape = tuple(shape or (jax.device_count(), 1, 1))
    if len(shape) != 3 or min(shape) < 1 or math.prod(shape) > jax.device_count():
        raise InputError(
            f"The mesh {shape} was given; expected three positive sizes ({', '.join(AXES)}) whose product is at most "
            f"the number of devices, {jax.device_count()}."
        )
    devices = jax.devices()[: math.prod(shape)]
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def shardings(tree, mesh: Mesh, *, rules=RULES):
    """Returns a tree of NamedSharding for a tree of arrays or shapes, from the (pattern, spec) rules.

    What no rule names is replicated, and so is a dimension that its axis does not divide, or an array with fewer
    dimensions than its rule (Adafactor's factored moments).
    """

    def place(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        spec = next((spec for pattern, spec in rules if re.search(pattern, name)), P())
        if len(spec) > leaf.ndim:
            return NamedSharding(mesh, P())
        axes = zip(spec, leaf.shape, strict=False)
        return NamedSharding(mesh, P(*(axis if size % _size(mesh, axis) == 0 else None for axis, size in axes)))

    return jax.tree.map_with_path(place, tree)


def _size(mesh, axes):
    """Returns the number of pieces that a dimension's entry of a PartitionSpec (None, a name or several) makes."""
    return math.prod(mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes or ()))
