"""Width pruning: the widths of a small model, hard pruning, and initial values of trainable projections.

papers/004 section 2. The small model has fewer residual dimensions (d) and fewer hidden units in each MLP (f); layers,
heads and head width are those of the large model. `weights.projection` defines projected trees.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from compressed_lm.errors import InputError
from compressed_lm.models.config import TransformerConfig, count_params
from compressed_lm.models.partitioning import by_name, path_name

# (pattern in a parameter's path, kinds of its last dimensions): "d" is the residual stream, "f" the hidden units of the
# layer's MLP, None is not pruned.
SIDES = (
    (r"\b(embed|positions)/embedding$", (None, "d")),
    (r"\bunembed/kernel$", ("d", None)),
    (r"attention/[qkv]/kernel$", ("d", None)),
    (r"attention/out/kernel$", (None, "d")),
    (r"mlp/(up|gate)/kernel$", ("d", "f")),
    (r"mlp/down/kernel$", ("f", "d")),
    (r"\b(attention|mlp|final)(_post)?_norm/(scale|bias)$", ("d",)),
    (r"(attention/out|mlp/down)/bias$", ("d",)),
    (r"mlp/(up|gate)/bias$", ("f",)),
    (r"(attention/[qkv]|unembed)/bias$", (None,)),
    (r"attention/[qk]_norm/(scale|bias)$", (None,)),
    (r"attention/relative_bias/embedding$", (None, None)),
)

# (pattern in a matrix's path, the norm whose output it reads)
READS = ((r"attention/[qkv]/", "attention_norm"), (r"mlp/(up|gate)/", "mlp_norm"), (r"unembed/", "final_norm"))
STARTS = ("one_hot", "svd")


class Selection(NamedTuple):
    """Indices of the kept dimensions: `d_model` for the whole model, `d_ff` for each layer."""

    d_model: Int[np.ndarray, " d_c"]
    d_ff: Int[np.ndarray, "n_layers f_c"]


class Widths(NamedTuple):
    """Widths of a small model, and its number of parameters as a share of the large model's."""

    d_model: int
    d_ff: int
    kept: float


def sides(name: str) -> tuple[str | None, ...]:
    """Returns the kinds of a parameter's last dimensions (see `SIDES`), by its name.

    Raises:
        InputError: no rule matches the name.
    """
    for pattern, found in SIDES:
        if re.search(pattern, name):
            return found
    raise InputError(
        f"The parameter {name} was given, but no rule defines which of its dimensions are the residual stream; "
        "expected the parameters of a dense Transformer. A model whose number format has its own parameters must first "
        "be packed and unpacked to a dense one."
    )


