"""What a run keeps of the checkpoint that it was imported from: the entry "imported" of its record."""

import json
from collections.abc import Mapping
from typing import Any

from compressed_lm.errors import InputError
from compressed_lm.models import huggingface
from compressed_lm.models.checkpoint import Checkpoint

IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
KEPT = ("max_position_embeddings", *IDS)
"""Fields of config.json that our model does not have and that an export writes again."""

_GENERATION_BYTES = 1 << 16
_NOT_GENERATION = ("transformers_version", "_from_model_config", "custom_generate")


def entry_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """Returns the entry "imported" of a run's record.

    Its keys are model_type, `KEPT`, "stop_token_ids" (all ids of eos_token_id in config.json and
    generation_config.json), "dtype" (the type of all tensors, None if they differ) and "generation" (the plain settings
    of generation_config.json).

    Raises:
        InputError: a special id is not the id of a token.
    """
    config, generation = checkpoint.config, checkpoint.generation
    entry: dict[str, Any] = {"model_type": config.get("model_type")}
    entry["max_position_embeddings"] = huggingface.longest_text(config)
    for name in IDS:
        first = config.get(name) if config.get(name) is not None else generation.get(name)
        entry[name] = first if ids_in(first, name) else None
    ends = [ids_in(values.get("eos_token_id"), "eos_token_id") for values in (config, generation)]
    entry["stop_token_ids"] = list(dict.fromkeys(i for group in ends for i in group))
    types = set(checkpoint.dtypes.values())
    entry["dtype"] = types.pop() if len(types) == 1 else None
    entry["generation"] = _plain(generation)
    return entry


def ids_in(value: Any, name: str) -> list[int]:
    """Returns the ids of a field of config.json: none, one or a list. Old checkpoints have -1 for none.

    Raises:
        InputError: it has something else.
    """
    ids = [] if value is None or type(value) is int and value == -1 else value if isinstance(value, list) else [value]
    wrong = [i for i in ids if type(i) is not int or i < 0]
    if wrong:
        raise InputError(
            f"The checkpoint has {name} {value!r:.60}; expected the id of a token, or a list of ids. Restore its "
            "config.json and generation_config.json."
        )
    return ids


def _plain(generation: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings that are numbers, texts or lists of them; {} if they are longer than 64 KiB."""

    def plain(value: Any) -> bool:
        flat = value if isinstance(value, list) else [value]
        return all(isinstance(x, int | float | str) for x in flat)

    kept = {k: v for k, v in generation.items() if k not in _NOT_GENERATION and plain(v)}
    return kept if len(json.dumps(kept)) <= _GENERATION_BYTES else {}


def to_export(imported: Mapping[str, Any], defaults: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns (fields of config.json, content of generation_config.json) of the export of a run.

    Args:
        imported: the entry "imported" of its record; {} for a run that was trained here.
        defaults: config.json of the model, whose special ids are used where there are no others.
    """
    fields = {name: imported[name] for name in KEPT if imported.get(name) is not None}
    ids = {name: value for name, value in ({**defaults, **fields}).items() if name in IDS}
    return fields, ids | dict(imported.get("generation") or {})
