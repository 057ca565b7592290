"""Sharding of parameters and activations over the axes of a mesh.

- `data` copies the parameters and splits the batch.
- `fsdp` splits both: a layer's matrices are gathered just before use; their gradients are summed and split again.
- `tensor` splits heads, MLP and vocabulary.

Outside `jax.set_mesh` these functions have no effect.
"""

import functools
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, PyTree, Shaped

AXES = ("data", "fsdp", "tensor")
BATCH = ("data", "fsdp")  # axes that split the rows of a batch

# (pattern searched for in a parameter's path, axes of its dimensions); the first match is used. A stack of layers has
# one more dimension in front, which is not split. The path of an optimizer state, or of a factor of a projected matrix
# (weights/projection.py), contains the path of its parameter, so it is split in the same way.
Rules = Sequence[tuple[str, P]]
RULES: Rules = (
    (r"\bembed/embedding", P("tensor", "fsdp")),
    (r"\bunembed/kernel", P("fsdp", "tensor")),
    (r"attention/[qkv]/kernel", P("fsdp", "tensor")),
    (r"attention/out/kernel", P("tensor", "fsdp")),
    (r"mlp/(up|gate)/kernel", P("fsdp", "tensor")),
    (r"mlp/down/kernel", P("tensor", "fsdp")),
)


def partition(path: str, shape: Sequence[int], mesh: Mesh | AbstractMesh, *, rules: Rules = RULES) -> P:
    """Returns the PartitionSpec of an array, from its path and shape.

    An array is replicated if no rule matches or if its rank is not that of its rule (Adafactor's factored moments). A
    dimension is not split if its axes do not divide it.
    """
    spec = next((spec for pattern, spec in rules if re.search(pattern, path)), P())
    stacked = (None,) if re.search(r"\blayers\b", path) else ()
    if len(stacked) + len(spec) != len(shape):
        return P()
    axes = zip((*stacked, *spec), shape, strict=True)
    return P(*(axis if size % _ways(mesh, axis) == 0 else None for axis, size in axes))


def constrain(x: Shaped[Array, "*shape"], *axes: str | tuple[str, ...] | None) -> Shaped[Array, "*shape"]:
    """Returns x, sharded by the axes of each dimension: a name, several names or None; `BATCH` for rows."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    fitting = (axis if size % _ways(mesh, axis) == 0 else None for axis, size in zip(axes, x.shape, strict=True))
    return jax.lax.with_sharding_constraint(x, P(*fitting))


def path_name(path: tuple) -> str:
    """Returns the name of a parameter from its path in the tree, such as "layers/mlp/up/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def by_name(params: PyTree) -> dict[str, Any]:
    """Returns the leaves of a tree of parameters by name."""
    return {path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}


def pinned(layer: PyTree) -> PyTree:
    """Returns the parameters of one layer, sharded by the rules.

    Inside a loop, the TPU compiler otherwise chooses the sharding itself: it splits norms over `tensor`, and then the
    activations too.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return layer

    def pin(path: tuple, leaf: jax.Array) -> jax.Array:
        return jax.lax.with_sharding_constraint(leaf, partition(path_name(path), leaf.shape, mesh))

    return jax.tree.map_with_path(pin, layer)


def batch_parts(batch: int) -> int:
    """Returns the number of parts into which the mesh splits a batch's rows; 1 if it does not divide them."""
    mesh = jax.sharding.get_abstract_mesh()
    parts = 1 if mesh.empty else _ways(mesh, BATCH)
    return parts if batch % parts == 0 else 1


def gathered(kernel: Float[Array, "M N"], path: str, *, dtype: str) -> Float[Array, "M N"]:
    """Returns a matrix in the type of its product, gathered from its `fsdp` shards.

    It is converted first, so that bfloat16 is sent; the gradient is sharded like the parameter while it is summed.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.shape["fsdp"] == 1:
        return kernel.astype(dtype)
    spec = partition(path, kernel.shape, mesh)
    return _gathered(kernel, spec, P(*(None if axis == "fsdp" else axis for axis in spec)), dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _gathered(kernel: Array, spec: P, whole: P, dtype: str) -> Array:
    # First with the sharding of the parameter: the compiler must convert the shard, not the whole matrix.
    piece = jax.lax.with_sharding_constraint(kernel.astype(dtype), spec)
    return jax.lax.with_sharding_constraint(piece, whole)


def _gathered_fwd(kernel: Array, spec: P, whole: P, dtype: str) -> tuple[Array, None]:
    return _gathered(kernel, spec, whole, dtype), None


def _gathered_bwd(spec: P, whole: P, dtype: str, _: None, gradient: Array) -> tuple[Array]:
    # Sent and summed over the devices in the type of the product.
    return (jax.lax.with_sharding_constraint(gradient, spec).astype("float32"),)


_gathered.defvjp(_gathered_fwd, _gathered_bwd)


def _ways(mesh: Mesh | AbstractMesh, axes: str | tuple[str, ...] | None) -> int:
    """Returns the number of parts of a dimension with an entry of a PartitionSpec: None, a name or several names."""
    return math.prod(mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes or ()))
