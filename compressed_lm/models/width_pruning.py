"""A smaller model out of a larger one: its widths, hard pruning, and the starts of projections.

papers/004 section 2. The small model has fewer dimensions of the residual stream (d) and fewer hidden units in each MLP
(f); heads, their size and layers stay. `weights.projection` says what a projected tree is.
"""

import dataclasses
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from compressed_lm.errors import InputError
from compressed_lm.models.config import TransformerConfig, count_params
from compressed_lm.models.partitioning import by_name, path_name

# (pattern found in a parameter's path, what its last dimensions are: "d", the residual stream, "f", hidden units of the
# layer's MLP, or None, which stays as it is)
SIDES = (
    (r"\bembed/embedding$", (None, "d")),
    (r"\bunembed/kernel$", ("d", None)),
    (r"attention/[qkv]/kernel$", ("d", None)),
    (r"attention/out/kernel$", (None, "d")),
    (r"mlp/(up|gate)/kernel$", ("d", "f")),
    (r"mlp/down/kernel$", ("f", "d")),
    (r"\b(attention|mlp|final)_norm/(scale|bias)$", ("d",)),
    (r"(attention/out|mlp/down)/bias$", ("d",)),
    (r"mlp/(up|gate)/bias$", ("f",)),
    (r"(attention/[qkv]|unembed)/bias$", (None,)),
    (r"attention/[qk]_norm/(scale|bias)$", (None,)),
    (r"attention/relative_bias/embedding$", (None, None)),
)


# (pattern found in a matrix's path, the norm whose output it reads)
READS = ((r"attention/[qkv]/", "attention_norm"), (r"mlp/(up|gate)/", "mlp_norm"), (r"unembed/", "final_norm"))
STARTS = ("one_hot", "svd")


class Selection(NamedTuple):
    """What is kept: `d_model` int32[d_c], one set for the whole model; `d_ff` int32[n_layers, f_c], a set a layer."""

    d_model: np.ndarray
    d_ff: np.ndarray


class Widths(NamedTuple):
    """Widths of a small model, and the share of the large one's parameters that it keeps."""

    d_model: int
    d_ff: int
    kept: float


def sides(name: str) -> tuple[str | None, ...]:
    """Returns what the last dimensions of a parameter are, by its name.

    Raises:
        InputError: no rule knows it.
    """
    for pattern, found in SIDES:
        if re.search(pattern, name):
            return found
    raise InputError(
        f"The parameter {name} was given, and nothing says which of its dimensions are those of the residual stream; "
        "expected the parameters of a dense Transformer. A model trained in a number format with parameters of its own "
        "has to be packed and unpacked to a dense one first."
    )


def small_config(config: TransformerConfig, *, d_model: int, d_ff: int, untie: bool = False) -> TransformerConfig:
    """Returns the config of the small model: heads, their size and layers are the large one's.

    Args:
        config: of the large model.
        d_model, d_ff: the small model's widths.
        untie: the small model has an output layer of its own, as after the start svd of `projected`.

    Raises:
        InputError: a width is above the large model's, or not positive.
    """
    for name, asked, most in (("d_model", d_model, config.d_model), ("d_ff", d_ff, config.d_ff)):
        if not 1 <= asked <= most:
            raise InputError(f"{name}={asked} was given for a model with {name}={most}; expected 1 to {most}.")
    return dataclasses.replace(config, d_model=d_model, d_ff=d_ff, tie_embeddings=config.tie_embeddings and not untie)


