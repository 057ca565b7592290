"""Tensors of llama.cpp's architectures under Hugging Face's names, and the changes that llama.cpp makes to them.

Source: conversion/*.py of llama.cpp (`modify_tensors`), and gguf/tensor_mapping.py.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from compressed_lm.errors import InputError

_FFN = {f"blk.{{}}.ffn_{name}": f"model.layers.{{}}.mlp.{name}_proj" for name in ("gate", "up", "down")}
_COMMON = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    **{f"blk.{{}}.attn_{name}": f"model.layers.{{}}.self_attn.{name}_proj" for name in "qkv"},
    "blk.{}.attn_output": "model.layers.{}.self_attn.o_proj",
    **{f"blk.{{}}.attn_{name}": f"model.layers.{{}}.self_attn.{name}" for name in ("q_norm", "k_norm")},
}
_LLAMA = {
    **_COMMON,
    **_FFN,
    "blk.{}.attn_norm": "model.layers.{}.input_layernorm",
    "blk.{}.ffn_norm": "model.layers.{}.post_attention_layernorm",
}
_AFTER = {
    "blk.{}.post_attention_norm": "model.layers.{}.post_attention_layernorm",
    "blk.{}.post_ffw_norm": "model.layers.{}.post_feedforward_layernorm",
}
NAMES: Mapping[str, Mapping[str, str]] = {
    **dict.fromkeys(("llama", "qwen2", "qwen3"), _LLAMA),
    "gemma3": _LLAMA | _AFTER | {"blk.{}.ffn_norm": "model.layers.{}.pre_feedforward_layernorm"},
    "olmo2": _COMMON | _FFN | _AFTER,
    "phi3": {
        **{name: theirs for name, theirs in _LLAMA.items() if "proj" not in theirs},
        "blk.{}.attn_qkv": "model.layers.{}.self_attn.qkv_proj",
        "blk.{}.attn_output": "model.layers.{}.self_attn.o_proj",
        "blk.{}.ffn_up": "model.layers.{}.mlp.gate_up_proj",
        "blk.{}.ffn_down": "model.layers.{}.mlp.down_proj",
    },
    "gpt2": {
        "token_embd": "transformer.wte",
        "position_embd": "transformer.wpe",
        "output_norm": "transformer.ln_f",
        "output": "lm_head",
        "blk.{}.attn_norm": "transformer.h.{}.ln_1",
        "blk.{}.ffn_norm": "transformer.h.{}.ln_2",
        "blk.{}.attn_qkv": "transformer.h.{}.attn.c_attn",
        "blk.{}.attn_output": "transformer.h.{}.attn.c_proj",
        "blk.{}.ffn_up": "transformer.h.{}.mlp.c_fc",
        "blk.{}.ffn_down": "transformer.h.{}.mlp.c_proj",
    },
}
"""Hugging Face's name of each tensor, without `.weight` or `.bias`, by architecture of llama.cpp."""

ROPE_FREQS = "rope_freqs.weight"
"""Tensor of the divisors of the rotary frequencies; it is a part of the configuration."""

_NAME = re.compile(r"(?:blk\.(\d{1,5})\.)?(\w+)\.(weight|bias)")


def hugging_face_name(architecture: str, name: str) -> str | None:
    """Returns Hugging Face's name of a tensor; None if the architecture has no such tensor."""
    if not (match := _NAME.fullmatch(name)):
        return None
    layer, module, kind = match.groups()
    found = NAMES[architecture].get(module if layer is None else f"blk.{{}}.{module}")
    return None if found is None else f"{found.format(layer)}.{kind}"


def gguf_name(architecture: str, name: str) -> str | None:
    """Returns the name in a GGUF file of a tensor with Hugging Face's name; None if there is none."""
    module, _, kind = name.rpartition(".")
    numbers = re.findall(r"\.(\d+)\.", module)
    pattern = re.sub(r"\.\d+\.", ".{}.", module)
    found = next((ours for ours, theirs in NAMES[architecture].items() if theirs == pattern), None)
    return None if found is None else f"{found.format(*numbers)}.{kind}"


class Change:
    """Change between a tensor in a GGUF file and in a Hugging Face checkpoint, in both directions.

    llama.cpp interleaves the two halves of each head of Llama's queries and keys, adds 1 to Gemma's scales of norms,
    and transposes GPT-2's matrices.
    """

    def __init__(self, architecture: str, name: str, config: Mapping[str, Any]):
        """Looks the change of a tensor up.

        Args:
            architecture: name in llama.cpp.
            name: name of the tensor in the GGUF file.
            config: content of a Hugging Face config.json.
        """
        module, _, kind = name.rpartition(".")
        module = module.rpartition(".")[2]
        self._heads = 0
        if architecture == "llama" and module in ("attn_q", "attn_k"):
            self._heads = config["num_attention_heads" if module == "attn_q" else "num_key_value_heads"]
        self._one = np.float32(architecture == "gemma3" and module.endswith("norm"))
        self._transposed = (
            architecture == "gpt2" and kind == "weight" and name.startswith("blk.") and "_norm" not in name
        )

    def shape(self, shape: tuple[int, ...], name: str) -> tuple[int, ...]:
        """Returns the shape of the tensor on the other side.

        Raises:
            InputError: the rows are not pairs of each head.
        """
        if self._heads and shape[0] % (2 * self._heads):
            raise InputError(
                f"The tensor {name} has {shape[0]} rows; an even number for each of {self._heads} heads was expected. "
                "Copy the file again from its source."
            )
        return shape[::-1] if self._transposed else shape

    def dtype(self, dtype: str) -> str:
        """Returns the type of the tensor in the Hugging Face checkpoint."""
        return "float32" if self._one else dtype

    def to_hugging_face(self, tensor: np.ndarray) -> np.ndarray:
        """Returns a GGUF file's tensor as in a Hugging Face checkpoint."""
        if self._heads:
            pairs = tensor.reshape(self._heads, -1, 2, *tensor.shape[1:])
            return pairs.swapaxes(1, 2).reshape(tensor.shape)
        if self._one:
            return tensor.astype(np.float32) - self._one
        return tensor.T if self._transposed else tensor

    def to_gguf(self, tensor: np.ndarray) -> np.ndarray:
        """Returns a Hugging Face checkpoint's tensor as in a GGUF file."""
        if self._heads:
            halves = tensor.reshape(self._heads, 2, -1, *tensor.shape[1:])
            return halves.swapaxes(1, 2).reshape(tensor.shape)
        if self._one:
            return tensor.astype(np.float32) + self._one
        return tensor.T if self._transposed else tensor
