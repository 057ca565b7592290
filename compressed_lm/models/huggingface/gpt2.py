"""GPT-2: learned positions, LayerNorm, biases; matrices are stored as [inputs, outputs].

Source: transformers' configuration_gpt2.py and modeling_gpt2.py.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from compressed_lm.models.config import TransformerConfig
from compressed_lm.models.huggingface.architecture import Architecture
from compressed_lm.models.huggingface.gpt_neox import equal_heads

_OTHERS = ("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention")


class GPT2(Architecture):
    """GPT-2."""

    model_type, class_name, act_field, act, tied = "gpt2", "GPT2LMHeadModel", "activation_function", "gelu_new", True
    sizes = dict(vocab_size="vocab_size", d_model="n_embd", n_layers="n_layer", n_heads="n_head")
    allowed = dict(
        position=("learned",), norm=("layer",), bias=("all",), gated_mlp=(False,), attention_scale=(0.0, 1.0)
    )
    prefix, inputs_first = "transformer.", True
    names = {
        "embed": "transformer.wte",
        "positions": "transformer.wpe",
        "final_norm": "transformer.ln_f",
        "unembed": "lm_head",
        "layers/attention_norm": "transformer.h.{}.ln_1",
        "layers/mlp_norm": "transformer.h.{}.ln_2",
        **{f"layers/attention/{name}": "transformer.h.{}.attn.c_attn" for name in "qkv"},
        "layers/attention/out": "transformer.h.{}.attn.c_proj",
        "layers/mlp/up": "transformer.h.{}.mlp.c_fc",
        "layers/mlp/down": "transformer.h.{}.mlp.c_proj",
    }

    def settings(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return dict(
            position="learned",
            max_length=values.get("n_positions") or 1024,
            d_head=values["n_embd"] // values["n_head"],
            d_ff=values.get("n_inner") or 4 * values["n_embd"],
            gated_mlp=False,
            norm="layer",
            norm_eps=values.get("layer_norm_epsilon") or 1e-5,
            bias="all",
            attention_scale=1.0 if values.get("scale_attn_weights") is False else 0.0,
        )

    def unsupported(self, values: Mapping[str, Any]) -> Iterator[str]:
        yield from (name for name in _OTHERS if values.get(name))

    def misfits(self, config: TransformerConfig) -> Iterator[str]:
        yield from equal_heads(config)
        yield from super().misfits(config)

    def fields(self, config: TransformerConfig, max_length: int) -> dict[str, Any]:
        c = config
        fields = dict(n_positions=c.max_length, n_inner=c.d_ff, layer_norm_epsilon=c.norm_eps)
        return fields | dict(scale_attn_weights=c.attention_scale == 0, **dict.fromkeys(_OTHERS, False))

    def activation_of(self, config: TransformerConfig) -> str:
        return self.act if config.activation == "gelu" else super().activation_of(config)
