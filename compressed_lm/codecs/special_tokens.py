"""Special tokens of a model: beginning and end of text, ids that stop a sample, and special tokens in prompts."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from compressed_lm.codecs import tokenizer_json
from compressed_lm.codecs.protocol import Codec, eod_id
from compressed_lm.errors import InputError
from compressed_lm.io import strict_json

_ENDS_OF_TURN = ("<|im_end|>", "<end_of_turn>", "<|eot_id|>", "<|end|>", "<|end_of_turn|>", "<|eot|>", "<|return|>")


@dataclasses.dataclass(frozen=True)
class SpecialTokens:
    """Special ids of a model.

    Attributes:
        start: ids before a prompt: the beginning of text if the model's tokenizer puts it there, otherwise none; for a
            model trained here, end-of-document.
        first: id before text that has nothing before it, as in the rows of an evaluation.
        stop: ids that end a sample.
        length: longest text that the model was made for (tokens); None if unknown.
        template: chat template, or None.
        names: names of special tokens, such as `bos_token`, and their text, for the template.
    """

    start: tuple[int, ...]
    first: int
    stop: tuple[int, ...]
    length: int | None = None
    template: str | None = None
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)


def special_tokens_of(codec: Codec, imported: Mapping[str, Any] | None = None) -> SpecialTokens:
    """Returns the special tokens of a model.

    Args:
        codec: the model's codec.
        imported: the entry "imported" of the run's record; None for a model that was trained here.

    Raises:
        InputError: an id is not in the vocabulary, or the codec's tokenizer_config.json cannot be read.
    """
    end = eod_id(codec)
    if imported is None:
        return SpecialTokens((end,), end, (end,))
    settings, ids = settings_of(codec), ids_of(codec)
    names = {k: text for k, v in settings.items() if k.endswith("_token") and (text := token_text(v)) is not None}
    bos = imported.get("bos_token_id")
    bos = ids.get(names.get("bos_token", "")) if bos is None else bos
    template = _template(settings.get("chat_template"))
    stop = [end, *_listed(imported.get("stop_token_ids")), *_listed(imported.get("eos_token_id"))]
    stop += [ids[name] for name in _ENDS_OF_TURN if template and name in template and name in ids]
    stop += [ids[names["eos_token"]]] if names.get("eos_token") in ids else []
    wrong = [i for i in (bos, *stop) if i is not None and (type(i) is not int or i < 0)]
    if wrong:
        raise InputError(f"{wrong[0]!r:.60} was given as the id of a special token; a whole number was expected.")
    start = (int(bos),) if bos is not None and _puts_bos(codec, settings) else ()
    return SpecialTokens(
        start=start,
        first=start[0] if start else end,
        stop=tuple(dict.fromkeys(stop)),
        length=imported.get("max_position_embeddings"),
        template=template,
        names=names,
    )


def settings_of(codec: Codec) -> dict[str, Any]:
    """Returns the tokenizer_config.json of a codec; {} if it has none.

    Raises:
        InputError: it cannot be read.
    """
    content = getattr(codec, "settings", None)
    try:
        return strict_json.parse(content) if content else {}
    except ValueError as error:
        raise InputError(f"The tokenizer_config.json of {codec.spec} cannot be read ({error}).") from error


def ids_of(codec: Codec) -> dict[str, int]:
    """Returns the special tokens of a codec and their ids; {} if it has none."""
    return codec.special_tokens() if hasattr(codec, "special_tokens") else {}


def token_text(token: Any) -> str | None:
    """Returns the text of a special token in tokenizer_config.json, which may be an object with a `content`."""
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None


def prompt_ids(codec: Codec, text: str, *, special: bool = True) -> np.ndarray:
    """Returns the ids of a prompt, in which special tokens have their own ids.

    Ids are those of `transformers` without the special tokens that it adds before and after a text.

    Args:
        codec: the model's codec.
        text: the prompt, such as a rendered chat template.
        special: whether special tokens in it get their ids; otherwise they are text.

    Returns:
        int32[T].
    """
    ids = ids_of(codec) if special else {}
    if not ids:
        return codec.encode(text.encode("utf-8", "surrogateescape"))
    left, right = codec.stripping_tokens() if hasattr(codec, "stripping_tokens") else ((), ())
    longest_first = sorted(ids, key=len, reverse=True)
    forms = (
        (r"\s*" if t in left else "") + f"(?:{re.escape(t)})" + (r"\s*" if t in right else "")
        for t in longest_first
        if t
    )
    pattern, found, last = re.compile("|".join(forms)), [], 0
    for match in pattern.finditer(text):
        found += [codec.encode(text[last : match.start()].encode("utf-8", "surrogateescape"))]
        inner = match[0] if match[0] in ids else match[0].strip()
        found += [np.array([ids[inner]], np.int32)]
        last = match.end()
    found += [codec.encode(text[last:].encode("utf-8", "surrogateescape"))]
    return np.concatenate(found)


def _listed(ids: Any) -> list[Any]:
    return [] if ids is None else list(ids) if isinstance(ids, Iterable) else [ids]


def _template(given: Any) -> str | None:
    """Returns the chat template; of several, the one named "default"."""
    if isinstance(given, list):
        named = {entry.get("name"): entry.get("template") for entry in given if isinstance(entry, dict)}
        given = named.get("default")
    return given if isinstance(given, str) else None


def _puts_bos(codec: Codec, settings: Mapping[str, Any]) -> bool:
    """Returns whether the model's tokenizer puts the beginning of text before a text."""
    if isinstance(settings.get("add_bos_token"), bool):
        return settings["add_bos_token"]
    content = codec.files().get(tokenizer_json.FILE)
    # The classes for a tokenizer.model, LlamaTokenizer and GemmaTokenizer, put it there by default.
    return tokenizer_json.puts_bos(content) if content else codec.name == "sentencepiece"
