"""Ids of special tokens in the metadata of a GGUF file."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from compressed_lm.models.gguf.header import single
from compressed_lm.models.gguf.vocabulary import TokenType

SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
"""Key of each special token: `tokenizer.ggml.{}_token_id`."""

_ENDS = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>", "<|end_of_text|>")
"""Control tokens at which llama.cpp ends a text whatever the metadata says (`special_eog_ids` in llama-vocab.cpp)."""


def special_ids(values: Mapping[str, Any], *, vocab_size: int) -> dict[str, int]:
    """Returns the ids of the special tokens bos, eos, unk and pad that a file defines.

    Args:
        values: the metadata.
        vocab_size: ids from this number on are ignored, as in llama.cpp.
    """
    # llama.cpp's defaults for SentencePiece (llama-vocab.cpp).
    defaults = dict(bos=1, eos=2, unk=0) if single(values, "tokenizer.ggml.model") == "llama" else {}
    found = {
        name: single(values, f"tokenizer.ggml.{key}_token_id", defaults.get(name)) for name, key in SPECIAL.items()
    }
    return {name: i for name, i in found.items() if type(i) is int and 0 <= i < vocab_size}


def generation_of(values: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content of generation_config.json: the ids at which llama.cpp ends a text, and bos and pad.

    Args:
        values: the metadata.
        config: from `config_of`.
    """
    tokens, kinds = values.get("tokenizer.ggml.tokens", []), values.get("tokenizer.ggml.token_type", [])
    ids = [config.get("eos_token_id"), *(single(values, f"tokenizer.ggml.{key}_token_id") for key in ("eot", "eom"))]
    if isinstance(tokens, list) and isinstance(kinds, np.ndarray) and len(kinds) == len(tokens):
        ids += [i for i, token in enumerate(tokens) if token in _ENDS and kinds[i] == TokenType.CONTROL]
    ends = [i for i in dict.fromkeys(ids) if type(i) is int and 0 <= i < config["vocab_size"]]
    found = {name: config[name] for name in ("bos_token_id", "pad_token_id") if name in config}
    return found | ({"eos_token_id": ends if len(ends) > 1 else ends[0]} if ends else {})
