"""Conversion between TransformerConfig and config.json of Hugging Face `transformers`.

Supported: Llama and models of the same shape (Mistral, Qwen2 with biases of queries, keys and values, Qwen3 with
normalised queries and keys), and GPT-NeoX (Pythia). Source: transformers' configuration_*.py and modeling_*.py of these
names. The tensors are in `huggingface_tensors`.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from compressed_lm.errors import InputError
from compressed_lm.models.config import TransformerConfig, parse_rope_scaling
from compressed_lm.settings import LARGEST, LARGEST_FLOAT

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gpt_neox": "GPTNeoXForCausalLM",
}
"""The class of each supported architecture, by `model_type`."""

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
    "gelu": "gelu_erf",
    "gelu_pytorch_tanh": "gelu",
    "gelu_new": "gelu",
}
"""Our activation of each `hidden_act`."""

_SIZES = {
    "vocab_size": "vocab_size",
    "d_model": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "d_ff": "intermediate_size",
}
_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(
        (*_SIZES.values(), "num_key_value_heads", "head_dim", "max_position_embeddings", "sliding_window")
        + ("original_max_position_embeddings",),
        ("a whole number from 1 to 2147483647", lambda value: type(value) is int and 1 <= value <= LARGEST),
    ),
    **dict.fromkeys(
        ("rope_theta", "rotary_emb_base", "layer_norm_eps", "rms_norm_eps", "factor", "low_freq_factor")
        + ("high_freq_factor", "rotary_pct", "partial_rotary_factor"),
        ("a positive, finite number", lambda value: type(value) in (int, float) and 0 < value <= LARGEST_FLOAT),
    ),
    **dict.fromkeys(
        ("tie_word_embeddings", "use_parallel_residual", "attention_bias", "mlp_bias", "use_sliding_window"),
        ("true or false", lambda value: isinstance(value, bool)),
    ),
    **dict.fromkeys(
        ("model_type", "hidden_act", "rope_type", "type"), ("a text", lambda value: isinstance(value, str))
    ),
    **dict.fromkeys(
        ("rope_scaling", "rope_parameters", "quantization_config"),
        ("an object", lambda value: isinstance(value, dict)),
    ),
    "layer_types": (
        "a list of texts",
        lambda value: isinstance(value, list) and all(isinstance(kind, str) for kind in value),
    ),
}
"""(Expected value in words, check) of each field that is read, if it is not null."""

_LLAMA3 = {"factor": "factor", "low_freq_factor": "low", "high_freq_factor": "high"}
"""Our option of each field of a rotary scaling."""


def config_from(values: Mapping[str, Any]) -> TransformerConfig:
    """Returns the TransformerConfig of a config.json.

    Args:
        values: content of the file.

    Raises:
        InputError: unsupported architecture, a field is missing or wrong, or an unsupported feature.
    """
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        raise InputError(
            f"A checkpoint of the architecture {kind!r} was given, which is not supported.{_meant(str(kind))} "
            f"Supported: {', '.join(ARCHITECTURES)}. Use a checkpoint of one of them."
        )
    _check_types(values)
    missing = [theirs for theirs in _SIZES.values() if values.get(theirs) is None]
    if missing:
        raise InputError(f"config.json of a {kind} model has no {', '.join(missing)}. Restore the file.")
    sizes = {ours: values[theirs] for ours, theirs in _SIZES.items()}
    neox, d_head = kind == "gpt_neox", sizes["d_model"] // sizes["n_heads"]
    rope = {**(values.get("rope_scaling") or {}), **(values.get("rope_parameters") or {})}
    act = values.get("hidden_act", "gelu" if neox else "silu")
    if problems := list(_unsupported(values, kind, act, rope)):
        raise InputError(
            f"config.json of a {kind} model uses unsupported features: {'; '.join(problems)}. Import a checkpoint "
            "without them."
        )
    settings: dict[str, Any] = dict(
        activation=ACTIVATIONS[act],
        position="rotary",
        tie_embeddings=values.get("tie_word_embeddings", False),
        rope_theta=rope.get("rope_theta", values.get("rotary_emb_base", values.get("rope_theta", 10_000.0))),
        rope_scaling=_scaling(rope, values),
        scan_layers=sizes["n_layers"] > 3,  # as in `models.sizes`: a loop over few layers costs more than it saves
    )
    if neox:
        settings |= dict(
            d_head=d_head,
            gated_mlp=False,
            norm="layer",
            norm_eps=values.get("layer_norm_eps", 1e-5),
            bias="all",
            parallel_residual=values.get("use_parallel_residual", True),
            rotary_fraction=rope.get("partial_rotary_factor", values.get("rotary_pct", 0.25)),
        )
    else:
        n_kv_heads = values.get("num_key_value_heads") or sizes["n_heads"]
        settings |= dict(
            d_head=values.get("head_dim") or (128 if kind == "qwen3" else d_head),
            n_kv_heads=0 if n_kv_heads == sizes["n_heads"] else n_kv_heads,
            norm_eps=values.get("rms_norm_eps", 1e-6),
            bias="qkv" if kind == "qwen2" else "all" if values.get("attention_bias") else "none",
            qk_norm=kind == "qwen3",
        )
    return TransformerConfig(**sizes, **settings)


def _check_types(values: Mapping[str, Any]) -> None:
    """Raises InputError if a field that is read has a value of the wrong type."""
    given = dict(values)
    for name in ("rope_scaling", "rope_parameters"):
        given |= {f"{name}.{k}": v for k, v in values[name].items()} if isinstance(values.get(name), dict) else {}
    for name, value in given.items():
        expected, right = _FIELDS.get(name.rpartition(".")[2], ("", lambda value: True))
        if value is not None and not right(value):
            raise InputError(
                f"config.json has {name} = {json.dumps(value)[:60]}; expected {expected}. Restore the file, or "
                "correct it."
            )


def _meant(kind: str) -> str:
    """Returns " Did you mean x?" if a name differs from x only in case, punctuation or one missing inner letter.

    Any other name may be another architecture, such as gpt_neo, mixtral or llama4.
    """

    def plain(name: str) -> str:
        return "".join(c for c in name.lower() if c.isalnum())

    for known in map(plain, ARCHITECTURES):
        shorter = {known[:i] + known[i + 1 :] for i in range(1, len(known) - 1) if known[i].isalpha()}
        if plain(kind) in {known} | shorter:
            return f" Did you mean {next(name for name in ARCHITECTURES if plain(name) == known)}?"
    return ""


def _unsupported(values: Mapping[str, Any], kind: str, act: str, rope: Mapping[str, Any]) -> Iterator[str]:
    """Yields the features of a config.json that our Transformer does not support."""
    if act not in ACTIVATIONS:
        yield f"hidden_act={act!r} (known: {', '.join(ACTIVATIONS)})"
    scaling = rope.get("rope_type", rope.get("type", "default"))
    if scaling not in ("default", "llama3"):
        yield f"rotary positions of type {scaling!r} (known: default, llama3)"
    elif scaling == "llama3" and (missing := sorted(set(_LLAMA3) - rope.keys())):
        yield f"rotary positions of type 'llama3' without {', '.join(missing)}"
    if kind != "gpt_neox" and rope.get("partial_rotary_factor", values.get("partial_rotary_factor", 1.0)) != 1:
        yield "partial_rotary_factor (supported for gpt_neox only)"
    if values.get("quantization_config"):
        yield "quantised weights (quantization_config)"
    if kind == "mistral":
        window = values.get("sliding_window", 4096)
        if window is not None and window < values.get("max_position_embeddings", 4096 * 32):
            yield f"sliding_window={window} (null is needed: each token attends to all tokens before it)"
    if values.get("use_sliding_window") or "sliding_attention" in (values.get("layer_types") or ()):
        yield "a sliding window (each token must attend to all tokens before it)"
    if kind == "llama" and bool(values.get("attention_bias")) != bool(values.get("mlp_bias")):
        yield "attention_bias and mlp_bias that differ (both or none are needed)"
    if kind in ("mistral", "qwen3") and values.get("attention_bias"):
        yield "attention_bias"
    if kind == "gpt_neox" and not values.get("attention_bias", True):
        yield "attention_bias=false"


def _scaling(rope: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """Returns our `rope_scaling` spec; `rope` has passed `_unsupported`."""
    if rope.get("rope_type", rope.get("type")) != "llama3":
        return "none"
    length = rope.get("original_max_position_embeddings") or values.get("max_position_embeddings", 8192)
    return f"llama3({','.join(f'{ours}={rope[theirs]}' for theirs, ours in _LLAMA3.items())},length={length})"


def model_type(config: TransformerConfig) -> str:
    """Returns the architecture that a config can be exported to.

    Raises:
        InputError: there is none; the message gives the reasons.
    """
    c, problems = config, []
    needed: dict[str, Any]
    if c.position != "rotary":
        problems.append(f"position={c.position} (rotary is needed)")
    if c.activations != "dense":
        problems.append(f"activations={c.activations} (dense is needed: these architectures support nothing else)")
    if c.norm == "layer":  # as in GPT-NeoX
        needed = dict(gated_mlp=False, bias="all", qk_norm=False)
        if c.kv_heads != c.n_heads:
            problems.append(f"n_kv_heads={c.n_kv_heads} (one for each of the n_heads={c.n_heads} is needed)")
        if c.n_heads * c.d_head != c.d_model:
            problems.append(f"n_heads * d_head = {c.n_heads * c.d_head} (d_model={c.d_model} is needed)")
    else:
        needed = dict(gated_mlp=True, parallel_residual=False, rotary_fraction=1.0)
        if c.qk_norm:
            needed["bias"] = "none"
        elif c.bias == "all" and c.d_model % c.n_heads:
            problems.append(f"bias=all with d_model={c.d_model} (a multiple of n_heads={c.n_heads} is needed)")
    problems += [f"{k}={getattr(c, k)} ({v} is needed)" for k, v in needed.items() if getattr(c, k) != v]
    if problems:
        raise InputError(
            f"This model cannot be exported as {'gpt_neox' if c.norm == 'layer' else 'llama or one of its family'}, "
            f"the nearest Hugging Face architecture: {'; '.join(problems)}. Supported: {', '.join(ARCHITECTURES)}."
        )
    if c.norm == "layer":
        return "gpt_neox"
    if c.qk_norm or c.bias == "qkv":
        return "qwen3" if c.qk_norm else "qwen2"
    # The same formulas, but Mistral does not require that n_heads divides d_model.
    return "mistral" if c.d_model % c.n_heads else "llama"


def config_of(config: TransformerConfig, *, max_length: int, eod_id: int) -> dict[str, Any]:
    """Returns the content of config.json for a TransformerConfig.

    Args:
        config: the TransformerConfig.
        max_length: largest intended length of a text, in tokens.
        eod_id: end-of-document id, which begins and ends a text.

    Raises:
        InputError: no architecture has this shape.
    """
    c, kind = config, model_type(config)
    act = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}[c.activation]
    values: dict[str, Any] = {"architectures": [ARCHITECTURES[kind]], "model_type": kind}
    values |= {theirs: getattr(c, ours) for ours, theirs in _SIZES.items()}
    values |= dict(hidden_act=act, max_position_embeddings=max_length, tie_word_embeddings=c.tie_embeddings)
    values |= dict(bos_token_id=eod_id, eos_token_id=eod_id, torch_dtype="float32", use_cache=True)
    if scaling := parse_rope_scaling(c.rope_scaling):
        values["rope_scaling"] = {
            "rope_type": "llama3",
            **{theirs: scaling[ours] for theirs, ours in _LLAMA3.items()},
            "original_max_position_embeddings": scaling["length"],
        }
    if kind == "gpt_neox":
        return values | dict(
            layer_norm_eps=c.norm_eps,
            use_parallel_residual=c.parallel_residual,
            rotary_pct=c.rotary_fraction,
            rotary_emb_base=c.rope_theta,
            attention_bias=True,
        )
    values |= dict(num_key_value_heads=c.kv_heads, head_dim=c.d_head, rms_norm_eps=c.norm_eps, rope_theta=c.rope_theta)
    if kind == "mistral":
        values["sliding_window"] = None
    if kind == "llama":
        values |= dict(attention_bias=c.bias == "all", mlp_bias=c.bias == "all")
    return values
