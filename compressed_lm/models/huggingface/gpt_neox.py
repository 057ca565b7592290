"""GPT-NeoX (Pythia). Queries, keys and values are in one matrix [heads, 3, d_head, inputs].

Source: transformers' configuration_gpt_neox.py and modeling_gpt_neox.py.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from compressed_lm.models.config import TransformerConfig
from compressed_lm.models.huggingface.architecture import Architecture
from compressed_lm.models.huggingface.fields import rope_of, scaling_from, scaling_of, unsupported_rope


class GPTNeoX(Architecture):
    """GPT-NeoX, the architecture of Pythia."""

    model_type, class_name, act, prefix, alternating = "gpt_neox", "GPTNeoXForCausalLM", "gelu", "gpt_neox.", True
    allowed = dict(norm=("layer",), bias=("all",), gated_mlp=(False,), parallel_residual=(), rotary_fraction=())
    names = {
        "embed": "gpt_neox.embed_in",
        "final_norm": "gpt_neox.final_layer_norm",
        "unembed": "embed_out",
        "layers/attention_norm": "gpt_neox.layers.{}.input_layernorm",
        "layers/mlp_norm": "gpt_neox.layers.{}.post_attention_layernorm",
        **{f"layers/attention/{name}": "gpt_neox.layers.{}.attention.query_key_value" for name in "qkv"},
        "layers/attention/out": "gpt_neox.layers.{}.attention.dense",
        "layers/mlp/up": "gpt_neox.layers.{}.mlp.dense_h_to_4h",
        "layers/mlp/down": "gpt_neox.layers.{}.mlp.dense_4h_to_h",
    }

    def settings(self, values: Mapping[str, Any]) -> dict[str, Any]:
        values = {name: value for name, value in values.items() if value is not None}
        rope = rope_of(values)
        return dict(
            position="rotary",
            d_head=values["hidden_size"] // values["num_attention_heads"],
            gated_mlp=False,
            norm="layer",
            norm_eps=values.get("layer_norm_eps", 1e-5),
            bias="all",
            parallel_residual=values.get("use_parallel_residual", True),
            rotary_fraction=rope.get("partial_rotary_factor", values.get("rotary_pct", 0.25)),
            rope_theta=rope.get("rope_theta", values.get("rotary_emb_base", values.get("rope_theta", 10_000.0))),
            rope_scaling=scaling_from(rope, values),
        )

    def unsupported(self, values: Mapping[str, Any]) -> Iterator[str]:
        yield from unsupported_rope(rope_of(values))
        if values.get("attention_bias") is False:
            yield "attention_bias=false"

    def misfits(self, config: TransformerConfig) -> Iterator[str]:
        yield from equal_heads(config)
        yield from super().misfits(config)

    def fields(self, config: TransformerConfig, max_length: int) -> dict[str, Any]:
        c = config
        return scaling_of(c) | dict(
            max_position_embeddings=max_length,
            layer_norm_eps=c.norm_eps,
            use_parallel_residual=c.parallel_residual,
            rotary_pct=c.rotary_fraction,
            rotary_emb_base=c.rope_theta,
            attention_bias=True,
        )


def equal_heads(config: TransformerConfig) -> Iterator[str]:
    """Yields what prevents heads of width d_model / n_heads, each with its own keys and values."""
    c = config
    if c.kv_heads != c.n_heads:
        yield f"n_kv_heads={c.n_kv_heads} (one for each of the n_heads={c.n_heads} is needed)"
    if c.n_heads * c.d_head != c.d_model:
        yield f"n_heads * d_head = {c.n_heads * c.d_head} (d_model={c.d_model} is needed)"
