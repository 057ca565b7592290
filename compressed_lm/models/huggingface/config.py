"""Conversion between TransformerConfig and config.json, and the list of supported architectures."""

from collections.abc import Mapping
from typing import Any

from compressed_lm.errors import InputError
from compressed_lm.models.config import TransformerConfig
from compressed_lm.models.huggingface.architecture import Architecture
from compressed_lm.models.huggingface.fields import ACTIVATIONS, check_types
from compressed_lm.models.huggingface.gemma3 import NESTED, Gemma3
from compressed_lm.models.huggingface.gpt2 import GPT2
from compressed_lm.models.huggingface.gpt_neox import GPTNeoX
from compressed_lm.models.huggingface.llama import Llama, Mistral, Qwen2, Qwen3
from compressed_lm.models.huggingface.olmo2 import Olmo2
from compressed_lm.models.huggingface.phi3 import Phi3

_ALL: tuple[Architecture, ...] = (
    *(Llama(), Mistral(), Qwen2(), Qwen3(), Phi3()),
    *(GPTNeoX(), GPT2(), Gemma3(), Olmo2()),
)
BY_TYPE = {one.model_type: one for one in _ALL}
"""The supported architectures by `model_type`; of several that fit a model, an export uses the first."""

ARCHITECTURES = {name: one.class_name for name, one in BY_TYPE.items()}
"""The class of each supported architecture, by `model_type`."""


def config_from(values: Mapping[str, Any]) -> TransformerConfig:
    """Returns the TransformerConfig of a config.json.

    Args:
        values: content of the file.

    Raises:
        InputError: unsupported architecture, a field is missing or wrong, or an unsupported feature.
    """
    values = _of_text(values)
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in BY_TYPE:
        raise InputError(
            f"A checkpoint of the architecture {kind!r} was given, which is not supported.{_meant(str(kind))} "
            f"Supported: {', '.join(ARCHITECTURES)}. Use a checkpoint of one of them."
        )
    architecture = BY_TYPE[kind]
    check_types(values)
    missing = [theirs for theirs in architecture.sizes.values() if values.get(theirs) is None]
    if missing:
        raise InputError(f"config.json of a {kind} model has no {', '.join(missing)}. Restore the file.")
    act, problems = architecture.activation(values), []
    if act not in ACTIVATIONS:
        problems.append(f"{architecture.act_field}={act!r} (known: {', '.join(ACTIVATIONS)})")
    if values.get("quantization_config"):
        problems.append("quantised weights (quantization_config)")
    if problems := [*problems, *architecture.unsupported(values)]:
        raise InputError(
            f"config.json of a {kind} model uses unsupported features: {'; '.join(problems)}. Import a checkpoint "
            "without them."
        )
    sizes = {ours: values[theirs] for ours, theirs in architecture.sizes.items()}
    tied = values.get("tie_word_embeddings")
    common = dict(
        activation=ACTIVATIONS[act],
        tie_embeddings=architecture.tied if tied is None else tied,
        scan_layers=sizes["n_layers"] > 3,  # as in `models.sizes`: a loop over few layers costs more than it saves
    )
    return TransformerConfig(**sizes | common | architecture.settings(values))


def longest_text(values: Mapping[str, Any]) -> int | None:
    """Returns the largest number of tokens of a text in a config.json, or None if it does not say."""
    values = _of_text(values)
    return values.get("max_position_embeddings") or values.get("n_positions")


def _of_text(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the configuration of the text model, which is nested if the architecture also reads images."""
    if values.get("model_type") != NESTED:
        return values
    check_types(values)
    return {"model_type": Gemma3.model_type, **(values.get("text_config") or {})}


def _meant(kind: str) -> str:
    """Returns " Did you mean x?" if a name differs from x only in case or punctuation.

    Any other name may be another architecture, such as gpt_neo, mixtral or llama4.
    """

    def plain(name: str) -> str:
        return "".join(c for c in name.lower() if c.isalnum())

    return next((f" Did you mean {name}?" for name in ARCHITECTURES if plain(name) == plain(kind)), "")


def fitting(config: TransformerConfig) -> list[Architecture]:
    """Returns the architectures that can express a config.

    Raises:
        InputError: there is none; the message gives the reasons for the nearest one.
    """
    misfits = [(one, list(one.misfits(config))) for one in _ALL]
    found = [one for one, problems in misfits if not problems]
    if not found:
        nearest, problems = min(misfits, key=lambda item: len(item[1]))
        raise InputError(
            f"This model cannot be exported as {nearest.model_type}, the nearest Hugging Face architecture: "
            f"{'; '.join(problems)}. Supported: {', '.join(ARCHITECTURES)}."
        )
    return found


def chosen(config: TransformerConfig, kind: str | None) -> Architecture:
    """Returns the architecture `kind` if it can express a config, otherwise the first that can.

    Raises:
        InputError: there is none.
    """
    found = fitting(config)
    return next((one for one in found if one.model_type == kind), found[0])


def model_type(config: TransformerConfig) -> str:
    """Returns the first architecture that a config can be exported to.

    Raises:
        InputError: there is none; the message gives the reasons.
    """
    return fitting(config)[0].model_type


def config_of(config: TransformerConfig, *, max_length: int, eod_id: int, kind: str | None = None) -> dict[str, Any]:
    """Returns the content of config.json for a TransformerConfig.

    Args:
        config: the TransformerConfig.
        max_length: largest intended length of a text, in tokens.
        eod_id: end-of-document id, which begins and ends a text.
        kind: preferred `model_type`, such as that of the imported checkpoint; used if it can express the config.

    Raises:
        InputError: no architecture has this shape.
    """
    architecture = chosen(config, kind)
    values: dict[str, Any] = {"architectures": [architecture.class_name], "model_type": architecture.model_type}
    values |= {theirs: getattr(config, ours) for ours, theirs in architecture.sizes.items()}
    values |= {architecture.act_field: architecture.activation_of(config), "tie_word_embeddings": config.tie_embeddings}
    values |= dict(bos_token_id=eod_id, eos_token_id=eod_id, torch_dtype="float32", use_cache=True)
    return values | architecture.fields(config, max_length)
