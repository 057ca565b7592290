"""Writes a checkpoint as a GGUF file for llama.cpp.

Sources: conversion/*.py of llama.cpp.
"""

import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from compressed_lm import io
from compressed_lm.errors import InputError
from compressed_lm.models.gguf import tokenizer_metadata
from compressed_lm.models.gguf.decode import SLICE, package
from compressed_lm.models.gguf.names import ROPE_FREQS, Change, gguf_name
from compressed_lm.models.gguf.rope import llama3_divisors

ARCHITECTURES = {
    **{"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"},
    **{"gemma3_text": "gemma3", "olmo2": "olmo2"},
}
"""llama.cpp's architecture of each `model_type` that can be written."""

DTYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}
"""Type of matrices of each `dtype`; vectors are float32, as in llama.cpp."""

_LARGEST = {"F16": 65504.0, "Q8_0": 65504.0 * 127}
"""Largest weight of types whose numbers or scales are float16."""

_SILU, _GELU = ("silu", "swish"), ("gelu_pytorch_tanh", "gelu_new")
"""Names in config.json of the activations that llama.cpp has: of Gemma 3 the second one, of all others the first."""

Tensors = Iterable[tuple[str, tuple[int, ...], Callable[[], np.ndarray]]]


def write_gguf(
    path: str | os.PathLike,
    config: Mapping[str, Any],
    tensors: Tensors,
    tokenizer_files: Mapping[str, bytes],
    *,
    dtype: str = "f16",
) -> None:
    """Writes a GGUF file; it appears when it is complete. One tensor at a time is in memory.

    Args:
        path: the file.
        config: content of a Hugging Face config.json.
        tensors: (Hugging Face name, shape, function that returns the array) of each tensor, as
            `models.huggingface.tensors_of` yields them.
        tokenizer_files: tokenizer.json (byte-level BPE) or tokenizer.model (SentencePiece BPE), and
            tokenizer_config.json; {} for a file without a vocabulary.
        dtype: type of matrices: one of `DTYPES`. For q8_0, matrices whose rows are no multiple of 32 are float16.

    Raises:
        InputError: llama.cpp has no such model or tokenizer, or a weight is too large for float16.
    """
    gguf, kind = package(), config.get("model_type")
    if dtype not in DTYPES:
        raise InputError(f"dtype={dtype!r:.50} was given for a GGUF file; expected one of {', '.join(DTYPES)}.")
    if kind not in ARCHITECTURES:
        raise InputError(
            f"A model of the architecture {kind!r:.50} cannot be written as a GGUF file. Supported: "
            f"{', '.join(ARCHITECTURES)}. Export it as safetensors files."
        )
    temporary, descriptor = io.temporary_beside(path)
    try:
        writer = gguf.GGUFWriter(temporary, ARCHITECTURES[kind])
        try:
            _add_metadata(writer, config)
            tokenizer_metadata.add(writer, tokenizer_files, config)
            _write_tensors(writer, pathlib.Path(temporary), config, list(tensors), dtype)
        finally:
            writer.close()
        io.publish(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        os.close(descriptor)


def _add_metadata(writer: Any, config: Mapping[str, Any]) -> None:
    """Adds the keys of the architecture.

    Raises:
        InputError: a feature that llama.cpp has not, or a value is missing.
    """
    try:
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        writer.add_context_length(config["max_position_embeddings"])
        writer.add_embedding_length(hidden)
        writer.add_block_count(config["num_hidden_layers"])
        writer.add_feed_forward_length(config["intermediate_size"])
        writer.add_vocab_size(config["vocab_size"])
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    except KeyError as error:
        raise InputError(f"config.json has no {error.args[0]}, which a GGUF file needs.") from None
    field, known = ("hidden_activation", _GELU) if writer.arch == "gemma3" else ("hidden_act", _SILU)
    if (act := config.get(field) or known[0]) not in known:
        raise InputError(
            f"config.json has the activation {act!r:.50}; llama.cpp has only {known[0]} for {writer.arch}. Export the "
            "model as safetensors files."
        )
    head_dim = config.get("head_dim") or hidden // heads
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    for add in (writer.add_key_length, writer.add_value_length, writer.add_rope_dimension_count):
        add(head_dim)
    writer.add_rope_freq_base(_theta(config))
    scaling = config.get("rope_scaling") or {}
    if (scaling_kind := scaling.get("rope_type", "default")) == "linear":
        writer.add_rope_scaling_type(package().RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling["factor"])
    elif scaling_kind != "default" and not (scaling_kind == "llama3" and writer.arch == "llama"):
        raise InputError(f"Rotary positions of type {scaling_kind!r:.50} cannot be written for {writer.arch} in GGUF.")
    window = config.get("sliding_window")
    if writer.arch == "gemma3":
        scale = hidden // heads if config["num_hidden_layers"] == 62 else head_dim  # as llama.cpp derives it
        if config.get("query_pre_attn_scalar", 256) != scale:
            raise InputError(
                f"config.json has query_pre_attn_scalar = {config.get('query_pre_attn_scalar')}; llama.cpp supports "
                f"{scale} only for this shape of Gemma 3."
            )
        local = [layer == "sliding_attention" for layer in config["layer_types"]]
        if any(local):
            writer.add_sliding_window(window)
            # Keys that release 0.17 of the package has no functions for.
            writer.add_float32("gemma3.rope.freq_base_swa", config.get("rope_local_base_freq", 10_000.0))
            if local != [(layer + 1) % 6 > 0 for layer in range(len(local))]:
                writer.add_array("gemma3.attention.sliding_window_pattern", local)
        if cap := config.get("final_logit_softcapping"):
            writer.add_final_logit_softcapping(cap)
    elif window is not None and window < config["max_position_embeddings"]:
        raise InputError(f"config.json has sliding_window = {window}, which {writer.arch} in llama.cpp has not.")


def _theta(config: Mapping[str, Any]) -> float:
    return config.get("rope_theta") or (config.get("rope_parameters") or {}).get("rope_theta") or 10_000.0


def _changed(change: Change, make: Callable[[], np.ndarray]) -> Callable[[], np.ndarray]:
    return lambda: change.to_gguf(np.asarray(make()))


def _write_tensors(writer: Any, path: pathlib.Path, config: Mapping[str, Any], tensors: list, dtype: str) -> None:
    """Writes the metadata, and the tensors in their order."""
    gguf, architecture = package(), writer.arch
    heads = dict(config) | dict(num_key_value_heads=config.get("num_key_value_heads") or config["num_attention_heads"])
    plan: list[tuple[str, tuple[int, ...], Callable[[], np.ndarray], str]] = []
    scaling = config.get("rope_scaling") or {}
    if scaling.get("rope_type") == "llama3":
        divisors = llama3_divisors(
            theta=_theta(config),
            head_dim=config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"],
            factor=scaling["factor"],
            low=scaling["low_freq_factor"],
            high=scaling["high_freq_factor"],
            length=scaling["original_max_position_embeddings"],
        )
        plan.append((ROPE_FREQS, divisors.shape, lambda: divisors, "F32"))
    for name, shape, make in tensors:
        own = gguf_name(architecture, name)
        if own is None:
            raise InputError(f"The tensor {name:.100} has no place in a GGUF file of the architecture {architecture}.")
        kind = DTYPES[dtype] if len(shape) > 1 else "F32"
        kind = "F16" if kind == "Q8_0" and shape[-1] % 32 else kind
        change = Change(architecture, own, heads)
        plan.append((own, change.shape(tuple(shape), own), _changed(change, make), kind))
    for own, shape, _, kind in plan:
        raw = gguf.GGMLQuantizationType[kind]
        block, block_bytes = gguf.GGML_QUANT_SIZES[raw]
        nbytes = int(np.prod(shape)) // block * block_bytes
        writer.add_tensor_info(own, shape, np.dtype(np.float32), nbytes, raw_dtype=raw)
    writer.add_file_type(gguf.LlamaFileType[dict(f32="ALL_F32").get(dtype, f"MOSTLY_{dtype.upper()}")])
    if dtype == "q8_0":
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for own, shape, make, kind in plan:
        writer.write_tensor_data(_encoded(make().reshape(shape), own, kind))


def _encoded(x: np.ndarray, name: str, kind: str) -> np.ndarray:
    """Returns the bytes of a tensor, encoded some rows at a time.

    Raises:
        InputError: a weight is too large for the type.
    """
    raw = package().GGMLQuantizationType[kind]
    block, block_bytes = package().GGML_QUANT_SIZES[raw]
    rows, largest = x.reshape(-1, x.shape[-1]), _LARGEST.get(kind, np.inf)
    encoded = np.empty((len(rows), x.shape[-1] // block * block_bytes), np.uint8)
    step = max(1, SLICE // x.shape[-1])
    for start in range(0, len(rows), step):
        part = np.ascontiguousarray(rows[start : start + step], np.float32)
        if (found := np.abs(part).max()) > largest:
            raise InputError(f"The tensor {name} has the weight {found:.4g}, too large for {kind}. Give --dtype bf16.")
        found = package().quants.quantize(part, raw)
        encoded[start : start + step] = found.view(np.uint8).reshape(len(part), -1)
    return encoded
