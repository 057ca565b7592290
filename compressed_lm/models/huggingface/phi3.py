"""Phi-3: queries, keys and values in one matrix, gate and up in another; partly rotated heads; a sliding window.

Source: transformers' configuration_phi3.py and modeling_phi3.py.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from compressed_lm.models.config import TransformerConfig
from compressed_lm.models.huggingface.architecture import Architecture
from compressed_lm.models.huggingface.fields import rope_kind, rope_of
from compressed_lm.models.huggingface.llama import NAMES, decoder_fields, decoder_settings, one_window

_LONG = ("longrope", "su", "yarn")  # names of one scaling


class Phi3(Architecture):
    """Phi-3 and Phi-4 without images."""

    model_type, class_name = "phi3", "Phi3ForCausalLM"
    allowed = dict(rotary_fraction=(), rope_scaling=("none",), window=(), layer_pattern=("",))
    names = NAMES | {  # gate before up, as in `NAMES`
        **{f"layers/attention/{name}": "model.layers.{}.self_attn.qkv_proj" for name in "qkv"},
        **{f"layers/mlp/{name}": "model.layers.{}.mlp.gate_up_proj" for name in ("gate", "up")},
    }

    def settings(self, values: Mapping[str, Any]) -> dict[str, Any]:
        fraction = rope_of(values).get("partial_rotary_factor") or values.get("partial_rotary_factor") or 1.0
        return decoder_settings(values, eps=1e-5) | one_window(values) | dict(rotary_fraction=fraction)

    def unsupported(self, values: Mapping[str, Any]) -> Iterator[str]:
        if (kind := rope_kind(rope_of(values))) in _LONG:
            yield f"rotary positions of type {kind!r}, whose frequencies change with the length of each text"
        elif kind != "default":
            yield f"rotary positions of type {kind!r} (known: default)"

    def fields(self, config: TransformerConfig, max_length: int) -> dict[str, Any]:
        c = config
        fields = dict(head_dim=c.d_head, sliding_window=c.window or None, partial_rotary_factor=c.rotary_fraction)
        fields["pad_token_id"] = None  # the default, 32000, must be an id of the vocabulary
        lengths = dict.fromkeys(("max_position_embeddings", "original_max_position_embeddings"), max_length)
        return decoder_fields(c) | fields | lengths
