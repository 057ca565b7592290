"""Projected weights: the matrices of a small model, made in training from the frozen ones of a large model.

papers/004 sections 2 and 4 (arXiv 2506.22255 and the authors' code). A projected tree is the tree of the small model's
parameters, where in the place of an array there may be a dict of factors:

- p_in [..., m, m_c], p_out [..., n, n_c], w_a [..., m_c, n_c], each of which may be missing: the matrix is
  p_in^T W p_out + w_a, W [..., m, n] being the array of the same name in the frozen tree. Kernels here are [inputs,
  outputs], so this is P_out W P_in + W_a of the paper, transposed.
- left [..., m, r], right [..., r, n]: the matrix is their product (the low-rank baseline; no frozen array).

Arrays under "layers" have the layer as their first dimension. A step of training merges once, takes the gradient of
the merged parameters over all its micro-batches, and pulls it back:

params = merge(projected, frozen)
gradient = pull_back(projected, frozen, jax.grad(loss)(params))

Both take one layer after the other, so that what they need besides their results is that of one layer.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

LAYERS = "layers"  # the part of a tree whose arrays are stacks
FACTORS = frozenset(("p_in", "p_out", "w_a", "left", "right"))
# Otherwise GPUs and TPUs round what they multiply, and one-hot projections would not select the frozen weights exactly.
_dot = lambda a, b: jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)  # noqa: E731


def is_factors(node) -> bool:
    """Whether a node of a projected tree stands in the place of an array: a dict of factors."""
    return isinstance(node, dict) and bool(node) and node.keys() <= FACTORS


def holds_factors(tree) -> bool:
    """Whether a tree is projected: some array in it is given by factors."""
    return any(map(is_factors, jax.tree.leaves(tree, is_leaf=is_factors)))


def merge(projected: dict, frozen: dict, *, pin=None) -> dict:
    """Returns the parameters of the small model: float32 where there are factors, other arrays as they are.

    Args:
        projected: the projected tree.
        frozen: parameters of the large model; arrays that no factors name may be missing.
        pin: called inside the loop with the tree of one layer; returns it with its arrays placed on a mesh
            (`models.partitioning.pinned`).
    """
    pin = pin or (lambda tree: tree)
    return _by_layer(lambda part, base: pin(_merged(pin(part), pin(base))), projected, _used(projected, frozen))


def pull_back(projected: dict, frozen: dict, gradient: dict, *, pin=None) -> dict:
    """Returns the gradient of `projected`, of its structure, from that of `merge(projected, frozen)`.

    It is the vector-Jacobian product of `merge`, and equal to plain autograd through it; what `merge` had between its
    two products is computed again. Nothing is computed for the frozen tree.

    Args:
        projected, frozen, pin: as for `merge`.
        gradient: of the structure of the merged parameters.
    """
    pin = pin or (lambda tree: tree)

    def pulled(part, base, cotangent):
        part, base = pin(part), pin(base)
        cotangent = jax.tree.map(lambda x: x.astype(jnp.float32), pin(cotangent))
        return pin(jax.vjp(lambda part: _merged(part, base), part)[1](cotangent)[0])

    return _by_layer(pulled, projected, _used(projected, frozen), gradient)


@dataclasses.dataclass(frozen=True)
class MergeCost:
    """What the projections of a tree cost.

    Attributes:
        forward: FLOPs of `merge`, two for a multiplication and an addition. They are of a step, not of a token.
        backward: FLOPs of plain autograd through `merge`, which keeps what is between its products.
        pull_back: FLOPs of `pull_back`, which computes that again.
        trainable: numbers in the projected tree, all of which are trained.
        frozen: numbers in the frozen arrays that its factors name.
        merged: numbers in the merged tree, the parameters of the small model.
    """

    forward: int
    backward: int
    pull_back: int
    trainable: int
    frozen: int
    merged: int


def merge_cost(projected: dict, frozen: dict) -> MergeCost:
    """Returns what projections cost, from shapes alone; the trees may be of arrays or of `jax.ShapeDtypeStruct`.

    Source: papers/004 section 4. For W [m, n] to [m_c, n_c] with the inner side first, 2 m n m_c + 2 n m_c n_c forward
    and 2 m n m_c + 4 n m_c n_c backward, as W needs no gradient; one-sided, 2 m n m_c each. `pull_back` adds the 2 m n
    m_c of a two-sided product. The additions of w_a are not counted.
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


def _by_layer(function, *trees):
    """Returns function(*trees), with the part under "layers" one layer after the other."""
    rest = function(*({name: part for name, part in tree.items() if name != LAYERS} for tree in trees))
    if LAYERS not in trees[0]:
        return rest
    if not holds_factors(trees[0][LAYERS]):  # nothing to compute: the last tree, of the first one's structure
        return rest | {LAYERS: trees[0 if len(trees) == 2 else -1][LAYERS]}
    return rest | {LAYERS: jax.lax.map(lambda parts: function(*parts), tuple(tree.get(LAYERS, {}) for tree in trees))}


def _merged(part, base):
    def matrix(path, node):
        return _product(node, _at(base, path)) if is_factors(node) else node

    return jax.tree.map_with_path(matrix, part, is_leaf=is_factors)


def _product(node, w):
    """Returns the matrix that a dict of factors and a frozen matrix make."""
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


def _inner_first(shapes, w_shape) -> bool:
    """Whether p_in comes before p_out: the order with fewer FLOPs."""
    (m, n), (m_c, n_c) = w_shape[-2:], _merged_sides(shapes, w_shape)
    return m * n * m_c + n * m_c * n_c <= m * n * n_c + m * m_c * n_c


def _merged_sides(shapes, w_shape):
    m, n = w_shape[-2:]
    return (shapes["p_in"][-1] if "p_in" in shapes else m), (shapes["p_out"][-1] if "p_out" in shapes else n)


def _matrix_flops(shapes, w_shape):
    """Returns FLOPs of a stack of matrices: forward, backward, and those forward that the backward pass repeats."""
    if "left" in shapes:
        *stack, m, r = shapes["left"]
        flops = 2 * math.prod(stack) * m * r * shapes["right"][-1]
        return flops, 2 * flops, 0
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


def _used(projected, frozen):
    """Returns the frozen arrays that factors name, as a tree."""
    used = {}
    for name, node in projected.items():
        if is_factors(node):
            if "left" not in node:
                used[name] = frozen[name]
        elif isinstance(node, dict):
            used[name] = _used(node, frozen.get(name, {}))
    return used


def _at(tree, path):
    for key in path:
        tree = tree.get(key.key) if tree is not None else None
    return tree


def _shapes(node):
    return {name: tuple(x.shape) for name, x in node.items()}


def _size(tree) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
