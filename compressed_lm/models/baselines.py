"""What trainable projections are compared with: low-rank factors of the whole model, and a frozen base without content.

Hard pruning is `shrinking.hard_pruned`; a small model from scratch is a config (`shrinking.small_config`).
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

    They are the truncated singular value decomposition, each with the square roots of the singular values. All matrices
    are factored, embedding and output layer with them (or else a small share could not be reached with a large
    vocabulary); r is the same share of m n / (m + n) for all. Norms and biases stay whole. The merged model has the
    large one's shape: what is small are the factors.

    Args:
        params: of the large model.
        keep: the share of its parameters that factors, norms and biases have together, between 0 and 1.

    Raises:
        InputError: the share is not between 0 and 1, or smaller than what rank 1 keeps.
    """
    if not 0 < keep < 1:
        raise InputError(f"keep={keep} was given; expected the share of parameters to keep, between 0 and 1.")
    named = by_name(params)
    shapes = {name: x.shape for name, x in named.items() if _is_matrix(name)}
    total = sum(math.prod(x.shape) for x in named.values())
    whole = total - sum(map(math.prod, shapes.values()))

    def ranks(share):
        return {name: max(round(share * m * n / (m + n)), 1) for name, (*_, m, n) in shapes.items()}

    def kept(share):
        rank = ranks(share)
        return (whole + sum(math.prod(stack) * rank[name] * (m + n) for name, (*stack, m, n) in shapes.items())) / total

    if keep < kept(0):
        raise InputError(
            f"keep={keep} was given, but factors of rank 1 and the arrays that are not factored keep {kept(0):.3g} of "
            "the parameters; keep more."
        )
    rank = ranks(min(np.linspace(0, 1, 4097), key=lambda share: abs(kept(share) - keep)))

    def factored(path, x):
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
    """Returns (projected, frozen) that start where `projected` over `params` does, with a frozen base of noise.

    The control for what the content of the frozen weights is worth (a question of the paper's reviewers): each matrix
    that projections read is replaced by independent normal numbers, which have full rank, scaled to its Frobenius norm
    layer by layer, and w_a takes up the difference, P^T (W - W_random) P.

    Args:
        params: of the large model.
        projected: a projected tree over it, all of whose factors have w_a.
        key: of the random numbers.

    Raises:
        InputError: some matrix has no w_a: without it the start would be noise, too, and nothing could be compared.
    """
    nodes = {
        path_name(path): node
        for path, node in jax.tree.leaves_with_path(projected, is_leaf=is_factors)
        if is_factors(node)
    }
    for name, node in nodes.items():
        if "w_a" not in node:
            raise InputError(
                f"A random base was asked for, but {name} has the factors {', '.join(sorted(node))} and no w_a, which "
                "has to take up the difference at the start. Use projections with w_a."
            )

    def noise(path, x):
        name = path_name(path)
        if name not in nodes:
            return x
        drawn = jax.random.normal(jax.random.fold_in(key, sorted(nodes).index(name)), x.shape)
        norm = lambda x: jnp.linalg.norm(x, axis=(-2, -1), keepdims=True)  # noqa: E731
        return drawn * (norm(x) / norm(drawn))

    frozen = jax.tree.map_with_path(noise, params)
    wanted, found = merge(projected, params), merge(projected, frozen)
    take_up = lambda node, a, b: node | {"w_a": node["w_a"] + (a - b)} if is_factors(node) else node  # noqa: E731
    return jax.tree.map(take_up, projected, wanted, found, is_leaf=is_factors), frozen


def _is_matrix(name) -> bool:
    return name.endswith(("/kernel", "embed/embedding"))