def small_config(config: TransformerConfig, *, d_model: int, d_ff: int, untie: bool = False) -> TransformerConfig:
    """Returns the config of the small model; layers, heads and head width are those of the large model.

    Args:
        config: the large model's.
        d_model, d_ff: the small model's widths.
        untie: whether the small model has a separate output layer, as after `projected(start="svd")`.

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
    """Returns the widths of the small model whose parameters are nearest to a share of the large model's.

    Embeddings are counted, also a separate output layer that only the small model has (`untie`): at equal widths this
    model has more parameters than the large one. As an exception, keep=1 always returns the large model's widths.

    Args:
        config: the large model's.
        keep: the share, above 0 and at most 1.
        aspect: d_ff / d_model of the small model; by default that of the large model.
        multiple: both widths are multiples of it, or equal to the large model's.
        untie: as for `small_config`.

    Raises:
        InputError: `keep` is not above 0 and at most 1, or is below the share of the narrowest model.
    """
    if not 0 < keep <= 1:
        raise InputError(f"keep={keep} was given; expected the share of parameters to keep, above 0 and at most 1.")
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
            f"{found[0].kept:.3g} of the parameters. Use a larger keep, or a smaller multiple than {multiple}."
        )
    return min(found, key=lambda option: abs(option.kept - keep))


def hard_pruned(params: dict, selection: Selection) -> dict:
    """Returns the parameters of the small model that has only the selected dimensions."""
    return _by_layer(lambda name, x, kept, part: _cut(name, x, kept), params, selection)


def projected(
    params: dict,
    selection: Selection,
    *,
    w_a: bool = True,
    start: str = "one_hot",
    moment: Float[Array | np.ndarray, "d d"] | None = None,
) -> dict:
    """Returns the initial projected tree (see `weights.projection`) to train over `params`, which stay frozen.

    Each matrix has its own projections, one for each side that is the residual stream (d) or the hidden units (f). Norm
    gains and biases are cut to the selection and then trained. The heads' side of attention and the vocabulary are not
    projected.

    The embedding table is projected like the other matrices. The paper projects the looked-up vectors instead, with the
    same result: here this costs 2 V d d_c FLOPs a step for a table of V ids, there 2 d d_c per token, which is more if
    a step has more than V tokens. If table and output layer are tied, so are their projections.

    Starts:

    - one_hot (the paper's): columns with a single 1 at a selected dimension. Merged, it equals `hard_pruned` exactly.
    - svd: as in SliceGPT (arXiv 2401.15024), but with one basis for all layers, because a plain Transformer has no
      matrices between them. The residual stream is rotated to the d_c directions Q [d, d_c] in which it is largest: the
      first eigenvectors of its second moment. Matrices that write the stream have p_out = Q. Matrices that read it have
      p_in = diag(gain) Q with the gain of the norm that they read. All gains of the small model start at one number,
      which corrects the root mean square for fewer and larger dimensions. With d_c = d the small model computes the
      same as the large one. Each hidden unit has its own nonlinearity, so their side is still a selection. If table and
      output layer are tied, one matrix cannot both include and exclude the final norm's gains: the tree then has a
      separate output layer, a plain matrix that starts as the table times the gains (its shape is that of
      `small_config(..., untie=True)`).

    Args:
        params: parameters of the large model.
        selection: the kept dimensions; svd uses only the size of its `d_model`.
        w_a: whether each matrix also has a term of the small shape that starts at 0. Without it, embedding and output
            layer stay linear images of the large model's.
        start: one_hot or svd.
        moment: for svd, the residual stream's second moment on text (`importance.residual_moment`); by default
            `written_moment(params)`, which needs no text.

    Raises:
        InputError: unknown start, or svd for a model with LayerNorm, whose mean differs in another basis, or with norms
            after attention and MLP, whose gains no matrix reads.
    """
    if start not in STARTS:
        raise InputError(f"start={start!r} was given; expected one of {', '.join(STARTS)}.")
    if start == "one_hot":
        return _by_layer(lambda name, x, kept, part: _one_hot_start(name, x, kept, w_a), params, selection)
    if any(re.search(r"\b(attention|mlp|final)_norm/bias$", name) for name in by_name(params)):
        raise InputError(
            "start='svd' was given for a model with LayerNorm, which subtracts a mean that another basis does not "
            "preserve; expected a model with RMSNorm. Use start='one_hot'."
        )
    if any("_post_norm/" in name for name in by_name(params)):
        raise InputError(
            "start='svd' was given for a model with norms after attention and MLP, whose gains cannot be moved to "
            "another basis; expected a model with norms before them only. Use start='one_hot'."
        )
    basis, gain = _basis(written_moment(params) if moment is None else moment, len(selection.d_model))

    def rotated(name: str, x: Any, kept: dict[str, Array], part: dict[str, Any]) -> Any:
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

    tree = _by_layer(rotated, params, selection)
    if "unembed" not in params:
        head = params["embed"]["embedding"] * params["final_norm"]["scale"]
        tree["unembed"] = {"kernel": basis.T @ jnp.asarray(head, jnp.float32).T}
    return tree


def written_moment(params: dict) -> Float[Array, "d d"]:
    """Returns an estimate of the residual stream's second moment from the weights alone, float32.

    It is the sum of W^T W / trace(W^T W) over the matrices W [inputs, d] that write the stream; the embedding has the
    same total weight as all layers.
    """
    gram = lambda w: jnp.einsum("...id,...ie->...de", w, w)  # noqa: E731
    fair = lambda m: m / jnp.trace(m, axis1=-2, axis2=-1)[..., None, None]  # noqa: E731
    layers = [params["layers"][part][name]["kernel"] for part, name in (("attention", "out"), ("mlp", "down"))]
    blocks = sum(jnp.mean(fair(gram(jnp.asarray(w))), axis=0) for w in layers)
    return fair(gram(jnp.asarray(params["embed"]["embedding"]))) + blocks / 2


def _basis(moment: Array | np.ndarray, n: int) -> tuple[Float[Array, "d {n}"], Float[Array, ""]]:
    """Returns (the first n eigenvectors of a second moment, the gain of the small model's norms).

    x / rms(x) has the length sqrt(d). Its image in the basis has the length sqrt(share of the basis * d), but a norm of
    n dimensions makes it sqrt(n); the gain is the ratio.
    """
    values, vectors = jnp.linalg.eigh(jnp.asarray(moment, jnp.float32))
    held = jnp.sum(values[-n:]) / jnp.sum(values)
    return vectors[:, ::-1][:, :n], jnp.sqrt(held * len(values) / n)


def _one_hot_start(name: str, x: Any, kept: dict[str, Array], w_a: bool) -> Any:
    """Returns factors that select the kept part of a matrix, or the kept part itself for any other array."""
    if len(sides(name)) == 1 or not any(sides(name)):
        return _cut(name, x, kept)
    ends = zip(("p_in", "p_out"), sides(name), x.shape, strict=True)
    node = {end: jax.nn.one_hot(kept[side], size, axis=0) for end, side, size in ends if side}
    return node | ({"w_a": jnp.zeros(_cut_shape(name, x.shape, kept))} if w_a else {})


def _cut(name: str, x: Any, kept: dict[str, Array]) -> Any:
    for axis, side in enumerate(sides(name)):
        x = jnp.asarray(x) if side is None else jnp.take(x, kept[side], axis=axis)
    return x


def _cut_shape(name: str, shape: tuple[int, ...], kept: dict[str, Array]) -> tuple[int, ...]:
    return tuple(size if side is None else len(kept[side]) for side, size in zip(sides(name), shape, strict=True))


def _by_layer(function: Callable, params: dict, selection: Selection) -> dict:
    """Returns params with each array replaced by function(name, array, {side: kept indices}, its neighbours by name).

    For arrays under "layers", the function gets one layer, and names without the prefix "layers/".
    """

    def of_part(part: dict, kept: dict[str, Array]) -> dict:
        around = by_name(part)
        return jax.tree.map_with_path(lambda path, x: function(path_name(path), x, kept, around), part)

    d = jnp.asarray(selection.d_model)
    rest = of_part({name: part for name, part in params.items() if name != "layers"}, {"d": d})
    layers = jax.vmap(lambda layer, f: of_part(layer, {"d": d, "f": f}))
    return rest | {"layers": layers(params["layers"], jnp.asarray(selection.d_ff))}
