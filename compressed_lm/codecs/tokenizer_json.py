"""Content of a tokenizer.json: checks, the part that is lossless, and the bytes of its tokens."""

import collections
import re
from typing import Any, NamedTuple

from compressed_lm.errors import InputError
from compressed_lm.io import strict_json

FILE = "tokenizer.json"
SPACE = "\u2581"
"""Character for a space in vocabularies with byte fallback."""

BYTE_LEVEL, BYTE_FALLBACK = "byte_level", "byte_fallback"
_MOST_IDS = 16
"""Largest number of ids per token: some vocabularies have gaps, and each id takes memory."""

_HARMLESS = ("NFC",)
"""Normalisers that change hardly any text; the codec omits them."""

_REMOVING = ("Whitespace", "WhitespaceSplit", "BertPreTokenizer", "CharDelimiterSplit")
_AFFIXES = ("continuing_subword_prefix", "end_of_word_suffix")
_MODEL = {"vocab": dict, "merges": list, "byte_fallback": bool, "fuse_unk": bool, "ignore_merges": bool}
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


class Plain(NamedTuple):
    """Tokenizer without the steps that change or add text.

    Attributes:
        content: for `tokenizers.Tokenizer.from_str`.
        kind: `BYTE_LEVEL` (characters represent bytes, as in GPT-2) or `BYTE_FALLBACK` (tokens such as `<0x0A>` for
            bytes without another token, as in Gemma).
        changed: whether added tokens were changed, see `plain`.
    """

    content: dict[str, Any]
    kind: str
    changed: bool


def plain(content: bytes, eod: int) -> Plain:
    """Returns the content of a tokenizer.json without the steps that change or add text.

    Added tokens that are not special keep the white space around them, and the end of a document is a special token, so
    that text is not encoded to it.

    Args:
        content: of the file.
        eod: id of end-of-document.

    Raises:
        InputError: it is not byte-level BPE, nor BPE with byte fallback.
    """
    try:
        found = strict_json.parse(content)
        model, problems = found["model"], []
        if wrong := [name for name, kind in _MODEL.items() if not isinstance(model.get(name, kind()), kind)]:
            raise ValueError(f"the {wrong[0]} of its model has a wrong type")
        parts = _flat(found["pre_tokenizer"], "pretokenizers")
        normalizers = _flat(found.get("normalizer"), "normalizers")
        byte_level = [part for part in parts if part["type"] == "ByteLevel"]
        fallback = model["type"] == "BPE" and not byte_level and bool(model.get("byte_fallback"))
        kind = BYTE_FALLBACK if fallback and f"<0x{0:02X}>" in model["vocab"] else BYTE_LEVEL
        if model["type"] != "BPE" or kind == BYTE_LEVEL and not byte_level:
            problems.append(f"{model['type']}{'' if byte_level else ' that is not byte-level'}")
        problems += [f"normalizer {part['type']} (it changes text)" for part in normalizers if not _kept(part, kind)]
        problems += [f"pre_tokenizer {part['type']} (it removes text)" for part in parts if _removes(part)]
        if any(part.get("add_prefix_space") for part in byte_level):
            problems.append("add_prefix_space (it changes text)")
        problems += [f"{name} (of other kinds of BPE)" for name in _AFFIXES if model.get(name)]
        added, changed = _added(found.get("added_tokens") or [], eod)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{FILE} cannot be read ({error!r}). Copy it again.") from error
    if problems:
        raise InputError(
            f"{FILE} uses {', '.join(problems)}; the codec tokenizers reads byte-level BPE and BPE with byte fallback, "
            "which are lossless. If the model has a tokenizer.model (SentencePiece with byte pieces), put that into "
            "the folder."
        )
    # Dropout is random. The decoder is not used: texts are concatenated from the tokens' bytes.
    model = model | dict(dropout=None) | dict.fromkeys(_AFFIXES)
    unused = dict.fromkeys(("normalizer", "post_processor", "truncation", "padding", "decoder"))
    if kind == BYTE_FALLBACK:
        # Any way to write spaces (Replace, Metaspace) becomes this one; a space that is put before every text is left
        # out.
        unused["normalizer"] = dict(type="Replace", pattern=dict(String=" "), content=SPACE)
        split = dict(type="Split", pattern=dict(String=SPACE), behavior="MergedWithNext", invert=False)
        parts = [split if part["type"] == "Metaspace" else part for part in parts if part.get("split", True)]
        unused["pre_tokenizer"] = dict(type="Sequence", pretokenizers=parts) if parts else None
    return Plain(found | unused | dict(model=model, added_tokens=added), kind, changed)


