"""Content of a Hugging Face config.json and generation_config.json from the metadata of a GGUF file.

Sources: `load_arch_hparams` in src/models/*.cpp of llama.cpp, and conversion/*.py.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from compressed_lm.errors import InputError
from compressed_lm.models.gguf.header import Header, TensorPlace, single
from compressed_lm.models.gguf.names import NAMES, ROPE_FREQS

SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
"""Key of each special token: `tokenizer.ggml.{}_token_id`."""

_ENDS = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>", "<|end_of_text|>")
"""Control tokens at which llama.cpp ends a text whatever the metadata says (`special_eog_ids` in llama-vocab.cpp)."""

CONTROL = 3
"""`gguf.TokenType.CONTROL`."""

_GEMMA_27B = 62
"""Number of layers of the only Gemma 3 whose queries are not scaled by the size of a head (gemma3.cpp)."""

_LENGTHS = tuple(1 << bits for bits in range(10, 21))


class Metadata:
    """Values of one architecture's keys, checked as they are read."""

    def __init__(self, header: Header):
        """Checks the architecture.

        Raises:
            InputError: the file is no model, is one part of several, or has an unsupported architecture.
        """
        self.values, self._tensors = header.metadata, header.tensors
        kind = single(self.values, "general.type", "model")
        if kind != "model":
            raise InputError(
                f"A GGUF file of the type {kind!r:.50} was given; expected a model. Give the model's file."
            )
        parts = single(self.values, "split.count", 0)
        if parts not in (0, 1):
            raise InputError(
                f"The GGUF file is one of {parts} parts. Join them first: llama-gguf-split --merge FIRST_PART OUT.gguf "
                "(of llama.cpp), and give OUT.gguf."
            )
        architecture = single(self.values, "general.architecture")
        if not isinstance(architecture, str) or architecture not in NAMES:
            raise InputError(
                f"A GGUF file of the architecture {architecture!r:.50} was given, which is not supported. "
                f"Supported: {', '.join(NAMES)}. Use a model of one of them."
            )
        self.architecture: str = architecture

    def raw(self, key: str, default: Any = None) -> Any:
        """Returns the value of a key of the architecture, such as "block_count"."""
        return self.values.get(f"{self.architecture}.{key}", default)

    def get(self, key: str, default: Any = None) -> Any:
        """Returns a value that is not an array.

        Raises:
            InputError: it is one.
        """
        return single(self.values, f"{self.architecture}.{key}", default)

    def number(self, key: str, default: int | None = None) -> int:
        """Returns a whole number of at least 1. An array of equal numbers, one for each layer, is a number, too.

        Raises:
            InputError: the key is missing, or has another value.
        """
        value = self.raw(key, default)
        if isinstance(value, np.ndarray) and value.size and value.dtype.kind in "iu" and (value == value[0]).all():
            value = value[0].item()
        if value is None:
            raise InputError(f"The GGUF file has no {self.architecture}.{key}. Copy it again from its source.")
        if type(value) is not int or not 1 <= value < 1 << 31:
            raise InputError(
                f"The GGUF file has {self.architecture}.{key} = {str(value)[:50]}; expected one whole number from 1 to "
                "2147483647. Models whose layers differ in size are not supported."
            )
        return value

    def real(self, key: str, default: float | None = None) -> float:
        """Returns a finite, positive number.

        Raises:
            InputError: the key is missing, or has another value.
        """
        value = self.get(key, default)
        if type(value) not in (int, float) or not 0 < value < float("inf"):
            raise InputError(
                f"The GGUF file has {self.architecture}.{key} = {str(value)[:50]}; expected a positive, finite number. "
                "Copy it again from its source."
            )
        return float(value)

    def tensor(self, name: str) -> TensorPlace:
        """Returns the place of a tensor.

        Raises:
            InputError: there is none.
        """
        if name not in self._tensors:
            raise InputError(f"The GGUF file has no tensor {name}. Copy it again from its source.")
        return self._tensors[name]

    def has(self, *names: str) -> bool:
        """Returns whether the first layer, or the file, has one of the tensors."""
        return any(name in self._tensors or f"blk.0.{name}" in self._tensors for name in names)

    def layers(self) -> int:
        """Returns the number of layers.

        Raises:
            InputError: there are more layers than tensors.
        """
        if (layers := self.number("block_count")) > len(self._tensors):
            raise InputError(
                f"The GGUF file has {layers} layers and only {len(self._tensors)} tensors. Copy it again from its "
                "source."
            )
        return layers


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
        rope_scaling=_rope_scaling(meta, rope_freqs, head_dim),
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


