"""Conversion between our parameters and the tensors of a Hugging Face checkpoint, one at a time.

Checkpoints store one layer at a time, and most store matrices as [outputs, inputs]; ours are [inputs, outputs], stacked
over layers.
"""

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from compressed_lm.errors import InputError
from compressed_lm.models.config import TransformerConfig
from compressed_lm.models.huggingface.architecture import HEADS, Architecture
from compressed_lm.models.huggingface.config import chosen, fitting
from compressed_lm.models.partitioning import by_name
from compressed_lm.models.transformer import Transformer

Shapes = Mapping[str, tuple[int, ...]]

_KINDS = ("embedding", "kernel", "scale", "bias")
_NOT_WEIGHTS = re.compile(r"(rotary_emb\.inv_freq|\b(attention|attn)\.(masked_)?bias)$")  # of older versions
_SHOWN = 5  # names in a message


class _Tensor(NamedTuple):
    """A tensor of a checkpoint.

    Attributes:
        name: its name.
        layer: its layer; None outside layers.
        paths: our parameters in it.
        shape: its shape.
        sizes: number of outputs of each of our parameters.
    """

    name: str
    layer: int | None
    paths: tuple[str, ...]
    shape: tuple[int, ...]
    sizes: tuple[int, ...]


def leaves_from(
    shapes: Shapes, read: Callable[[str], np.ndarray], config: TransformerConfig, *, kind: str | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (path, array) of each of our parameters of a checkpoint, one at a time.

    All names and shapes are checked before the first tensor is read.

    Args:
        shapes: shape of each tensor, by name.
        read: returns a tensor by its name. Our parameters have its type, except those that need arithmetic: float32.
        config: from `config_from`.
        kind: the checkpoint's `model_type`; by default, the architecture that has most of these names.

    Raises:
        InputError: a tensor is missing, unknown or has another shape than in the config, or a tied model has a second
            output layer.
    """
    ours = _our_shapes(config)
    architecture = _architecture(shapes, ours, config, kind)
    stored = architecture.stored_names(shapes)
    found = {name: tuple(shapes[theirs]) for name, theirs in stored.items()}
    head = next((name for name in HEADS if name in found), None)  # newer versions name every head lm_head
    tensors = list(_tensors(ours, architecture, config))
    _check_shapes(found, tensors, architecture, head if config.tie_embeddings else None)
    return _leaves(ours, tensors, lambda name: read(stored[_alias(name, head)]), architecture, config, head)


def tensors_of(
    shapes: Shapes, read_leaf: Callable[[str], np.ndarray], config: TransformerConfig, *, kind: str | None = None
) -> Iterator[tuple[str, tuple[int, ...], Callable[[], np.ndarray]]]:
    """Yields (name, shape, function that returns it) of each tensor of a checkpoint.

    Tensors that contain the same parameters follow each other. Called in this order, the functions read each parameter
    once and keep those of one tensor.

    Args:
        shapes: shapes of our parameters, by path (`partitioning.by_name`).
        read_leaf: returns one of our parameters by its path, of any type.
        config: the model's config.
        kind: as for `config_of`.

    Raises:
        InputError: no architecture has this shape.
    """
    architecture = chosen(config, kind)
    kept: dict[str, np.ndarray] = {}

    def leaf(path: str, paths: Sequence[str]) -> np.ndarray:
        if path not in kept:
            for other in kept.keys() - set(paths):
                del kept[other]
            kept[path] = np.asarray(read_leaf(path))
        return kept[path]

    def make(tensor: _Tensor) -> np.ndarray:
        parts = []
        for path in tensor.paths:
            x = leaf(path, tensor.paths)
            x = x if tensor.layer is None else x[tensor.layer]
            if path.endswith("/scale") and architecture.scale_offset:
                x = x.astype(np.float32) - architecture.scale_offset
            parts.append(x.T if _outputs_first(path, architecture) else x)
        return _joined(parts, tensor, architecture, config)

    tensors = _tensors(shapes, architecture, config)
    return ((tensor.name, tensor.shape, functools.partial(make, tensor)) for tensor in tensors)


def _our_shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    tokens = jax.ShapeDtypeStruct((1, 1), "int32")
    ours = jax.eval_shape(Transformer(config).init, jax.random.key(0), tokens)["params"]
    return {name: leaf.shape for name, leaf in by_name(ours).items()}


def _architecture(shapes: Shapes, ours: Shapes, config: TransformerConfig, kind: str | None) -> Architecture:
    """Returns the architecture of a checkpoint: `kind` if it fits, otherwise the one with most of the names."""
    fits = fitting(config)
    if named := [one for one in fits if one.model_type == kind]:
        return named[0]

    def known(one: Architecture) -> int:
        stored = one.stored_names(shapes)
        return sum(tensor.name in stored for tensor in _tensors(ours, one, config))

    return max(fits, key=known)


def _tensors(ours: Shapes, architecture: Architecture, config: TransformerConfig) -> Iterator[_Tensor]:
    """Yields the tensors of a checkpoint in the order of the architecture's names; `ours` are shapes by path."""
    groups: dict[str, list[str]] = {}
    for module, target in architecture.names.items():
        for kind in _KINDS:
            if f"{module}/{kind}" in ours:
                name = f"{target}.{'bias' if kind == 'bias' else 'weight'}"
                groups.setdefault(name, []).append(f"{module}/{kind}")
    for name, paths in groups.items():
        stacked = paths[0].startswith("layers/")
        parts = [ours[path][1:] if stacked else ours[path] for path in paths]
        if _outputs_first(paths[0], architecture):
            parts = [shape[::-1] for shape in parts]
        axis = _output_axis(paths[0], architecture, len(parts[0]))
        sizes = tuple(shape[axis] for shape in parts)
        shape = (*parts[0][:axis], sum(sizes), *parts[0][axis + 1 :])
        for layer in range(ours[paths[0]][0]) if stacked else (None,):
            yield _Tensor(name if layer is None else name.format(layer), layer, tuple(paths), shape, sizes)


def _outputs_first(path: str, architecture: Architecture) -> bool:
    """Returns whether a parameter is a matrix that is stored as [outputs, inputs]."""
    return path.endswith("/kernel") and not (architecture.inputs_first and path.startswith("layers/"))


def _output_axis(path: str, architecture: Architecture, ndim: int) -> int:
    """Returns the axis of the outputs of a parameter as it is stored."""
    return 0 if _outputs_first(path, architecture) else ndim - 1


def _leaves(
    ours: Shapes,
    tensors: Sequence[_Tensor],
    read: Callable[[str], np.ndarray],
    architecture: Architecture,
    config: TransformerConfig,
    head: str | None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields our parameters; arguments have been checked."""
    places: dict[str, list[tuple[_Tensor, int]]] = {path: [] for path in ours}
    for tensor in tensors:
        for i, path in enumerate(tensor.paths):
            places[path].append((tensor, i))
    for path, pieces in places.items():
        if path.startswith("layers/"):
            leaf = _stacked(
                (_part(read(tensor.name), path, tensor, i, architecture, config) for tensor, i in pieces), len(pieces)
            )
        else:
            tensor, i = pieces[0]
            leaf = np.ascontiguousarray(_part(read(tensor.name), path, tensor, i, architecture, config))
        if path == "embed/embedding" and config.tie_embeddings and head and not np.array_equal(read(head), leaf):
            raise InputError(
                f"config.json has tie_word_embeddings = true, but {head} differs from the embedding table. Set "
                "tie_word_embeddings to false if the head is a separate matrix."
            )
        yield path, leaf


def _stacked(layers: Iterator[np.ndarray], n_layers: int) -> np.ndarray:
    """Returns layers as one array; float32 if their types differ."""
    first = next(layers)
    stack = np.empty((n_layers, *first.shape), first.dtype)
    stack[0] = first
    for i, layer in enumerate(layers, 1):
        if layer.dtype != stack.dtype:
            stack = stack.astype(np.float32)
        stack[i] = layer
    return stack


def _part(
    x: np.ndarray, path: str, tensor: _Tensor, i: int, architecture: Architecture, config: TransformerConfig
) -> np.ndarray:
    """Returns the i-th of our parameters in a tensor."""
    if len(tensor.paths) > 1 and architecture.alternating:
        heads = (config.n_heads, len(tensor.paths), config.d_head, *x.shape[1:])
        x = x.reshape(heads)[:, i].reshape(-1, *x.shape[1:])
    elif len(tensor.paths) > 1:
        start = sum(tensor.sizes[:i])
        x = x[_output_axis(path, architecture, x.ndim) * (slice(None),) + (slice(start, start + tensor.sizes[i]),)]
    if path.endswith("/scale") and architecture.scale_offset:
        x = x.astype(np.float32) + np.float32(architecture.scale_offset)
    return x.T if _outputs_first(path, architecture) else x


def _joined(
    parts: Sequence[np.ndarray], tensor: _Tensor, architecture: Architecture, config: TransformerConfig
) -> np.ndarray:
    """Returns the tensor of several of our parameters, which are already oriented as in the checkpoint."""
    if len(parts) == 1:
        return parts[0]
    if architecture.alternating:
        rest = parts[0].shape[1:]
        heads = [part.reshape(config.n_heads, config.d_head, *rest) for part in parts]
        return np.stack(heads, axis=1).reshape(-1, *rest)
    return np.concatenate(parts, axis=_output_axis(tensor.paths[0], architecture, parts[0].ndim))


def _alias(name: str, head: str | None) -> str:
    return head if head and name in HEADS else name


def _check_shapes(found: Shapes, tensors: Sequence[_Tensor], architecture: Architecture, extra: str | None) -> None:
    """Raises InputError unless a checkpoint has these tensors and no others, except the head `extra`."""
    head = next((name for name in HEADS if name in found), None)
    wanted = {_alias(tensor.name, head): tensor.shape for tensor in tensors}
    unknown = {name for name in found if not _NOT_WEIGHTS.search(name)} - wanted.keys() - {extra}
    problems = {
        "lacks": [name for name in wanted if name not in found],
        "has the unknown tensors": sorted(unknown),
        "has shapes that differ from config.json:": [
            f"{name} {found[name]}, expected {shape}"
            for name, shape in wanted.items()
            if found.get(name, shape) != shape
        ],
    }
    text = [
        f"{what} {', '.join(names[:_SHOWN])}{f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''}"
        for what, names in problems.items()
        if names
    ]
    if text:
        raise InputError(
            f"The {architecture.model_type} checkpoint {'; it '.join(text)}. Its files and its config.json are not of "
            "the same model: copy the whole checkpoint again."
        )