def _kept(part: dict, kind: str) -> bool:
    """Returns whether a normalizer may be left out or is replaced by an equal one."""
    if part["type"] in _HARMLESS:
        return True
    replaces = part["type"] == "Replace" and part["pattern"] == {"String": " "} and part["content"] == SPACE
    prepends = part["type"] == "Prepend" and part["prepend"] == SPACE
    return kind == BYTE_FALLBACK and (replaces or prepends)


def _removes(part: dict) -> bool:
    return part["type"] in _REMOVING or part.get("behavior") == "Removed"


def _added(tokens: list[dict], eod: int) -> tuple[list[dict], bool]:
    """Returns the added tokens as `plain` describes, and whether any was changed."""
    kept = [
        token if token["special"] else token | dict(lstrip=False, rstrip=False, special=token["id"] == eod)
        for token in tokens
    ]
    return kept, kept != tokens


def _flat(part: dict | None, key: str) -> list[dict]:
    if not part:
        return []
    return [flat for inner in part[key] for flat in _flat(inner, key)] if part["type"] == "Sequence" else [part]


def bytes_of_symbols() -> dict[str, int]:
    """Returns the byte of each character of byte-level BPE (GPT-2): printable bytes represent themselves."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("\xa1"), ord("\xac") + 1), *range(ord("\xae"), 256)]
    others = [byte for byte in range(256) if byte not in kept]
    return {chr(byte): byte for byte in kept} | {chr(256 + i): byte for i, byte in enumerate(others)}


def byte_tokens(kind: str) -> list[str]:
    """Returns the token of each of the 256 bytes."""
    if kind == BYTE_FALLBACK:
        return [f"<0x{byte:02X}>" for byte in range(256)]
    return [symbol for symbol, _ in sorted(bytes_of_symbols().items(), key=lambda pair: pair[1])]


def pieces(tokenizer: Any, kind: str) -> list[bytes]:
    """Returns the bytes of each id; none for special tokens and for ids without a token.

    Args:
        tokenizer: the `tokenizers.Tokenizer`.
        kind: see `Plain`.

    Raises:
        InputError: two tokens have the same id, or there are far more ids than tokens.
    """
    added = tokenizer.get_added_tokens_decoder()
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    i, count = collections.Counter(vocabulary.values()).most_common(1)[0]
    if count > 1:
        tokens = sorted(token for token, own in vocabulary.items() if own == i)
        raise InputError(
            f"{FILE} gives the id {i} to {count} tokens, such as {tokens[0]!r} and {tokens[1]!r}; one was expected. "
            "Copy it again."
        )
    largest = max(vocabulary.values())
    if largest > _MOST_IDS * len(vocabulary):
        raise InputError(
            f"{FILE} has {len(vocabulary):,} tokens and the id {largest:,}; ids up to {_MOST_IDS} times as many as "
            "tokens were expected. Copy it again."
        )
    found = [b""] * (largest + 1)
    bytes_of = bytes_of_symbols()
    for token, i in vocabulary.items():
        if i in added and added[i].special:
            continue
        if kind == BYTE_FALLBACK:
            match = _BYTE_TOKEN.fullmatch(token)
            found[i] = bytes([int(match[1], 16)]) if match else token.replace(SPACE, " ").encode()
        elif i in added:
            found[i] = token.encode()
        elif all(c in bytes_of for c in token):
            found[i] = bytes(bytes_of[c] for c in token)
    return found


def puts_bos(content: bytes) -> bool:
    """Returns whether the post-processor of a tokenizer.json puts a special token before a text."""
    part = strict_json.parse(content).get("post_processor")
    for processor in _flat(part, "processors"):
        first = (processor.get("single") or [{}])[0]
        if processor["type"] == "TemplateProcessing" and "SpecialToken" in first:
            return True
    return False