def _rope_scaling(meta: Metadata, rope_freqs: np.ndarray | None, head_dim: int) -> dict[str, Any] | None:
    """Returns `rope_scaling`; the architecture decides whether it supports the type."""
    if rope_freqs is not None and (rope_freqs != 1).any():
        return llama3_scaling(rope_freqs, theta=meta.real("rope.freq_base", 10_000.0), head_dim=head_dim)
    if meta.has("rope_factors_long.weight"):
        return dict(rope_type="longrope")
    kind = meta.get("rope.scaling.type", "linear")
    factor = meta.get("rope.scaling.factor", meta.get("rope.scale_linear", 0))
    if kind == "none" or kind == "linear" and factor in (0, 1):
        return None
    found: dict[str, Any] = dict(rope_type=str(kind)[:50])
    if factor:
        found["factor"] = meta.real("rope.scaling.factor", meta.get("rope.scale_linear"))
    if meta.get("rope.scaling.original_context_length"):
        found["original_max_position_embeddings"] = meta.number("rope.scaling.original_context_length")
    return found


def llama3_divisors(*, theta: float, head_dim: int, factor: float, low: float, high: float, length: int) -> np.ndarray:
    """Returns the divisors of the rotary frequencies of Llama 3.1, as conversion/llama.py of llama.cpp computes them.

    Args:
        theta: base of the frequencies.
        head_dim: size of a head.
        factor: divisor of low frequencies.
        low: `low_freq_factor`.
        high: `high_freq_factor`.
        length: `original_max_position_embeddings`.

    Returns:
        float32[head_dim / 2].
    """
    frequencies = np.float32(1) / np.float32(theta) ** (np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    wavelengths = 2 * np.pi / frequencies.astype(np.float64)
    smooth = np.clip((length / wavelengths - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)


def llama3_scaling(divisors: np.ndarray, *, theta: float, head_dim: int) -> dict[str, Any]:
    """Returns the `rope_scaling` of type llama3 that gives the divisors of a GGUF file.

    The file has only the divisors. Scaling low, high and length together changes nothing, so low is 1, as in all
    models of Llama 3.

    Raises:
        InputError: no such scaling gives them.
    """
    factor = float(np.max(divisors))
    if divisors.shape == (head_dim // 2,) and np.isfinite(divisors).all() and factor > 1:
        for length in (8192, *_LENGTHS):
            for high in (4.0, 2.0, 8.0, 16.0):
                if np.allclose(
                    llama3_divisors(theta=theta, head_dim=head_dim, factor=factor, low=1.0, high=high, length=length),
                    divisors,
                    rtol=2e-6,
                    atol=0,
                ):
                    return dict(
                        rope_type="llama3",
                        factor=factor,
                        low_freq_factor=1.0,
                        high_freq_factor=high,
                        original_max_position_embeddings=length,
                    )
    raise InputError(
        f"The GGUF file has the tensor {ROPE_FREQS} with divisors that are not those of Llama 3 (from "
        f"{np.min(divisors):.4g} to {factor:.4g}). Import the model's safetensors files instead."
    )


def special_ids(values: Mapping[str, Any], *, vocab_size: int) -> dict[str, int]:
    """Returns the ids of the special tokens bos, eos, unk and pad that a file defines.

    Args:
        values: the metadata.
        vocab_size: ids from this number on are ignored, as in llama.cpp.
    """
    # llama.cpp's defaults for SentencePiece (llama-vocab.cpp).
    defaults = dict(bos=1, eos=2, unk=0) if single(values, "tokenizer.ggml.model") == "llama" else {}
    found = {
        name: single(values, f"tokenizer.ggml.{key}_token_id", defaults.get(name)) for name, key in SPECIAL.items()
    }
    return {name: i for name, i in found.items() if type(i) is int and 0 <= i < vocab_size}


def generation_of(values: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content of generation_config.json: the ids at which llama.cpp ends a text, and bos and pad.

    Args:
        values: the metadata.
        config: from `config_of`.
    """
    tokens, kinds = values.get("tokenizer.ggml.tokens", []), values.get("tokenizer.ggml.token_type", [])
    ids = [config.get("eos_token_id"), *(single(values, f"tokenizer.ggml.{key}_token_id") for key in ("eot", "eom"))]
    if isinstance(tokens, list) and isinstance(kinds, np.ndarray) and len(kinds) == len(tokens):
        ids += [i for i, token in enumerate(tokens) if token in _ENDS and kinds[i] == CONTROL]
    ends = [i for i in dict.fromkeys(ids) if type(i) is int and 0 <= i < config["vocab_size"]]
    found = {name: config[name] for name in ("bos_token_id", "pad_token_id") if name in config}
    return found | ({"eos_token_id": ends if len(ends) > 1 else ends[0]} if ends else {})
