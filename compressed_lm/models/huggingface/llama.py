"""Llama, and models of the same shape: Mistral, Qwen2 and Qwen3.

Source: transformers' configuration_*.py and modeling_*.py of these names.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from compressed_lm.models.config import MAX_LAYERS, TransformerConfig
from compressed_lm.models.huggingface.architecture import Allowed, Architecture
from compressed_lm.models.huggingface.fields import (
    FULL,
    SLIDING,
    layer_types_of,
    rope_of,
    scaling_from,
    scaling_of,
    unsupported_layers,
    unsupported_rope,
    window_from,
)
from compressed_lm.settings import LARGEST

BLOCK = {
    **{f"layers/attention/{name}": f"model.layers.{{}}.self_attn.{name}_proj" for name in "qkv"},
    "layers/attention/out": "model.layers.{}.self_attn.o_proj",
    **{f"layers/attention/{name}": f"model.layers.{{}}.self_attn.{name}" for name in ("q_norm", "k_norm")},
    **{f"layers/mlp/{name}": f"model.layers.{{}}.mlp.{name}_proj" for name in ("gate", "up", "down")},
}
ENDS = {"embed": "model.embed_tokens", "final_norm": "model.norm", "unembed": "lm_head"}
NAMES = ENDS | {
    "layers/attention_norm": "model.layers.{}.input_layernorm",
    "layers/mlp_norm": "model.layers.{}.post_attention_layernorm",
    **BLOCK,
}


def decoder_settings(values: Mapping[str, Any], *, eps: float = 1e-6, theta: float = 10_000.0) -> dict[str, Any]:
    """Returns the settings that all decoders with RMSNorm and rotary positions share.

    Args:
        values: content of config.json.
        eps, theta: defaults of rms_norm_eps and rope_theta.
    """
    d_model, n_heads, rope = values["hidden_size"], values["num_attention_heads"], rope_of(values)
    n_kv_heads = values.get("num_key_value_heads") or n_heads
    return dict(
        position="rotary",
        d_head=values.get("head_dim") or d_model // n_heads,
        n_kv_heads=0 if n_kv_heads == n_heads else n_kv_heads,
        norm_eps=values.get("rms_norm_eps") or eps,
        rope_theta=rope.get("rope_theta") or values.get("rope_theta") or theta,
        rope_scaling=scaling_from(rope, values),
    )


def decoder_fields(config: TransformerConfig) -> dict[str, Any]:
    """Returns the fields of config.json that all decoders with RMSNorm and rotary positions share."""
    c = config
    fields = dict(num_key_value_heads=c.kv_heads, rms_norm_eps=c.norm_eps, rope_theta=c.rope_theta)
    return fields | scaling_of(c)


def one_window(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of a sliding window in all layers, unless it is longer than the model's texts."""
    window, longest = values.get("sliding_window"), values.get("max_position_embeddings") or LARGEST
    return dict(window=window) if window and window < longest else {}


def _windows(values: Mapping[str, Any]) -> tuple[int | None, list[str]]:
    """Returns (sliding_window, layer_types) of Qwen2 and Qwen3."""
    window = values.get("sliding_window", 4096) if values.get("use_sliding_window") else None
    first, n_layers = values.get("max_window_layers", 28), min(values["num_hidden_layers"], MAX_LAYERS)
    made = [SLIDING if window and i >= first else FULL for i in range(n_layers)]
    return window, values.get("layer_types") or made


class Llama(Architecture):
    """Llama 1 to 3."""

    model_type, class_name, names = "llama", "LlamaForCausalLM", NAMES
    allowed: ClassVar[Allowed] = dict(bias=("none", "all"))

    def settings(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return decoder_settings(values) | dict(bias="all" if values.get("attention_bias") else "none")

    def unsupported(self, values: Mapping[str, Any]) -> Iterator[str]:
        rope = rope_of(values)
        yield from unsupported_rope(rope)
        if (rope.get("partial_rotary_factor") or values.get("partial_rotary_factor") or 1) != 1:
            yield "partial_rotary_factor (supported for gpt_neox and phi3)"
        if bool(values.get("attention_bias")) != bool(values.get("mlp_bias")):
            yield "attention_bias and mlp_bias that differ (both or none are needed)"

    def misfits(self, config: TransformerConfig) -> Iterator[str]:
        yield from super().misfits(config)
        if config.d_model % config.n_heads:  # transformers requires it
            yield f"d_model={config.d_model} (a multiple of n_heads={config.n_heads} is needed)"

    def fields(self, config: TransformerConfig, max_length: int) -> dict[str, Any]:
        biases = dict.fromkeys(("attention_bias", "mlp_bias"), config.bias == "all")
        return decoder_fields(config) | dict(head_dim=config.d_head, max_position_embeddings=max_length) | biases


class Mistral(Llama):
    """Mistral: no biases, n_heads need not divide d_model, and all layers may have a sliding window."""

    model_type, class_name = "mistral", "MistralForCausalLM"
    allowed = dict(window=(), layer_pattern=("",))

    def settings(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return decoder_settings({"num_key_value_heads": 8, **values}) | one_window({"sliding_window": 4096, **values})

    def unsupported(self, values: Mapping[str, Any]) -> Iterator[str]:
        if values.get("attention_bias"):
            yield "attention_bias"
        yield from super().unsupported({**values, "attention_bias": False})

    def misfits(self, config: TransformerConfig) -> Iterator[str]:
        return Architecture.misfits(self, config)

    def fields(self, config: TransformerConfig, max_length: int) -> dict[str, Any]:
        fields = decoder_fields(config) | dict(head_dim=config.d_head, max_position_embeddings=max_length)
        return fields | dict(sliding_window=config.window or None)


class Qwen2(Mistral):
    """Qwen2: biases of queries, keys and values, and a sliding window in some layers."""

    model_type, class_name = "qwen2", "Qwen2ForCausalLM"
    allowed = dict(bias=("qkv",), window=())

    def settings(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return (
            decoder_settings({"num_key_value_heads": 32, **values}) | window_from(*_windows(values)) | dict(bias="qkv")
        )

    def unsupported(self, values: Mapping[str, Any]) -> Iterator[str]:
        yield from unsupported_layers(*_windows(values), values["num_hidden_layers"])
        yield from Llama.unsupported(self, {**values, "attention_bias": False})

    def fields(self, config: TransformerConfig, max_length: int) -> dict[str, Any]:
        c = config
        fields = decoder_fields(c) | dict(head_dim=c.d_head, max_position_embeddings=max_length)
        windows = dict(use_sliding_window=c.window > 0, sliding_window=c.window or None)
        return fields | windows | dict(layer_types=layer_types_of(c))


class Qwen3(Qwen2):
    """Qwen3: normalised queries and keys."""

    model_type, class_name = "qwen3", "Qwen3ForCausalLM"
    allowed = dict(qk_norm=(True,), window=())

    def settings(self, values: Mapping[str, Any]) -> dict[str, Any]:
        settings = decoder_settings({"head_dim": 128, "num_key_value_heads": 32, **values})
        return settings | window_from(*_windows(values)) | dict(qk_norm=True)

    def unsupported(self, values: Mapping[str, Any]) -> Iterator[str]:
        if values.get("attention_bias"):
            yield "attention_bias"
        yield from super().unsupported(values)
