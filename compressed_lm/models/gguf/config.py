"""Content of a Hugging Face config.json from the metadata of a GGUF file.

Sources: `load_arch_hparams` in src/models/*.cpp of llama.cpp, and conversion/*.py.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from compressed_lm.errors import InputError
from compressed_lm.models.gguf.metadata import Metadata
from compressed_lm.models.gguf.names import ROPE_FREQS
from compressed_lm.models.gguf.rope import rope_scaling
from compressed_lm.models.gguf.special_ids import special_ids

_GEMMA_27B = 62
"""Number of layers of the only Gemma 3 whose queries are not scaled by the size of a head (gemma3.cpp)."""


def config_of(meta: Metadata, rope_freqs: np.ndarray | None) -> dict[str, Any]:
    """Returns the content of config.json.

    Args:
        meta: the metadata.
        rope_freqs: content of the tensor `ROPE_FREQS`, float32[head_dim / 2]; None if there is none.

    Raises:
        InputError: a value is missing or wrong, or the model uses a feature that no config.json describes.
    """
    if meta.get("expert_count", 0) != 0:
        raise InputError("The GGUF file is of a mixture of experts, which is not supported. Use a dense model.")
    if meta.get("attention.causal", True) is not True:
        raise InputError("The GGUF file is of a model that is not causal. Use a causal language model.")
    if rope_freqs is not None and meta.architecture != "llama":
        raise InputError(f"The GGUF file has the tensor {ROPE_FREQS}, which is supported for llama only.")
    special = special_ids(meta.values, vocab_size=meta.tensor("token_embd.weight").shape[0])
    values = _gpt2(meta) if meta.architecture == "gpt2" else _llama_like(meta, rope_freqs)
    values |= {f"{name}_token_id": special[name] for name in ("bos", "eos", "pad") if name in special}
    return values | dict(tie_word_embeddings=not meta.has("output.weight"))


def _llama_like(meta: Metadata, rope_freqs: np.ndarray | None) -> dict[str, Any]:
    heads, hidden = meta.number("attention.head_count"), meta.number("embedding_length")
    head_dim = meta.number("attention.key_length", meta.number("rope.dimension_count", max(1, hidden // heads)))
    rotary = meta.number("rope.dimension_count", head_dim)
    if meta.architecture != "phi3" and rotary != head_dim:
        raise InputError(
            f"The GGUF file rotates {rotary} of the {head_dim} dimensions of each head; all were expected for the "
            f"architecture {meta.architecture}."
        )
    if (values_dim := meta.number("attention.value_length", head_dim)) != head_dim:
        raise InputError(f"The GGUF file has heads of {head_dim} keys and {values_dim} values; equal sizes are needed.")
    values = dict(
        vocab_size=meta.tensor("token_embd.weight").shape[0],
        hidden_size=hidden,
        intermediate_size=meta.number("feed_forward_length"),
        num_hidden_layers=meta.layers(),
        num_attention_heads=heads,
        num_key_value_heads=meta.number("attention.head_count_kv", heads),
        head_dim=head_dim,
        max_position_embeddings=meta.number("context_length"),
        rms_norm_eps=meta.real("attention.layer_norm_rms_epsilon"),
        rope_theta=meta.real("rope.freq_base", 10_000.0),
        rope_scaling=rope_scaling(meta, rope_freqs, head_dim),
    )
    return values | _MORE[meta.architecture](meta, values)


def _llama(meta: Metadata, values: Mapping[str, Any]) -> dict[str, Any]:
    return dict(
        architectures=["LlamaForCausalLM"],
        model_type="llama",
        hidden_act="silu",
        attention_bias=meta.has("attn_q.bias", "attn_output.bias"),
        mlp_bias=meta.has("ffn_up.bias"),
    )


def _qwen(meta: Metadata, values: Mapping[str, Any]) -> dict[str, Any]:
    name = {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}[meta.architecture]
    return dict(architectures=[name], model_type=meta.architecture, hidden_act="silu", use_sliding_window=False)


def _gemma3(meta: Metadata, values: Mapping[str, Any]) -> dict[str, Any]:
    window, layers = meta.get("attention.sliding_window", 0), values["num_hidden_layers"]
    pattern = meta.raw("attention.sliding_window_pattern", 6)
    if not window:
        local = [False] * layers
    elif isinstance(pattern, np.ndarray) and len(pattern) == layers:
        local = [bool(value) for value in pattern]
    elif type(pattern) is int and pattern > 0:
        local = [(layer + 1) % pattern > 0 for layer in range(layers)]
    else:
        raise InputError(
            f"The GGUF file has gemma3.attention.sliding_window_pattern = {str(pattern)[:50]}; expected a whole "
            f"number, or one value for each of the {layers} layers."
        )
    cap = meta.get("final_logit_softcapping", 0)
    scale = values["hidden_size"] // values["num_attention_heads"] if layers == _GEMMA_27B else values["head_dim"]
    return dict(
        architectures=["Gemma3ForCausalLM"],
        model_type="gemma3_text",
        hidden_activation="gelu_pytorch_tanh",
        attention_bias=False,
        query_pre_attn_scalar=scale,
        sliding_window=meta.number("attention.sliding_window") if window else None,
        layer_types=["sliding_attention" if is_local else "full_attention" for is_local in local],
        rope_local_base_freq=meta.real("rope.freq_base_swa", 10_000.0),
        final_logit_softcapping=meta.real("final_logit_softcapping") if cap else None,
        attn_logit_softcapping=None,
    )


def _olmo2(meta: Metadata, values: Mapping[str, Any]) -> dict[str, Any]:
    if meta.get("attention.sliding_window", 0):
        raise InputError("The GGUF file is of an OLMo 3 model (olmo2 with a sliding window); OLMo 2 is supported.")
    return dict(architectures=["Olmo2ForCausalLM"], model_type="olmo2", hidden_act="silu", attention_bias=False)


def _phi3(meta: Metadata, values: Mapping[str, Any]) -> dict[str, Any]:
    rotary = meta.number("rope.dimension_count", values["head_dim"])
    return dict(
        architectures=["Phi3ForCausalLM"],
        model_type="phi3",
        hidden_act="silu",
        sliding_window=meta.number("attention.sliding_window") if meta.get("attention.sliding_window", 0) else None,
        partial_rotary_factor=rotary / values["head_dim"],
        original_max_position_embeddings=meta.number(
            "rope.scaling.original_context_length", values["max_position_embeddings"]
        ),
    )


def _gpt2(meta: Metadata) -> dict[str, Any]:
    hidden = meta.number("embedding_length")
    return dict(
        architectures=["GPT2LMHeadModel"],
        model_type="gpt2",
        vocab_size=meta.tensor("token_embd.weight").shape[0],
        n_embd=hidden,
        n_layer=meta.layers(),
        n_head=meta.number("attention.head_count"),
        n_inner=meta.number("feed_forward_length", 4 * hidden),
        n_positions=meta.tensor("position_embd.weight").shape[0],
        layer_norm_epsilon=meta.real("attention.layer_norm_epsilon"),
        activation_function="gelu_new",
    )


_MORE: Mapping[str, Callable[[Metadata, Mapping[str, Any]], dict[str, Any]]] = {
    "llama": _llama,
    "qwen2": _qwen,
    "qwen3": _qwen,
    "gemma3": _gemma3,
    "olmo2": _olmo2,
    "phi3": _phi3,
}
