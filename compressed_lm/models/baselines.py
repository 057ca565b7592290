"""Baselines for trainable projections: low-rank factors of the whole model, and a frozen base of random numbers.

Two more baselines are in `width_pruning`: hard pruning (`hard_pruned`) and a small model trained from scratch
(`small_config`).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from compressed_lm.errors import InputError
from compressed_lm.models.partitioning import by_name, path_name
from compressed_lm.weights.projection import is_factors, merge


def low_rank(params: dict, *, keep: float) -> dict:
    """Returns a projected tree of factors left [m, r], right [r, n] that keeps a share of a model's parameters.

    The factors come from the truncated singular value decomposition; each takes the square roots of the singular
    values. All matrices are factored, also the embedding and the output layer: with a large vocabulary, a small share
    is impossible without them. The rank r is the same share of m n / (m + n) for all matrices. Norms and biases are not
    factored. The merged model has the shape of the large one; only the factors are small.

    Args:
        params: parameters of the large model.
        keep: size of factors, norms and biases together, as a share of the large model's parameters, between 0 and 1.

    Raises:
        InputError: `keep` is not between 0 and 1, or is smaller than the share at rank 1.
    """
    if not 0 < keep < 1:
        raise InputError(f"keep={keep} was given; expected the share of parameters to keep, between 0 and 1.")
    named = by_name(params)
    shapes = {name: x.shape for name, x in named.items() if _is_matrix(name)}
    total = sum(math.prod(x.shape) for x in named.values())
    whole = total - sum(map(math.prod, shapes.values()))

    def ranks(share: float) -> dict[str, int]:
        return {name: max(round(share * m * n / (m + n)), 1) for name, (*_, m, n) in shapes.items()}

    def kept(share: float) -> float:
        rank = ranks(share)
        return (whole + sum(math.prod(stack) * rank[name] * (m + n) for name, (*stack, m, n) in shapes.items())) / total

    if keep < kept(0):
        raise InputError(
            f"keep={keep} was given, but factors of rank 1 and the arrays that are not factored already keep "
            f"{kept(0):.3g} of the parameters. Use a larger keep."
        )
    rank = ranks(min(np.linspace(0, 1, 4097), key=lambda share: abs(kept(share) - keep)))

    def factored(path: tuple, x: jax.Array) -> jax.Array | dict[str, jax.Array]:
        name = path_name(path)
        if name not in rank:
            return jnp.asarray(x)
        left, values, right = jnp.linalg.svd(jnp.asarray(x, jnp.float32), full_matrices=False)
        roots = jnp.sqrt(values[..., : rank[name]])
        return {
            "left": left[..., : rank[name]] * roots[..., None, :],
            "right": roots[..., None] * right[..., : rank[name], :],
        }

    return jax.tree.map_with_path(factored, params)


def random_base(params: dict, projected: dict, *, key: jax.Array) -> tuple[dict, dict]:
    """Returns (projected, frozen) with a random frozen base; the merged model is that of `projected` over `params`.

    This control measures the value of the frozen weights' content (a question of the paper's reviewers). Each matrix
    that projections read is replaced by independent normal numbers (which have full rank), scaled layer by layer to
    the Frobenius norm of the matrix. The difference P^T (W - W_random) P is added to w_a.

    Args:
        params: parameters of the large model.
        projected: a projected tree over them; all its factors have w_a.
        key: JAX random key.

    Raises:
        InputError: a matrix has no w_a. It would start as noise, and the comparison would mean nothing.
    """
    nodes = {
        path_name(path): node
        for path, node in jax.tree.leaves_with_path(projected, is_leaf=is_factors)
        if is_factors(node)
    }
    for name, node in nodes.items():
        if "w_a" not in node:
            raise InputError(
                f"A random base was requested, but {name} has the factors {', '.join(sorted(node))} and no w_a; "
                "expected w_a, which stores the difference at the start. Use projections with w_a."
            )

    def noise(path: tuple, x: jax.Array) -> jax.Array:
        name = path_name(path)
        if name not in nodes:
            return x
        drawn = jax.random.normal(jax.random.fold_in(key, sorted(nodes).index(name)), x.shape)
        norm = lambda x: jnp.linalg.norm(x, axis=(-2, -1), keepdims=True)  # noqa: E731
        return drawn * (norm(x) / norm(drawn))

    frozen = jax.tree.map_with_path(noise, params)
    wanted, found = merge(projected, params), merge(projected, frozen)
    add = lambda node, a, b: node | {"w_a": node["w_a"] + (a - b)} if is_factors(node) else node  # noqa: E731
    return jax.tree.map(add, projected, wanted, found, is_leaf=is_factors), frozen


def _is_matrix(name: str) -> bool:
    return name.endswith(("/kernel", "embed/embedding"))
