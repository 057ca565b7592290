"""Trainable projections: the matrices of a small model as functions of a large model's frozen matrices.

papers/004 sections 2 and 4 (arXiv 2506.22255 and the authors' code). A projected tree is the tree of the small model's
parameters, in which an array may be replaced by a dict of factors:

- p_in [..., m, m_c], p_out [..., n, n_c], w_a [..., m_c, n_c], each optional: the matrix is p_in^T W p_out + w_a, where
  W [..., m, n] is the array of the same name in the frozen tree. Kernels are [inputs, outputs], so this is the
  transpose of the paper's P_out W P_in + W_a.
- left [..., m, r], right [..., r, n]: the matrix is their product (the low-rank baseline; no frozen array).

Arrays under "layers" have the layer as their first dimension. A training step merges once, computes the gradient of the
merged parameters over all its micro-batches, and pulls it back:

    params = merge(projected, frozen)
    gradient = pull_back(projected, frozen, jax.grad(loss)(params))

Both process one layer at a time, so their temporary memory is that of one layer.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

_Shapes = dict[str, tuple[int, ...]]
LAYERS = "layers"  # the part of a tree whose arrays are stacks of layers
FACTORS = frozenset(("p_in", "p_out", "w_a", "left", "right"))
# With lower precision, GPUs and TPUs round the operands, and one-hot projections do not select frozen weights exactly.
_dot = lambda a, b: jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)  # noqa: E731


def is_factors(node: Any) -> bool:
    """Returns whether a node of a projected tree is a dict of factors."""
    return isinstance(node, dict) and bool(node) and node.keys() <= FACTORS


def holds_factors(tree: PyTree) -> bool:
    """Returns whether a tree is projected: it has a dict of factors."""
    return any(map(is_factors, jax.tree.leaves(tree, is_leaf=is_factors)))


def merge(projected: dict, frozen: dict, *, pin: Callable[[PyTree], PyTree] | None = None) -> dict:
    """Returns the parameters of the small model: float32 products of factors, and the other arrays unchanged.

    Args:
        projected: the projected tree.
        frozen: parameters of the large model; arrays without factors in `projected` may be missing.
        pin: called inside the loop with the tree of one layer; returns it sharded over the mesh
            (`models.partitioning.pinned`).
    """
    place = pin or (lambda tree: tree)
    return _by_layer(lambda part, base: place(_merged(place(part), place(base))), projected, _used(projected, frozen))


def pull_back(projected: dict, frozen: dict, gradient: dict, *, pin: Callable[[PyTree], PyTree] | None = None) -> dict:
    """Returns the gradient of `projected` from the gradient of `merge(projected, frozen)`.

    It is the vector-Jacobian product of `merge` and equals plain autograd through it; the intermediate product of
    `merge` is recomputed. Nothing is computed for the frozen tree.

    Args:
        projected, frozen, pin: as for `merge`.
        gradient: gradient of the merged parameters.
    """
    place = pin or (lambda tree: tree)

    def pulled(part: dict, base: dict, cotangent: dict) -> dict:
        part, base = place(part), place(base)
        cotangent = jax.tree.map(lambda x: x.astype(jnp.float32), place(cotangent))
        return place(jax.vjp(lambda part: _merged(part, base), part)[1](cotangent)[0])

    return _by_layer(pulled, projected, _used(projected, frozen), gradient)


@dataclasses.dataclass(frozen=True)
class MergeCost:
    """Cost of a projected tree.

    Attributes:
        forward: FLOPs of `merge`, 2 per multiply-add; per step, not per token.
        backward: FLOPs of plain autograd through `merge`, which stores the intermediate product.
        pull_back: FLOPs of `pull_back`, which recomputes it.
        trainable: numbers in the projected tree, all trained.
        frozen: numbers in the frozen arrays that have factors.
        merged: numbers in the merged tree, the parameters of the small model.
    """

    forward: int
    backward: int
    pull_back: int
    trainable: int
    frozen: int
    merged: int


def merge_cost(projected: dict, frozen: dict) -> MergeCost:
    """Returns the cost of projections from shapes alone; leaves may be arrays or `jax.ShapeDtypeStruct`.

    Source: papers/004 section 4. For W [m, n] to [m_c, n_c] with p_in first: 2 m n m_c + 2 n m_c n_c forward and
    2 m n m_c + 4 n m_c n_c backward, because W needs no gradient; one-sided, 2 m n m_c each. `pull_back` adds the
    2 m n m_c of a two-sided product. Additions of w_a are not counted.
    """
    forward = backward = again = 0
    base = _used(projected, frozen)
    nodes = jax.tree.leaves_with_path(projected, is_leaf=is_factors)
    for path, node in nodes:
        if is_factors(node):
            costs = _matrix_flops(_shapes(node), getattr(_at(base, path), "shape", None))
            forward, backward, again = (a + b for a, b in zip((forward, backward, again), costs, strict=True))
    return MergeCost(
        forward=forward,
        backward=backward,
        pull_back=backward + again,
        trainable=_size(projected),
        frozen=_size(base),
        merged=_size(jax.eval_shape(merge, projected, base)),
    )


def _by_layer(function: Callable[..., dict], *trees: dict) -> dict:
    """Returns function(*trees), with one call per layer for the part under "layers"."""
    rest = function(*({name: part for name, part in tree.items() if name != LAYERS} for tree in trees))
    if LAYERS not in trees[0]:
        return rest
    if not holds_factors(trees[0][LAYERS]):  # nothing to compute: the last tree of the first one's structure
        return rest | {LAYERS: trees[0 if len(trees) == 2 else -1][LAYERS]}
    return rest | {LAYERS: jax.lax.map(lambda parts: function(*parts), tuple(tree.get(LAYERS, {}) for tree in trees))}


def _merged(part: dict, base: dict) -> dict:
    def matrix(path: tuple, node: Any) -> Any:
        return _product(node, _at(base, path)) if is_factors(node) else node

    return jax.tree.map_with_path(matrix, part, is_leaf=is_factors)


def _product(node: dict[str, jax.Array], w: Any) -> jax.Array:
    """Returns the matrix of a dict of factors and a frozen matrix."""
    node = {name: x.astype(jnp.float32) for name, x in node.items()}
    if "left" in node:
        return _dot(node["left"], node["right"])
    w = jax.lax.stop_gradient(w).astype(jnp.float32)
    first = _inner_first(_shapes(node), w.shape)
    if "p_in" in node and first:
        w = _dot(node["p_in"].T, w)
    if "p_out" in node:
        w = _dot(w, node["p_out"])
    if "p_in" in node and not first:
        w = _dot(node["p_in"].T, w)
    return w + node["w_a"] if "w_a" in node else w


def _inner_first(shapes: _Shapes, w_shape: tuple[int, ...]) -> bool:
    """Returns whether the product with p_in first has fewer FLOPs."""
    (m, n), (m_c, n_c) = w_shape[-2:], _merged_sides(shapes, w_shape)
    return m * n * m_c + n * m_c * n_c <= m * n * n_c + m * m_c * n_c


def _merged_sides(shapes: _Shapes, w_shape: tuple[int, ...]) -> tuple[int, int]:
    m, n = w_shape[-2:]
    return (shapes["p_in"][-1] if "p_in" in shapes else m), (shapes["p_out"][-1] if "p_out" in shapes else n)


def _matrix_flops(shapes: _Shapes, w_shape: tuple[int, ...] | None) -> tuple[int, int, int]:
    """Returns FLOPs of a stack of matrices: forward, backward, and of the product that `pull_back` recomputes."""
    if "left" in shapes:
        *stack, m, r = shapes["left"]
        flops = 2 * math.prod(stack) * m * r * shapes["right"][-1]
        return flops, 2 * flops, 0
    if w_shape is None:
        raise ValueError(f"the frozen tree has no matrix for the factors {', '.join(sorted(shapes))}")
    *stack, m, n = w_shape
    m_c, n_c = _merged_sides(shapes, w_shape)
    layers = math.prod(stack)
    sides = shapes.keys() & {"p_in", "p_out"}
    if len(sides) < 2:
        flops = 2 * layers * m * n * (m_c if "p_in" in sides else n_c) if sides else 0
        return flops, flops, 0
    inner = _inner_first(shapes, w_shape)
    first = 2 * layers * m * n * (m_c if inner else n_c)
    second = 2 * layers * m_c * n_c * (n if inner else m)
    return first + second, first + 2 * second, first


def _used(projected: dict, frozen: dict) -> dict:
    """Returns the tree of the frozen arrays that have factors."""
    used: dict = {}
    for name, node in projected.items():
        if is_factors(node):
            if "left" not in node:
                used[name] = frozen[name]
        elif isinstance(node, dict):
            used[name] = _used(node, frozen.get(name, {}))
    return used


def _at(tree: Any, path: tuple) -> Any:
    for key in path:
        tree = tree.get(key.key) if tree is not None else None
    return tree


def _shapes(node: dict) -> _Shapes:
    return {name: tuple(x.shape) for name, x in node.items()}


def _size(tree: PyTree) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
