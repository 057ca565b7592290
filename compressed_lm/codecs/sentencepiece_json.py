"""tokenizer.json of a SentencePiece BPE model, with its user-defined symbols.

transformers converts a tokenizer.model itself, but without user-defined symbols: for runs of more than 31 spaces in
Gemma, its ids differ from those of SentencePiece. Here they are added tokens, which match the longest symbol first, as
in SentencePiece. Everything else is the conversion of transformers.
"""

import json
import struct
from collections.abc import Iterator
from typing import Any

from compressed_lm.codecs.tokenizer_json import SPACE

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = range(1, 6)
_VARINT, _FIXED64, _FIXED32 = 0, 1, 5
"""Wire types of protocol buffers."""


def tokenizer_json(model: bytes, *, begin: str | None = None) -> bytes | None:
    """Returns the content of a tokenizer.json; None for a model without user-defined symbols, or with unused pieces.

    Args:
        model: content of a tokenizer.model, BPE with byte fallback. It must be readable by SentencePiece.
        begin: token that is put before a text; None for none.
    """
    pieces = [_piece(content) for number, content in _fields(model) if number == 1]
    kinds = {kind for _, _, kind in pieces}
    if _USER_DEFINED not in kinds or _UNUSED in kinds:
        return None
    added = [
        _added(text, i, special=kind != _USER_DEFINED)
        for i, (text, _, kind) in enumerate(pieces)
        if kind in (_UNKNOWN, _CONTROL, _USER_DEFINED)
    ]
    ids = {text: i for i, (text, _, _) in enumerate(pieces)}
    space = {"String": " "}
    found = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": space, "content": SPACE},
        "pre_tokenizer": None,
        "post_processor": None if begin is None else _before(begin, ids[begin]),
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": next(text for text, _, kind in pieces if kind == _UNKNOWN),
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": ids,
            "merges": _merges(pieces),
        },
    }
    return json.dumps(found, ensure_ascii=False).encode() + b"\n"


def _merges(pieces: list[tuple[str, float, int]]) -> list[tuple[str, str]]:
    """Returns the pairs of pieces that make a piece, those of the highest score first."""
    scores = {text: score for text, score, kind in pieces if kind == _NORMAL}
    rank = {text: i for i, (text, _, _) in enumerate(pieces)}
    found = []
    for text, score in scores.items():
        pairs = ((text[:i], text[i:]) for i in range(1, len(text)))
        found += [(-score, rank[a], rank[b], a, b) for a, b in pairs if a in scores and b in scores]
    return [(a, b) for _, _, _, a, b in sorted(found)]


def _added(text: str, i: int, *, special: bool) -> dict[str, Any]:
    # User-defined symbols are found in normalised text, in which spaces are written as pieces have them.
    around = {"single_word": False, "lstrip": False, "rstrip": False}
    return {"id": i, "content": text, **around, "normalized": not special, "special": special}


def _before(token: str, i: int) -> dict[str, Any]:
    """Returns the post-processor that puts a token before each text."""
    begin, texts = {"SpecialToken": {"id": token, "type_id": 0}}, "AB"
    parts = [[begin, {"Sequence": {"id": text, "type_id": k}}] for k, text in enumerate(texts)]
    return {
        "type": "TemplateProcessing",
        "single": parts[0],
        "pair": parts[0] + parts[1],
        "special_tokens": {token: {"id": token, "ids": [i], "tokens": [token]}},
    }


def _piece(content: bytes) -> tuple[str, float, int]:
    """Returns the text, the score and the kind of a piece."""
    fields = dict(_fields(content))
    score = fields.get(2, b"\0\0\0\0")
    return fields[1].decode(), struct.unpack("<f", score)[0], fields.get(3, _NORMAL)


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yields the number and the content of each field of a protocol buffer: bytes, or an int for a varint."""
    at = 0
    while at < len(message):
        tag, at = varint(message, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = varint(message, at)
            yield tag >> 3, value
            continue
        size = {_FIXED64: 8, _FIXED32: 4}.get(kind)
        if size is None:
            size, at = varint(message, at)
        yield tag >> 3, message[at : at + size]
        at += size


def varint(message: bytes, at: int) -> tuple[int, int]:
    """Returns a varint (seven bits per byte, lowest first) and the place after it."""
    value = shift = 0
    while True:
        byte, at = message[at], at + 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at
