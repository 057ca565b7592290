"""Fields of config.json: their types, and the fields of rotary positions that several architectures share."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from compressed_lm.errors import InputError
from compressed_lm.models.config import GLOBAL, LOCAL, TransformerConfig, parse_rope_scaling
from compressed_lm.settings import LARGEST, LARGEST_FLOAT

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
    "gelu": "gelu_erf",
    "gelu_pytorch_tanh": "gelu",
    "gelu_new": "gelu",
}
"""Our activation of each `hidden_act`."""

SIZES = {
    "vocab_size": "vocab_size",
    "d_model": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "d_ff": "intermediate_size",
}
"""The usual name of each of our sizes."""

_WHOLE = set(SIZES.values()) | {"num_key_value_heads", "head_dim", "max_position_embeddings", "sliding_window"}
_WHOLE |= {"n_embd", "n_layer", "n_head", "n_positions", "n_inner", "sliding_window_pattern"}
_WHOLE |= {"original_max_position_embeddings"}
_NUMBERS = {"rope_theta", "rotary_emb_base", "layer_norm_eps", "rms_norm_eps", "factor", "low_freq_factor"}
_NUMBERS |= {"high_freq_factor", "rotary_pct", "partial_rotary_factor", "layer_norm_epsilon", "rope_local_base_freq"}
_NUMBERS |= {"query_pre_attn_scalar", "final_logit_softcapping"}
_FLAGS = {"tie_word_embeddings", "use_parallel_residual", "attention_bias", "mlp_bias", "use_sliding_window"}
_FLAGS |= {"scale_attn_weights", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention"}
_FLAGS |= {"use_bidirectional_attention"}
_TEXTS = {"model_type", "hidden_act", "hidden_activation", "activation_function", "rope_type", "type"}
_OBJECTS = {"rope_scaling", "rope_parameters", "quantization_config", "text_config"}
_OBJECTS |= {"full_attention", "sliding_attention"}
_KINDS: tuple[tuple[set[str], str, Callable[[Any], bool]], ...] = (
    (_WHOLE, "a whole number from 1 to 2147483647", lambda value: type(value) is int and 1 <= value <= LARGEST),
    ({"max_window_layers"}, "a whole number", lambda value: type(value) is int and 0 <= value <= LARGEST),
    (_NUMBERS, "a positive, finite number", lambda x: type(x) in (int, float) and 0 < x <= LARGEST_FLOAT),
    (_FLAGS, "true or false", lambda value: isinstance(value, bool)),
    (_TEXTS, "a text", lambda value: isinstance(value, str)),
    (_OBJECTS, "an object", lambda value: isinstance(value, dict)),
    ({"layer_types"}, "a list of texts", lambda x: isinstance(x, list) and all(isinstance(kind, str) for kind in x)),
)
_LLAMA3 = {"factor": "factor", "low_freq_factor": "low", "high_freq_factor": "high"}
"""Our option of each field of a rotary scaling."""

SLIDING, FULL = "sliding_attention", "full_attention"
"""The values of `layer_types` that are supported."""


def check_types(values: Mapping[str, Any]) -> None:
    """Checks the types of the fields that are read; null counts as missing.

    Raises:
        InputError: a field has a value of the wrong type or out of range.
    """
    for name, value in _flat(values):
        last = name.rpartition(".")[2]
        for names, expected, right in _KINDS:
            if last in names and value is not None and not right(value):
                raise InputError(
                    f"config.json has {name} = {json.dumps(value)[:60]}; expected {expected}. Restore the file, or "
                    "correct it."
                )


def _flat(values: Mapping[str, Any], prefix: str = "", depth: int = 2) -> Iterator[tuple[str, Any]]:
    """Yields (name, value) of all fields, also of those inside the objects of rotary positions."""
    for name, value in values.items():
        yield prefix + str(name), value
        if isinstance(value, dict) and depth and (prefix or name in ("rope_scaling", "rope_parameters")):
            yield from _flat(value, f"{prefix}{name}.", depth - 1)


def rope_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of rotary positions: `rope_scaling` of older versions, `rope_parameters` of newer ones."""
    return {**(values.get("rope_scaling") or {}), **(values.get("rope_parameters") or {})}


def window_from(window: int | None, layer_types: Sequence[str]) -> dict[str, Any]:
    """Returns our settings of a sliding window.

    Args:
        window: sliding_window.
        layer_types: of each layer; has passed `unsupported_layers`.
    """
    pattern = "".join(LOCAL if kind == SLIDING else GLOBAL for kind in layer_types)
    return dict(window=window, layer_pattern=pattern) if LOCAL in pattern else {}


def unsupported_layers(window: int | None, layer_types: Sequence[str], n_layers: int) -> Iterator[str]:
    """Yields what is not supported in the windows of layers; arguments as for `window_from`."""
    if unknown := sorted(set(layer_types) - {SLIDING, FULL}):
        yield f"layers of type {', '.join(unknown)[:60]} (known: {SLIDING}, {FULL})"
    if len(layer_types) != n_layers:
        yield f"layer_types of {len(layer_types)} layers (num_hidden_layers={n_layers})"
    if SLIDING in layer_types and not window:
        yield f"layer_types with {SLIDING}, but no sliding_window"


def layer_types_of(config: TransformerConfig) -> list[str]:
    """Returns the field `layer_types` of a config."""
    return [SLIDING if local else FULL for local in config.local_layers]


def rope_kind(rope: Mapping[str, Any]) -> str:
    """Returns the type of a rotary scaling."""
    return rope.get("rope_type") or rope.get("type") or "default"


def unsupported_rope(rope: Mapping[str, Any]) -> Iterator[str]:
    """Yields what is not supported in the fields of rotary positions."""
    kind = rope_kind(rope)
    wanted = {"default": set(), "linear": {"factor"}, "llama3": set(_LLAMA3)}
    if kind not in wanted:
        yield f"rotary positions of type {kind!r} (known: {', '.join(wanted)})"
    elif missing := sorted(wanted[kind] - rope.keys()):
        yield f"rotary positions of type {kind!r} without {', '.join(missing)}"


def scaling_from(rope: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """Returns our `rope_scaling` spec; `rope` has passed `unsupported_rope`."""
    kind = rope_kind(rope)
    if kind == "default":
        return "none"
    if kind == "linear":
        return f"linear(factor={rope['factor']})"
    length = rope.get("original_max_position_embeddings") or values.get("max_position_embeddings") or 8192
    return f"llama3({','.join(f'{ours}={rope[theirs]}' for theirs, ours in _LLAMA3.items())},length={length})"


def scaling_of(config: TransformerConfig) -> dict[str, Any]:
    """Returns the field `rope_scaling` of a config, or {} without a scaling."""
    scaling = parse_rope_scaling(config.rope_scaling)
    if not scaling:
        return {}
    if "low" not in scaling:
        return {"rope_scaling": {"rope_type": "linear", "factor": scaling["factor"]}}
    fields = {theirs: scaling[ours] for theirs, ours in _LLAMA3.items()}
    return {"rope_scaling": {"rope_type": "llama3", **fields, "original_max_position_embeddings": scaling["length"]}}