def widths(
    config: TransformerConfig, *, keep: float, aspect: float | None = None, multiple: int = 8, untie: bool = False
) -> Widths:
    """Returns the widths at which a small model keeps nearly a share of the large one's parameters, embeddings counted.

    An output layer that only the small model has (`untie`) is counted, too: at equal widths such a model has more
    parameters than the large one. Only keep=1, which removes nothing, gives the large model's widths all the same.

    Args:
        config: of the large model.
        keep: the share, above 0 and up to 1.
        aspect: d_ff / d_model of the small model; by default that of the large one.
        multiple: both widths are multiples of it, or the large model's own.
        untie: as for `small_config`.

    Raises:
        InputError: the share is not between 0 and 1, or below that of the narrowest model.
    """
    if not 0 < keep <= 1:
        raise InputError(f"keep={keep} was given; expected the share of parameters to keep, above 0 and up to 1.")
    aspect = config.d_ff / config.d_model if aspect is None else aspect
    total, found = count_params(config).total, []
    for d_model in sorted({*range(multiple, config.d_model + 1, multiple), config.d_model}):
        d_ff = config.d_ff if d_model * aspect >= config.d_ff else max(round(d_model * aspect / multiple), 1) * multiple
        d_ff = min(d_ff, config.d_ff)
        kept = count_params(small_config(config, d_model=d_model, d_ff=d_ff, untie=untie)).total / total
        found.append(Widths(d_model, d_ff, kept))
    if keep == 1 and (found[-1].d_model, found[-1].d_ff) == (config.d_model, config.d_ff):
        return found[-1]
    if keep < found[0].kept:
        raise InputError(
            f"keep={keep} was given, but the narrowest model (d_model={found[0].d_model}, d_ff={found[0].d_ff}) keeps "
            f"{found[0].kept:.3g} of the parameters; keep more, or give a smaller multiple than {multiple}."
        )
    return min(found, key=lambda option: abs(option.kept - keep))


def hard_pruned(params: dict, selection: Selection) -> dict:
    """Returns the parameters of the small model that has what a selection keeps, and nothing else."""
    return _by_layer(lambda name, x, kept, part: _cut(name, x, kept), params, selection)


def projected(
    params: dict, selection: Selection, *, w_a: bool = True, start: str = "one_hot", moment: np.ndarray | None = None
) -> dict:
    """Returns a projected tree (see `weights.projection`) to be trained over `params`, which stay as they are.

    Each matrix has projections of its own, one on each side that is the residual stream's (d) or the MLP's (f), and
    norm gains and biases are cut, and then trained. The heads' side of attention and the vocabulary are not projected.

    The embedding table is projected as the other matrices are. The paper projects the looked-up vectors instead, which
    computes the same: here it is 2 V d d_c FLOPs a step for a table of V ids, there 2 d d_c for each token, which is
    more as soon as a step has more than V tokens. Where table and output layer are one, so are their projections.

    Starts:

    - one_hot, the paper's: columns with a single 1 at what the selection keeps. Merged, it is `hard_pruned`, exactly.
    - svd, as SliceGPT slices (arXiv 2401.15024), but with one basis for all layers, since a plain Transformer has no
      matrices between them: the residual stream is turned to the d_c directions Q [d, d_c] in which it is largest, the
      first eigenvectors of its second moment. Matrices that write it have p_out = Q. Those that read it have
      p_in = diag(gain) Q with the gain of the norm that they read, which is 1 between two orthogonal maps; the small
      model's gains start at one number, which makes up for what the root mean square of fewer and larger dimensions
      does. With d_c = d the small model computes what the large one does. Hidden units have a nonlinearity each, so
      their side is a selection still. Where the table is the output layer too, one matrix cannot take up the final
      norm's gains and not take them up: the tree then has an output layer of its own, a plain matrix that starts as the
      table with the gains (`small_config(..., untie=True)` is the shape).

    Args:
        params: of the large model.
        selection: what is kept; of `d_model`, svd uses only how much.
        w_a: whether each matrix also has a term of the small shape that starts at 0. Without it, embedding and output
            layer stay linear images of the large model's.
        start: one_hot or svd.
        moment: for svd, the residual stream's second moment [d, d] on text (`importance.residual_moment`); by default
            `written_moment(params)`, which needs no text.

    Raises:
        InputError: there is no such start, or svd is asked of a model with LayerNorm, whose mean is not the same in
            another basis.
    """
    if start not in STARTS:
        raise InputError(f"start={start!r} was given; expected one of {', '.join(STARTS)}.")
    if start == "one_hot":
        return _by_layer(lambda name, x, kept, part: _one_hot_start(name, x, kept, w_a), params, selection)
    if any(re.search(r"\b(attention|mlp|final)_norm/bias$", name) for name in by_name(params)):
        raise InputError(
            "start='svd' was given for a model with LayerNorm, which subtracts a mean that another basis does not "
            "keep; expected a model with RMSNorm. Use start='one_hot'."
        )
    basis, gain = _basis(written_moment(params) if moment is None else moment, len(selection.d_model))

    def turned(name, x, kept, part):
        node = _one_hot_start(name, x, kept, w_a)
        if sides(name) == ("d",):  # a norm's gains, or the bias of a matrix that writes the residual stream
            if name.endswith("/bias"):
                return basis.T @ x
            return jnp.full_like(node, gain)
        if sides(name)[0] == "d":
            norm = next(norm for pattern, norm in READS if re.search(pattern, name))
            node["p_in"] = part[f"{norm}/scale"][:, None] * basis
        if sides(name)[-1] == "d":
            node["p_out"] = basis
        return node

    tree = _by_layer(turned, params, selection)
    if "unembed" not in params:
        head = params["embed"]["embedding"] * params["final_norm"]["scale"]
        tree["unembed"] = {"kernel": basis.T @ jnp.asarray(head, jnp.float32).T}
    return tree


