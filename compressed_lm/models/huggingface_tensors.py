"""Conversion between our parameters and the tensors of a Hugging Face checkpoint.

Checkpoints store matrices as [outputs, inputs], one layer at a time. GPT-NeoX stores queries, keys and values together
in one matrix [heads, 3, d_head, inputs] (transformers' modeling_llama.py and modeling_gpt_neox.py).
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from compressed_lm.errors import InputError
from compressed_lm.models.config import TransformerConfig
from compressed_lm.models.huggingface_config import model_type
from compressed_lm.models.partitioning import by_name, path_name
from compressed_lm.models.transformer import Transformer

_LLAMA = {
    "embed": "model.embed_tokens",
    "final_norm": "model.norm",
    "unembed": "lm_head",
    "layers/attention_norm": "model.layers.{}.input_layernorm",
    "layers/mlp_norm": "model.layers.{}.post_attention_layernorm",
    **{f"layers/attention/{name}": f"model.layers.{{}}.self_attn.{name}_proj" for name in "qkv"},
    "layers/attention/out": "model.layers.{}.self_attn.o_proj",
    **{f"layers/attention/{name}": f"model.layers.{{}}.self_attn.{name}" for name in ("q_norm", "k_norm")},
    **{f"layers/mlp/{name}": f"model.layers.{{}}.mlp.{name}_proj" for name in ("up", "gate", "down")},
}
_FUSED = "gpt_neox.layers.{}.attention.query_key_value"
_GPT_NEOX = {
    "embed": "gpt_neox.embed_in",
    "final_norm": "gpt_neox.final_layer_norm",
    "unembed": "embed_out",
    "layers/attention_norm": "gpt_neox.layers.{}.input_layernorm",
    "layers/mlp_norm": "gpt_neox.layers.{}.post_attention_layernorm",
    **{f"layers/attention/{name}": _FUSED for name in "qkv"},
    "layers/attention/out": "gpt_neox.layers.{}.attention.dense",
    "layers/mlp/up": "gpt_neox.layers.{}.mlp.dense_h_to_4h",
    "layers/mlp/down": "gpt_neox.layers.{}.mlp.dense_4h_to_h",
}
_HEADS = ("lm_head.weight", "embed_out.weight")
_NOT_WEIGHTS = re.compile(r"(rotary_emb\.inv_freq|attention\.(masked_)?bias)$")  # extra tensors of older versions
_SHOWN = 5  # names in a message


class _Place(NamedTuple):
    """Place of one layer's parameter in a checkpoint: tensor, its shape, third of each head (None for the whole)."""

    path: str
    layer: int
    tensor: str
    shape: tuple[int, ...]
    third: int | None


def params_from(
    shapes: Mapping[str, tuple[int, ...]], read: Callable[[str], np.ndarray], config: TransformerConfig
) -> dict:
    """Returns the parameter tree of a checkpoint, float32.

    Args:
        shapes: shape of each tensor, by name.
        read: returns a tensor by its name, float32.
        config: from `huggingface_config.config_from`.

    Raises:
        InputError: a tensor is missing, unknown or has another shape than in the config.
    """
    tokens = jax.ShapeDtypeStruct((1, 1), "int32")
    ours = jax.eval_shape(Transformer(config).init, jax.random.key(0), tokens)["params"]
    head = next((name for name in _HEADS if name in shapes), None)  # newer versions name every head lm_head
    places: dict[str, list[_Place]] = {}
    for place in _places(by_name(ours), config):
        place = place._replace(tensor=head) if head and place.tensor in _HEADS else place
        places.setdefault(place.path, []).append(place)
    _check_shapes(shapes, [place for group in places.values() for place in group], head, config)

    def piece(place: _Place) -> np.ndarray:
        x = read(place.tensor)
        if place.third is not None:
            x = x.reshape(config.n_heads, 3, config.d_head, *x.shape[1:])[:, place.third].reshape(-1, *x.shape[1:])
        return x.T if place.path.endswith("/kernel") else x

    def leaf(keys: tuple, _: jax.ShapeDtypeStruct) -> np.ndarray:
        pieces = [piece(place) for place in places[path_name(keys)]]
        return np.stack(pieces) if path_name(keys).startswith("layers/") else np.ascontiguousarray(pieces[0])

    params = jax.tree.map_with_path(leaf, ours)
    if config.tie_embeddings and head and not np.array_equal(read(head), params["embed"]["embedding"]):
        raise InputError(
            f"config.json has tie_word_embeddings = true, but {head} differs from the embedding table. Set "
            "tie_word_embeddings to false if the head is a separate matrix."
        )
    return params


def tensors_of(leaves: Mapping[str, np.ndarray], config: TransformerConfig) -> dict[str, np.ndarray]:
    """Returns the tensors of a checkpoint by name, float32.

    Args:
        leaves: our parameters by name (`partitioning.by_name`).
        config: the model's config.

    Raises:
        InputError: no architecture has this shape.
    """
    tensors: dict[str, np.ndarray] = {}
    for place in _places(leaves, config):
        leaf = np.asarray(leaves[place.path], np.float32)
        x = leaf[place.layer] if place.path.startswith("layers/") else leaf
        x = x.T if place.path.endswith("/kernel") else x
        if place.third is None:
            tensors[place.tensor] = x
        else:
            whole = tensors.setdefault(place.tensor, np.empty(place.shape, np.float32))
            heads = (config.n_heads, 3, config.d_head, *x.shape[1:])
            whole.reshape(heads)[:, place.third] = x.reshape(heads[0], *heads[2:])
    return tensors


def _places(leaves: Mapping[str, Any], config: TransformerConfig) -> Iterator[_Place]:
    """Yields the place of each layer of each parameter; `leaves` are arrays or `jax.ShapeDtypeStruct`."""
    names = _GPT_NEOX if model_type(config) == "gpt_neox" else _LLAMA
    for path, leaf in leaves.items():
        (module, kind), stacked = path.rsplit("/", 1), path.startswith("layers/")
        shape = leaf.shape[1:] if stacked else leaf.shape
        shape = shape[::-1] if kind == "kernel" else shape
        third = "qkv".index(module[-1]) if names[module] == _FUSED else None
        shape = shape if third is None else (3 * shape[0], *shape[1:])
        for layer in range(leaf.shape[0] if stacked else 1):
            tensor = f"{names[module].format(layer)}.{'bias' if kind == 'bias' else 'weight'}"
            yield _Place(path, layer, tensor, shape, third)


def _check_shapes(
    shapes: Mapping[str, tuple[int, ...]], places: Sequence[_Place], head: str | None, config: TransformerConfig
) -> None:
    """Raises InputError unless a checkpoint has the tensors of the places and no others."""
    wanted = {place.tensor: place.shape for place in places}
    found = {name: tuple(shape) for name, shape in shapes.items() if not _NOT_WEIGHTS.search(name)}
    unknown = found.keys() - wanted.keys() - ({head} if config.tie_embeddings else set())
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
            f"The {model_type(config)} checkpoint {'; it '.join(text)}. Its files and its config.json are not of the "
            "same model: copy the whole checkpoint again."
        )
