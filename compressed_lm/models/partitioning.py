"""How parameters and activations are split over the axes of a mesh.

`data` copies the parameters and splits the batch; `fsdp` splits both: a layer's matrices are put together just before
they are used, and their gradients are summed and split again; `tensor` splits heads, MLP and vocabulary. Outside
`jax.set_mesh` nothing here does anything.
"""

import functools
import math
import re
from collections.abc import Sequence

import jax
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp", "tensor")
BATCH = ("data", "fsdp")  # axes that split the rows of a batch

# (pattern searched for in a parameter's path, axes of its dimensions); the first that is found counts. A stack of
# layers has one dimension more in front, which is not split. Optimizer states carry the path of their parameter and so
# live beside it; so do the factors of a projected matrix (weights/projection.py), which are split like the matrix.
Rules = Sequence[tuple[str, P]]
RULES: Rules = (
    (r"\bembed/embedding", P("tensor", "fsdp")),
    (r"\bunembed/kernel", P("fsdp", "tensor")),
    (r"attention/[qkv]/kernel", P("fsdp", "tensor")),
    (r"attention/out/kernel", P("tensor", "fsdp")),
    (r"mlp/(up|gate)/kernel", P("fsdp", "tensor")),
    (r"mlp/down/kernel", P("tensor", "fsdp")),
)


def partition(path: str, shape: Sequence[int], mesh, *, rules: Rules = RULES) -> P:
    """Returns where an array lives, by its path and shape.

    What no rule names is whole on every device, and so is a dimension that its axes do not divide, or an array that has
    not the dimensions of its rule (Adafactor's factored moments).
    """
    spec = next((spec for pattern, spec in rules if re.search(pattern, path)), P())
    stacked = (None,) if re.search(r"\blayers\b", path) else ()
    if len(stacked) + len(spec) != len(shape):
        return P()
    axes = zip((*stacked, *spec), shape, strict=True)
    return P(*(axis if size % _ways(mesh, axis) == 0 else None for axis, size in axes))


def constrain(x: jax.Array, *axes) -> jax.Array:
    """Returns x, split as the axes of its dimensions say: a name, several or None each, `BATCH` for rows."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    fitting = (axis if size % _ways(mesh, axis) == 0 else None for axis, size in zip(axes, x.shape, strict=True))
    return jax.lax.with_sharding_constraint(x, P(*fitting))


def path_name(path) -> str:
    """Returns the name of a parameter from its path in the tree, such as "layers/mlp/up/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def by_name(params) -> dict:
    """Returns the leaves of a tree of parameters by their names."""
    return {path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}


def pinned(layer):
    """Returns the parameters of one layer, each split as the rules say.

    Inside a loop the TPU compiler would choose for itself: it splits norms over `tensor`, and activations follow.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return layer

    def pin(path, leaf):
        return jax.lax.with_sharding_constraint(leaf, partition(path_name(path), leaf.shape, mesh))

    return jax.tree.map_with_path(pin, layer)


def batch_parts(batch: int) -> int:
    """Returns the number of pieces that the mesh makes of a batch's rows; 1 if they do not come out even."""
    mesh = jax.sharding.get_abstract_mesh()
    parts = 1 if mesh.empty else _ways(mesh, BATCH)
    return parts if batch % parts == 0 else 1


def gathered(kernel: jax.Array, path: str, *, dtype: str) -> jax.Array:
    """Returns a matrix in the type of its product, put together from the pieces that `fsdp` made of it.

    The conversion comes first, so that bfloat16 travels; the gradient is split as the parameter is while it is summed.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.shape["fsdp"] == 1:
        return kernel.astype(dtype)
    spec = partition(path, kernel.shape, mesh)
    return _gathered(kernel, spec, P(*(None if axis == "fsdp" else axis for axis in spec)), dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _gathered(kernel, spec, whole, dtype):
    # First where it lives: the compiler must convert the piece, not the whole.
    piece = jax.lax.with_sharding_constraint(kernel.astype(dtype), spec)
    return jax.lax.with_sharding_constraint(piece, whole)


def _gathered_fwd(kernel, spec, whole, dtype):
    return _gathered(kernel, spec, whole, dtype), None


def _gathered_bwd(spec, whole, dtype, _, gradient):
    # Summed over the devices in the type of the product, as it travels.
    return (jax.lax.with_sharding_constraint(gradient, spec).astype("float32"),)


_gathered.defvjp(_gathered_fwd, _gathered_bwd)


def _ways(mesh, axes):
    """Returns the number of pieces that a dimension's entry of a PartitionSpec (None, a name or several) makes."""
    return math.prod(mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes or ()))
