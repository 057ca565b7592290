"""Gemma 3, its text model: layers with and without a sliding window, four norms in each block, scaled embeddings.

Source: transformers' configuration_gemma3.py and modeling_gemma3.py (5.24). Like the latter, we do not use the field
attn_logit_softcapping.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from compressed_lm.errors import InputError
from compressed_lm.models.config import MAX_LAYERS, TransformerConfig
from compressed_lm.models.huggingface.architecture import Architecture
from compressed_lm.models.huggingface.fields import (
    FULL,
    SLIDING,
    layer_types_of,
    rope_kind,
    scaling_from,
    scaling_of,
    unsupported_layers,
    unsupported_rope,
    window_from,
)
from compressed_lm.models.huggingface.llama import BLOCK, ENDS, decoder_fields, decoder_settings

NESTED = "gemma3"
"""The `model_type` of Gemma 3 with images; its text model is in `text_config`."""

_IMAGES = ("vision_tower.", "multi_modal_projector.")
_TEXT = ("language_model.model.", "model.language_model.")  # of older and newer versions
_THETA = {FULL: 1_000_000.0, SLIDING: 10_000.0}
_THETA_FIELDS = {FULL: "rope_theta", SLIDING: "rope_local_base_freq"}


class Gemma3(Architecture):
    """The text model of Gemma 3."""

    model_type, class_name = "gemma3_text", "Gemma3ForCausalLM"
    act_field, act, tied, scale_offset = "hidden_activation", "gelu_pytorch_tanh", True, 1.0
    allowed = dict(
        norm_place=("both",),
        qk_norm=(True,),
        embed_scale=(),
        attention_scale=(),
        window=(),
        logit_softcap=(),
        local_rope_theta=(),
    )
    names = ENDS | {
        "layers/attention_norm": "model.layers.{}.input_layernorm",
        "layers/attention_post_norm": "model.layers.{}.post_attention_layernorm",
        "layers/mlp_norm": "model.layers.{}.pre_feedforward_layernorm",
        "layers/mlp_post_norm": "model.layers.{}.post_feedforward_layernorm",
        **BLOCK,
    }

    def settings(self, values: Mapping[str, Any]) -> dict[str, Any]:
        rope = _rope(values)
        shared = {k: v for k, v in values.items() if k not in ("rope_parameters", "rope_scaling")}
        windows = window_from(values.get("sliding_window", 4096), _layer_types(values))
        local = dict(local_rope_theta=rope[SLIDING]["rope_theta"]) if windows else {}
        return (
            decoder_settings({"head_dim": 256, "num_key_value_heads": 4, **shared})
            | windows
            | local
            | dict(
                rope_theta=rope[FULL]["rope_theta"],
                rope_scaling=scaling_from(rope[FULL], values),
                norm_place="both",
                qk_norm=True,
                embed_scale=values["hidden_size"] ** 0.5,
                attention_scale=(values.get("query_pre_attn_scalar") or 256) ** -0.5,
                logit_softcap=values.get("final_logit_softcapping") or 0.0,
            )
        )

    def unsupported(self, values: Mapping[str, Any]) -> Iterator[str]:
        layer_types, rope = _layer_types(values), _rope(values)
        yield from unsupported_layers(values.get("sliding_window", 4096), layer_types, values["num_hidden_layers"])
        yield from unsupported_rope(rope[FULL])
        if SLIDING in layer_types and (kind := rope_kind(rope[SLIDING])) != "default":
            yield f"rotary positions of type {kind!r} in layers with a sliding window (known: default)"
        for name in ("attention_bias", "use_bidirectional_attention"):
            if values.get(name):
                yield name

    def misfits(self, config: TransformerConfig) -> Iterator[str]:
        c = config
        yield from super().misfits(c)
        if not math.isclose(c.embed_scale, c.d_model**0.5, rel_tol=1e-6):
            yield f"embed_scale={c.embed_scale:g} (the square root of d_model={c.d_model} is needed)"
        if c.d_model % c.n_heads:  # transformers requires it
            yield f"d_model={c.d_model} (a multiple of n_heads={c.n_heads} is needed)"
        if c.window and not c.local_rope_theta and c.rope_scaling != "none":
            yield f"rope_scaling={c.rope_scaling} in layers with a window (none is needed: set local_rope_theta)"

    def fields(self, config: TransformerConfig, max_length: int) -> dict[str, Any]:
        c = config
        scalar = c.score_scale**-2
        return (
            decoder_fields(c)
            | scaling_of(c)
            | dict(
                head_dim=c.d_head,
                max_position_embeddings=max_length,
                sliding_window=c.window or max_length,
                layer_types=layer_types_of(c),
                rope_local_base_freq=c.local_rope_theta or c.rope_theta,
                query_pre_attn_scalar=round(scalar) if math.isclose(scalar, round(scalar), rel_tol=1e-6) else scalar,
                final_logit_softcapping=c.logit_softcap or None,
                attn_logit_softcapping=None,
                attention_bias=False,
            )
        )

    def stored_names(self, names: Iterable[str]) -> dict[str, str]:
        """Returns the names of tensors, also of a checkpoint that was made for images but has only the text model.

        Raises:
            InputError: the checkpoint has tensors for images.
        """
        given = {}
        for name in names:
            if any(part in name for part in _IMAGES):
                raise InputError(
                    f"The gemma3 checkpoint has tensors for images, such as {name}, which are not supported; expected "
                    "the text model alone. Save its language model: Gemma3ForCausalLM.from_pretrained(...)"
                    ".save_pretrained(DIR)."
                )
            usual = next((name.replace(start, "model.", 1) for start in _TEXT if name.startswith(start)), name)
            given[usual.removeprefix("language_model.")] = name
        return {usual: given[stored] for usual, stored in super().stored_names(given).items()}


def _layer_types(values: Mapping[str, Any]) -> list[str]:
    """Returns the type of each layer; by default, every sixth layer has no window."""
    period = values.get("sliding_window_pattern") or 6
    n_layers = min(values["num_hidden_layers"], MAX_LAYERS)
    return values.get("layer_types") or [FULL if (i + 1) % period == 0 else SLIDING for i in range(n_layers)]


def _rope(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the rotary fields by type of layer, of older versions (one scaling, two bases) or newer ones (nested)."""
    nested = values.get("rope_parameters") or {}
    found = {kind: dict(nested.get(kind) or {}) for kind in _THETA}
    found[FULL] |= values.get("rope_scaling") or {}
    for kind, theta in _THETA.items():
        found[kind]["rope_theta"] = found[kind].get("rope_theta") or values.get(_THETA_FIELDS[kind]) or theta
    return found
