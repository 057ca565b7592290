"""Content of a tokenizer.json for byte-level BPE in a GGUF file (`tokenizer.ggml.model` = gpt2).

A GGUF file names the way in which text is split before merging (`tokenizer.ggml.pre`). The regular expressions are
those of the models' own tokenizer.json, which src/llama-vocab.cpp of llama.cpp quotes.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from compressed_lm.errors import InputError
from compressed_lm.models.gguf.header import single
from compressed_lm.models.gguf.vocabulary import TokenType, Vocabulary

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s"
    r"|%s| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEKKEN = _CASED % ("", "", r"\p{N}")
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_GPT4O = _CASED % (_SHORT, _SHORT, r"\p{N}{1,3}")


class Splits(NamedTuple):
    """How text is split before merging.

    Attributes:
        regex: matches one part after another; None for GPT-2's expression, which the package `tokenizers` has built in.
        digits: whether each digit is a part.
        ignore_merges: whether a part that is a token is not merged.
        add_bos: whether a text begins with bos unless the file says otherwise.
    """

    regex: str | None = None
    digits: bool = False
    ignore_merges: bool = False
    add_bos: bool = False


SPLITS: Mapping[str, Splits] = {
    **dict.fromkeys(
        ("gpt-2", "phi-2", "mpt", "olmo", "gigachat", "a.x-4.0", "mellum", "exaone4", "jais", "trillion")
        + ("granite-docling",),
        Splits(),
    ),
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"),
        Splits(digits=True),
    ),
    **dict.fromkeys(
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
        Splits(_LLAMA3, ignore_merges=True, add_bos=True),
    ),
    **dict.fromkeys(("dbrx", "smaug-bpe"), Splits(_LLAMA3)),
    **dict.fromkeys(
        ("qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan", "solar-open"),
        Splits(_QWEN2),
    ),
    "tekken": Splits(_TEKKEN, ignore_merges=True, add_bos=True),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2", "talkie"), Splits(_GPT4O)),
}
"""Splits by `tokenizer.ggml.pre`."""

_DEFAULTS = {"gpt2": "gpt-2", "qwen2": "qwen2", "qwen3": "qwen2"}
"""Splits of an architecture with only one tokenizer, for old files without `tokenizer.ggml.pre`."""


def splits_of(values: Mapping[str, Any], architecture: str) -> Splits:
    """Returns the splits of a file.

    Args:
        values: the metadata.
        architecture: name in llama.cpp.

    Raises:
        InputError: they are unknown.
    """
    pre = single(values, "tokenizer.ggml.pre", "default")
    if pre == "default":
        pre = _DEFAULTS.get(architecture, pre)
    if not isinstance(pre, str) or pre not in SPLITS:
        old = " The file is old: get one that a newer llama.cpp wrote." if pre == "default" else ""
        raise InputError(
            f"The GGUF file has tokenizer.ggml.pre = {str(pre)[:50]!r}, so it is unknown how text is split into tokens."
            f"{old} Known: {', '.join(SPLITS)}. Or give the tokenizer of the model as a folder with tokenizer.json."
        )
    return SPLITS[pre]


def merges_of(values: Mapping[str, Any]) -> list[list[str]]:
    """Returns the pairs that are merged, in their order.

    Raises:
        InputError: there are none, or one is not a pair.
    """
    merges = values.get("tokenizer.ggml.merges")
    if not isinstance(merges, list):
        raise InputError("The GGUF file has no tokenizer.ggml.merges. Copy it again from its source.")
    pairs = [merge.split(" ") for merge in merges]
    for merge, pair in zip(merges, pairs, strict=True):
        if len(pair) != 2 or not all(pair):
            raise InputError(f"The GGUF file has the merge {merge!r:.100}; two tokens were expected. Copy it again.")
    return pairs


def tokenizer_json(
    vocabulary: Vocabulary, merges: Sequence[Sequence[str]], splits: Splits, *, bos: int | None, eos: int | None
) -> bytes:
    """Returns the content of tokenizer.json.

    Args:
        vocabulary: tokens in the alphabet of byte-level BPE; control and user-defined tokens as plain text. Unused
            tokens are left out: they only pad the vocabulary of the model.
        merges: pairs of tokens.
        splits: how text is split.
        bos: id that is put before each text by `transformers`, if any.
        eos: id that is put after each text by `transformers`, if any.
    """
    bytes_of_split: dict[str, Any] = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True)
    steps: list[dict[str, Any]] = [dict(type="Digits", individual_digits=True)] if splits.digits else []
    if splits.regex:
        steps += [dict(type="Split", pattern=dict(Regex=splits.regex), behavior="Isolated", invert=False)]
    steps += [bytes_of_split | dict(use_regex=splits.regex is None)]
    tokens, kinds = vocabulary.tokens, vocabulary.kinds
    added = [
        dict(id=i, content=tokens[i], single_word=False, lstrip=False, rstrip=False, normalized=False)
        | dict(special=kinds[i] == TokenType.CONTROL)
        for i in vocabulary.ids(TokenType.CONTROL, TokenType.USER_DEFINED)
    ]
    model = dict(
        type="BPE",
        dropout=None,
        unk_token=None,
        continuing_subword_prefix=None,
        end_of_word_suffix=None,
        fuse_unk=False,
        byte_fallback=False,
        ignore_merges=splits.ignore_merges,
        vocab={token: i for i, token in enumerate(tokens) if kinds[i] != TokenType.UNUSED},
        merges=merges,
    )
    content = dict(
        version="1.0",
        truncation=None,
        padding=None,
        added_tokens=added,
        normalizer=None,
        pre_tokenizer=steps[0] if len(steps) == 1 else dict(type="Sequence", pretokenizers=steps),
        post_processor=_template(tokens, bos=bos, eos=eos),
        decoder=bytes_of_split | dict(use_regex=True),
        model=model,
    )
    return json.dumps(content, ensure_ascii=False).encode()


def _template(tokens: Sequence[str], *, bos: int | None, eos: int | None) -> dict[str, Any] | None:
    """Returns the step that puts bos before and eos after each text."""
    if bos is None and eos is None:
        return None

    def around(name: str, segment: int) -> list[dict[str, Any]]:
        def special(i: int | None) -> list[dict[str, Any]]:
            return [] if i is None else [dict(SpecialToken=dict(id=tokens[i], type_id=segment))]

        return [*special(bos), dict(Sequence=dict(id=name, type_id=segment)), *special(eos)]

    return dict(
        type="TemplateProcessing",
        single=around("A", 0),
        pair=[*around("A", 0), *around("B", 1)],
        special_tokens={
            tokens[i]: dict(id=tokens[i], ids=[i], tokens=[tokens[i]]) for i in (bos, eos) if i is not None
        },
    )
