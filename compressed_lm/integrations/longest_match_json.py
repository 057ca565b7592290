"""tokenizer.json of codecs whose ids are the entries of a dictionary, matched greedily: `eiw` and `bytes`.

The format has no greedy longest match over arbitrary byte strings, but it can split text by a regular expression. Here
the expression is the dictionary's trie. In it the continuations of an entry are alternatives of which at most one
matches, since they begin with different bytes, and each entry may end before them. So a match is the longest entry that
the text begins with. Every byte is an entry, so that matches follow one another without gaps, and each is one token.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from compressed_lm.codecs.bytes_codec import Bytes
from compressed_lm.codecs.protocol import Codec
from compressed_lm.codecs.subword import SETTINGS_FILE
from compressed_lm.codecs.tokenizer_json import bytes_of_symbols
from compressed_lm.coding.dictionary import Dictionary
from compressed_lm.integrations.special_tokens import SpecialTokens, settings

SYMBOLS = [symbol for symbol, _ in sorted(bytes_of_symbols().items(), key=lambda pair: pair[1])]
"""The character of each byte in byte-level vocabularies (GPT-2). None of them is white space or a control character."""

_ESCAPED = frozenset(r"\.^$|?*+()[]{}-&~#")
"""Characters with a meaning in a regular expression of Oniguruma, also inside brackets."""


def dictionary_of(codec: Codec) -> Dictionary | None:
    """Returns the dictionary whose entries are the ids of a codec; None if its ids are something else."""
    if isinstance(codec, Bytes):
        return Dictionary(np.full(256, -1), np.arange(256))
    # The lengths tell whether a token is a whole window.
    listed = getattr(codec, "dictionary", None)
    return listed if listed is not None and codec.token_byte_lengths(np.zeros(1, np.int32)) is not None else None


def files(codec: Codec, dictionary: Dictionary) -> dict[str, bytes]:
    """Returns the tokenizer files, by name, of a codec whose ids are the entries of a dictionary."""
    content = json.dumps(tokenizer_json(codec, dictionary), ensure_ascii=False)
    config = settings(codec) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    return {
        "tokenizer.json": content.encode() + b"\n",
        SETTINGS_FILE: (json.dumps(config, indent=2) + "\n").encode(),
    }


def tokenizer_json(codec: Codec, dictionary: Dictionary) -> dict[str, Any]:
    """Returns the content of a tokenizer.json that gives the ids of a codec."""
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    pattern = {"Regex": trie_pattern(dictionary)}
    split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    entries = [symbols(entry) for entry in dictionary.decode_batch(list(np.arange(len(dictionary))[:, None]))]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": c} | added for i, c in sorted(SpecialTokens.of(codec).by_id.items())],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [byte_level, split]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "WordLevel",
            "vocab": {entry: i for i, entry in enumerate(entries)},
            "unk_token": SpecialTokens.of(codec).eos,  # required, and never used
        },
    }


def symbols(data: bytes) -> str:
    """Returns the characters of a byte string in byte-level vocabularies."""
    return "".join([SYMBOLS[byte] for byte in data])


def trie_pattern(dictionary: Dictionary) -> str:
    """Returns a regular expression that matches the longest entry, in characters of `SYMBOLS`.

    Alternatives are tried in order, so those with the most entries come first.
    """
    children: dict[int, list[int]] = {}
    for number, parent in enumerate(dictionary.parent.tolist()):
        children.setdefault(parent, []).append(number)
    # Patterns of the longest entries are made first, so that depth needs no recursion.
    size, pattern = [1] * len(dictionary), [""] * len(dictionary)
    for number in np.argsort(-dictionary.depth, kind="stable").tolist():
        below = children.get(number, [])
        size[number] += sum(size[child] for child in below)
        pattern[number] = f"(?:{_alternatives(below, dictionary, size, pattern)})?" if below else ""
    return _alternatives(children[-1], dictionary, size, pattern)


def _alternatives(numbers: Sequence[int], dictionary: Dictionary, size: list[int], pattern: list[str]) -> str:
    """Returns the pattern of entries that differ in their last byte, each with its continuations."""
    by_size = sorted(numbers, key=lambda number: -size[number])
    parts = [_escaped(dictionary.last[number]) + pattern[number] for number in by_size if pattern[number]]
    ends = "".join(_escaped(dictionary.last[number]) for number in by_size if not pattern[number])
    return "|".join([*parts, f"[{ends}]"] if ends else parts)


def _escaped(byte: int) -> str:
    symbol = SYMBOLS[byte]
    return f"\\{symbol}" if symbol in _ESCAPED else symbol
