"""Tokenizer files of `transformers` as metadata of a GGUF file."""

from collections.abc import Mapping
from typing import Any

from compressed_lm.errors import InputError
from compressed_lm.io import strict_json
from compressed_lm.models.gguf.byte_level import SPLITS, Splits
from compressed_lm.models.gguf.sentencepiece_model import protocol
from compressed_lm.models.gguf.special_ids import SPECIAL
from compressed_lm.models.gguf.vocabulary import TokenType

_SPACE = "\u2581"

_Vocabulary = tuple[list[str], list[TokenType], list[float]]
"""Tokens, their types, and their scores ([] for none)."""


def add(writer: Any, files: Mapping[str, bytes], config: Mapping[str, Any]) -> None:
    """Adds the vocabulary, its special tokens and the chat template.

    Args:
        writer: a `gguf.GGUFWriter`.
        files: tokenizer.json or tokenizer.model, and tokenizer_config.json; {} for no vocabulary.
        config: content of config.json: size of the vocabulary, and ids of special tokens that the files do not name.

    Raises:
        InputError: llama.cpp has no such tokenizer, or it has more ids than the model.
    """
    settings = strict_json.parse(files.get("tokenizer_config.json", b"{}"))
    if "tokenizer.model" in files:  # a tokenizer.json beside it is for transformers
        tokens, kinds, scores = _sentencepiece(writer, files["tokenizer.model"], settings)
    elif "tokenizer.json" in files:
        tokens, kinds, scores = _byte_level(writer, strict_json.parse(files["tokenizer.json"]))
    else:
        writer.add_tokenizer_model("no_vocab")
        return
    size = config["vocab_size"]
    if len(tokens) > size:
        raise InputError(f"The tokenizer has {len(tokens):,} ids and the model {size:,}; a GGUF file needs as many.")
    tokens += [f"[PAD{i}]" for i in range(len(tokens), size)]
    kinds += [TokenType.UNUSED] * (size - len(kinds))
    writer.add_token_list(tokens)
    writer.add_token_types([int(kind) for kind in kinds])
    if scores:
        writer.add_token_scores(scores + [-10_000.0] * (size - len(scores)))
    for name, key in SPECIAL.items():
        token = settings.get(f"{name}_token")
        token = token.get("content") if isinstance(token, dict) else token
        i = tokens.index(token) if token in tokens else config.get(f"{name}_token_id")
        i = i[0] if isinstance(i, list) and i else i
        if type(i) is int and 0 <= i < size:
            writer.add_uint32(f"tokenizer.ggml.{key}_token_id", i)
    writer.add_add_bos_token(bool(settings.get("add_bos_token", False)))
    writer.add_add_eos_token(bool(settings.get("add_eos_token", False)))
    if isinstance(template := settings.get("chat_template"), str):
        writer.add_chat_template(template)


def _byte_level(writer: Any, content: Mapping[str, Any]) -> _Vocabulary:
    """Adds kind, splits and merges of a tokenizer.json; returns its vocabulary."""
    try:
        model, added = content["model"], content.get("added_tokens") or []
        ids = dict(model["vocab"]) | {token["content"]: token["id"] for token in added}
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        splits = _splits(content)
        tokens = [f"[PAD{i}]" for i in range(1 + max(ids.values()))]
        kinds = [TokenType.UNUSED] * len(tokens)
        for token, i in ids.items():
            tokens[i], kinds[i] = token, TokenType.NORMAL
        for token in added:
            kinds[token["id"]] = TokenType.CONTROL if token.get("special") else TokenType.USER_DEFINED
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(
            f"tokenizer.json cannot be written as GGUF ({error!r}): byte-level BPE was expected."
        ) from None
    names = [name for name, known in SPLITS.items() if splits is not None and known[:3] == splits[:3]]
    if not names or model.get("type") != "BPE":
        raise InputError(
            "tokenizer.json splits text in a way that llama.cpp does not know, or is no byte-level BPE. Export the "
            "model as safetensors files, or without its tokenizer."
        )
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(names[0])
    writer.add_token_merges(merges)
    return tokens, kinds, []


def _splits(content: Mapping[str, Any]) -> Splits | None:
    """Returns the splits of a tokenizer.json; None if they are of another form."""
    if (content.get("normalizer") or {"type": "NFC"})["type"] != "NFC":  # llama.cpp omits NFC as well
        return None
    steps = content["pre_tokenizer"]
    steps = list(steps["pretokenizers"]) if steps["type"] == "Sequence" else [steps]
    last = steps.pop()
    if last["type"] != "ByteLevel" or last.get("add_prefix_space"):
        return None
    digits = bool(steps) and steps[0]["type"] == "Digits" and steps[0]["individual_digits"]
    regex = None
    if steps and steps[0]["type"] == "Split" and steps[0]["behavior"] == "Isolated" and not steps[0]["invert"]:
        regex = steps[0]["pattern"]["Regex"]
    if (
        len(steps) > 1
        or (bool(steps) and not digits and regex is None)
        or last.get("use_regex", True) != (regex is None)
    ):
        return None
    return Splits(regex, digits, bool(content["model"].get("ignore_merges")))


def _sentencepiece(writer: Any, content: bytes, settings: Mapping[str, Any]) -> _Vocabulary:
    """Adds kind and prefix of a tokenizer.model; returns its vocabulary."""
    model = protocol().ModelProto()
    try:
        model.ParseFromString(content)
    except Exception as error:  # protobuf's DecodeError
        raise InputError(f"tokenizer.model cannot be read ({error}). Copy it again.") from error
    if model.trainer_spec.model_type != type(model.trainer_spec).BPE:
        raise InputError("tokenizer.model is not BPE; llama.cpp's SentencePiece tokenizer merges by score as BPE does.")
    kinds = [TokenType(piece.type) for piece in model.pieces]
    tokens = [
        piece.piece.replace(_SPACE, " ") if kind == TokenType.USER_DEFINED else piece.piece
        for piece, kind in zip(model.pieces, kinds, strict=True)
    ]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_add_space_prefix(bool(settings.get("add_prefix_space", model.normalizer_spec.add_dummy_prefix)))
    return tokens, kinds, [piece.score for piece in model.pieces]
