"""OLMo 2: norms after attention and MLP instead of before, and queries and keys normalised over all heads together.

Source: transformers' configuration_olmo2.py and modeling_olmo2.py.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from compressed_lm.models.config import TransformerConfig
from compressed_lm.models.huggingface.architecture import Architecture
from compressed_lm.models.huggingface.fields import rope_of, unsupported_rope
from compressed_lm.models.huggingface.llama import BLOCK, ENDS, decoder_fields, decoder_settings


class Olmo2(Architecture):
    """OLMo 2."""

    model_type, class_name = "olmo2", "Olmo2ForCausalLM"
    allowed = dict(norm_place=("after",), qk_norm=(True,), qk_norm_over=("width",))
    names = ENDS | {
        "layers/attention_post_norm": "model.layers.{}.post_attention_layernorm",
        "layers/mlp_post_norm": "model.layers.{}.post_feedforward_layernorm",
        **BLOCK,
    }

    def settings(self, values: Mapping[str, Any]) -> dict[str, Any]:
        norms = dict(norm_place="after", qk_norm=True, qk_norm_over="width")
        return decoder_settings(values, eps=1e-5) | norms

    def unsupported(self, values: Mapping[str, Any]) -> Iterator[str]:
        yield from unsupported_rope(rope_of(values))
        if values.get("attention_bias"):
            yield "attention_bias"

    def fields(self, config: TransformerConfig, max_length: int) -> dict[str, Any]:
        return decoder_fields(config) | dict(head_dim=config.d_head, max_position_embeddings=max_length)
