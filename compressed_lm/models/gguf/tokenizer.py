"""Tokenizer files of a GGUF file, as `transformers` writes them."""

import json
from collections.abc import Mapping
from typing import Any

from compressed_lm.errors import InputError
from compressed_lm.models.gguf import byte_level, sentencepiece_model
from compressed_lm.models.gguf.header import single
from compressed_lm.models.gguf.special_ids import special_ids
from compressed_lm.models.gguf.vocabulary import Vocabulary

CONFIG_FILE = "tokenizer_config.json"
_CLASSES = {"gemma3": "GemmaTokenizer"}
"""Class of a tokenizer.model in `transformers`, if it is not LlamaTokenizer."""


def tokenizer_files(values: Mapping[str, Any], architecture: str) -> dict[str, bytes]:
    """Returns tokenizer.json (byte-level BPE) or tokenizer.model (SentencePiece), and tokenizer_config.json.

    Args:
        values: metadata of the file.
        architecture: name in llama.cpp.

    Returns:
        Contents by name; {} if the file has no vocabulary.

    Raises:
        InputError: the kind of tokenizer or of its splits is not supported, or the metadata contradicts itself.
    """
    kind = single(values, "tokenizer.ggml.model", "no_vocab")
    if kind in ("no_vocab", "none"):
        return {}
    if kind not in ("gpt2", "llama"):
        raise InputError(
            f"The GGUF file has a tokenizer of the kind {kind!r:.50}, which is not supported. Supported: gpt2 "
            "(byte-level BPE) and llama (SentencePiece BPE). Give the model's tokenizer as a folder "
            "with tokenizer.json."
        )
    vocabulary = Vocabulary.of(values)
    special = special_ids(values, vocab_size=len(vocabulary.tokens))
    add = {name: single(values, f"tokenizer.ggml.add_{name}_token") for name in ("bos", "eos")}
    if kind == "gpt2":
        splits = byte_level.splits_of(values, architecture)
        add_bos = splits.add_bos if add["bos"] is None else bool(add["bos"])
    else:
        add_bos = add["bos"] is None or bool(add["bos"])  # llama.cpp's default for SentencePiece
    settings: dict[str, Any] = dict(add_bos_token=add_bos and "bos" in special, add_eos_token=bool(add["eos"]))
    settings |= {f"{name}_token": vocabulary.tokens[i] for name, i in special.items()}
    settings |= dict(clean_up_tokenization_spaces=False)
    if type(length := values.get(f"{architecture}.context_length")) is int:
        settings["model_max_length"] = length
    if isinstance(template := values.get("tokenizer.chat_template"), str):
        settings["chat_template"] = template
    if kind == "gpt2":
        content = byte_level.tokenizer_json(
            vocabulary,
            byte_level.merges_of(values),
            splits,
            bos=special.get("bos") if settings["add_bos_token"] else None,
            eos=special.get("eos") if settings["add_eos_token"] else None,
        )
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        return {"tokenizer.json": content, CONFIG_FILE: _json(settings)}
    prefix = bool(single(values, "tokenizer.ggml.add_space_prefix", True))
    settings |= dict(
        tokenizer_class=_CLASSES.get(architecture, "LlamaTokenizer"), legacy=False, add_prefix_space=prefix
    )
    content = sentencepiece_model.model_proto(vocabulary, special, add_space_prefix=prefix)
    return {"tokenizer.model": content, CONFIG_FILE: _json(settings)}


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()