def written_moment(params: dict) -> jax.Array:
    """Returns float32[d, d], what the weights alone say of the residual stream's second moment: the sum of W^T W over
    the matrices W [inputs, d] that write it, each divided by its trace, the embedding counted as much as all layers."""
    gram = lambda w: jnp.einsum("...id,...ie->...de", w, w)  # noqa: E731
    fair = lambda m: m / jnp.trace(m, axis1=-2, axis2=-1)[..., None, None]  # noqa: E731
    layers = [params["layers"][part][name]["kernel"] for part, name in (("attention", "out"), ("mlp", "down"))]
    blocks = sum(jnp.mean(fair(gram(jnp.asarray(w))), axis=0) for w in layers)
    return fair(gram(jnp.asarray(params["embed"]["embedding"]))) + blocks / 2


def _basis(moment, n):
    """Returns (the first n eigenvectors [d, n] of a second moment, the gain of the small model's norms).

    x / rms(x) has the length sqrt(d), and its image in the basis has the root of the share that the basis holds times
    that; the norm of n dimensions would make it sqrt(n).
    """
    values, vectors = jnp.linalg.eigh(jnp.asarray(moment, jnp.float32))
    held = jnp.sum(values[-n:]) / jnp.sum(values)
    return vectors[:, ::-1][:, :n], jnp.sqrt(held * len(values) / n)


def _one_hot_start(name, x, kept, w_a):
    """Returns factors that select what is kept of a matrix; of any other array, what is kept."""
    if len(sides(name)) == 1 or not any(sides(name)):
        return _cut(name, x, kept)
    ends = zip(("p_in", "p_out"), sides(name), x.shape, strict=True)
    node = {end: jax.nn.one_hot(kept[side], size, axis=0) for end, side, size in ends if side}
    return node | ({"w_a": jnp.zeros(_cut_shape(name, x.shape, kept))} if w_a else {})


def _cut(name, x, kept):
    for axis, side in enumerate(sides(name)):
        x = jnp.asarray(x) if side is None else jnp.take(x, kept[side], axis=axis)
    return x


def _cut_shape(name, shape, kept):
    return tuple(size if side is None else len(kept[side]) for side, size in zip(sides(name), shape, strict=True))


def _by_layer(function, params, selection):
    """Returns params with function(name, array, {side: what is kept of it}, the arrays around it by name) for each
    array, where those under "layers" are one layer's and have names that begin below it."""

    def of_part(part, kept):
        around = by_name(part)
        return jax.tree.map_with_path(lambda path, x: function(path_name(path), x, kept, around), part)

    d = jnp.asarray(selection.d_model)
    rest = of_part({name: part for name, part in params.items() if name != "layers"}, {"d": d})
    layers = jax.vmap(lambda layer, f: of_part(layer, {"d": d, "f": f}))
    return rest | {"layers": layers(params["layers"], jnp.asarray(selection.d_ff))}
