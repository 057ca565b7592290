"""Conversion between a model's tokenizer files and codecs."""

import json
import os
from collections.abc import Mapping
from typing import Any

from compressed_lm.codecs import sentencepiece_json, tokenizers_codec
from compressed_lm.codecs.protocol import Codec
from compressed_lm.codecs.sentencepiece_codec import SentencePiece
from compressed_lm.codecs.special_tokens import ids_of, settings_of, token_text
from compressed_lm.codecs.subword import SETTINGS_FILE
from compressed_lm.codecs.tokenizers_codec import BPECodec, Tokenizers
from compressed_lm.errors import InputError
from compressed_lm.io import inside, local_path, strict_json

SENTENCEPIECE_FILE = "tokenizer.model"
TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")
FILES = (
    *(tokenizers_codec.FILE, SENTENCEPIECE_FILE, SETTINGS_FILE),
    *("special_tokens_map.json", *TEMPLATE_FILES),
)
"""Files of a tokenizer that are read, if they are there."""

MAX_BYTES = 256 << 20
"""Largest file of a tokenizer that is read (bytes); Gemma's tokenizer.json has 33 MB."""

_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_FROM_CODE = ("auto_map", "name_or_path", "tokenizer_file", "vocab_file", "merges_file", "special_tokens_map_file")
"""Settings that name code or files of another machine; they are left out."""

_REPLACED = {"qwen2": "Qwen2Tokenizer"}
"""Model types beside which transformers 5 uses the rules of a class of its own instead of those of tokenizer.json. It
does not if tokenizer_config.json names a class in the folder."""

_MODULE, _CLASS = "tokenization_plain", "PlainTokenizer"
_CODE = f'''"""Class of this folder's tokenizer, which is tokenizer.json as it is."""

from transformers import PreTrainedTokenizerFast


class {_CLASS}(PreTrainedTokenizerFast):
    """Tokenizer with the rules of tokenizer.json."""
'''

_SENTENCEPIECE_CLASSES = ("LlamaTokenizer", "GemmaTokenizer")


def read_tokenizer(
    source: str | os.PathLike | Mapping[str, bytes], *, eod: int | None = None, missing_bytes: str = "escape"
) -> Codec | None:
    """Returns the codec of a model's tokenizer; None if there is none.

    Args:
        source: the model's folder, or the content of its files by name. A byte-level tokenizer.json takes precedence
            over a tokenizer.model, and that over any other tokenizer.json. tokenizer_config.json and the chat template,
            if they are there, are kept with the codec.
        eod: id of end-of-document for a tokenizer.json, by default the `eos_token` of tokenizer_config.json; a
            tokenizer.model has its own.
        missing_bytes: handling of bytes that a tokenizer.json has no token for: "escape" (three ids each, see
            `byte_escape`) or "refuse" (text that has them is refused).

    Raises:
        InputError: the tokenizer cannot be made lossless, or the end-of-document id is unknown.
    """
    if isinstance(source, Mapping):
        where, files = "The tokenizer", dict(source)
    else:
        where, files = str(source), _read(local_path(source, "The folder of the tokenizer"))
    table, model = files.get(tokenizers_codec.FILE), files.get(SENTENCEPIECE_FILE)
    settings = _settings(files, where)
    if table is not None and eod is None:
        eod = _id_in(table, token_text(settings.get("eos_token"))) if model is None else None
        if eod is None and model is None:
            raise InputError(
                f"{where} does not define the end-of-text id (eos_token_id in config.json). Give it: --eod ID."
            )
    kept = (json.dumps(settings, indent=2, ensure_ascii=False) + "\n").encode() if settings else None
    if table is not None and eod is not None:
        try:
            codec = Tokenizers(v=0, eod=eod, tokenizer=table, missing_bytes=missing_bytes, settings=kept)
            if model is None or codec.is_byte_level:
                return codec
        except InputError:
            if model is None:
                raise
    if model is None:
        return None
    found = SentencePiece.of_model(model, settings=kept)
    if eod not in (None, found.eod_id):
        raise InputError(
            f"{where}: {SENTENCEPIECE_FILE} has the end-of-text id {found.eod_id}, and {eod} was requested "
            f"(--eod, or eos_token_id in config.json). Use the id of the file: --eod {found.eod_id}."
        )
    return found


def tokenizer_files(
    codec: Codec, *, special: Mapping[str, int] | None = None, model_type: str | None = None
) -> dict[str, bytes] | None:
    """Returns the files that `transformers` needs for a codec, by name; None if it has no such tokenizer.

    Args:
        codec: the codec; the chat template and the special tokens of an imported one are included.
        special: ids of special tokens by name (`bos_token_id`, `eos_token_id`, `pad_token_id`), if others are wanted
            than the codec's; of a list, the first counts.
        model_type: model_type of the config.json in the same folder; see `as_it_is`.
    """
    settings = {k: token_text(v) if k in _NAMES and v else v for k, v in settings_of(codec).items()}
    if isinstance(codec, BPECodec):
        files, kind = {tokenizers_codec.FILE: codec.files()[tokenizers_codec.FILE]}, "PreTrainedTokenizerFast"
    elif isinstance(codec, SentencePiece) and codec.eod_id < codec.vocab_size and codec.is_bpe:
        files = {SENTENCEPIECE_FILE: codec.files()["sentencepiece.model"]}
        kind = str(settings.get("tokenizer_class", "")).removesuffix("Fast")
        kind = kind if kind in _SENTENCEPIECE_CLASSES else _SENTENCEPIECE_CLASSES[0]
        # Unlike Llama, the codec does not put a space before every text.
        defaults = dict(add_bos_token=False, add_eos_token=False, legacy=False)
        settings = defaults | settings | dict(add_prefix_space=False)
    else:
        return None
    own = str(settings.get("tokenizer_class"))
    settings |= dict(tokenizer_class=kind)
    settings.setdefault("eos_token", codec.token(codec.eod_id))
    for name, given in (special or {}).items():
        i = given[0] if isinstance(given, list | tuple) and given else given
        if isinstance(i, int) and 0 <= i < codec.vocab_size and codec.token(i) is not None:
            settings[name.removesuffix("_id")] = codec.token(i)
    if SENTENCEPIECE_FILE in files:
        begin = settings.get("bos_token") if settings["add_bos_token"] else None
        begin = begin if begin in ids_of(codec) else None
        if (table := sentencepiece_json.tokenizer_json(files[SENTENCEPIECE_FILE], begin=begin)) is not None:
            files[tokenizers_codec.FILE], settings["tokenizer_class"] = table, "PreTrainedTokenizerFast"
    files[SETTINGS_FILE] = (json.dumps(settings, indent=2, ensure_ascii=False) + "\n").encode()
    return files if own.removesuffix("Fast") in _REPLACED.values() else as_it_is(files, model_type)


def as_it_is(files: Mapping[str, bytes], model_type: str | None) -> dict[str, bytes]:
    """Returns tokenizer files of which transformers uses the tokenizer.json as it is, beside any model.

    Args:
        files: content by name, with tokenizer_config.json.
        model_type: model_type of the config.json in the same folder; None for no model.
    """
    if model_type not in _REPLACED or tokenizers_codec.FILE not in files:
        return dict(files)
    settings = json.loads(files[SETTINGS_FILE]) | {"auto_map": {"AutoTokenizer": [None, f"{_MODULE}.{_CLASS}"]}}
    content = (json.dumps(settings, indent=2, ensure_ascii=False) + "\n").encode()
    return dict(files) | {SETTINGS_FILE: content, f"{_MODULE}.py": _CODE.encode()}


def _read(folder: Any) -> dict[str, bytes]:
    """Returns the content of the tokenizer's files in a folder."""
    found = {}
    for name in FILES:
        path = inside(folder, name)
        if not path.exists():
            continue
        if path.stat().st_size > MAX_BYTES:
            raise InputError(
                f"{path} has {path.stat().st_size:,} bytes; a file of a tokenizer of at most {MAX_BYTES:,} bytes was "
                "expected. Copy it again."
            )
        found[name] = path.read_bytes()
    return found


def _settings(files: Mapping[str, bytes], where: str) -> dict[str, Any]:
    """Returns the content of tokenizer_config.json with special tokens and chat template from other files."""
    settings = {k: v for k, v in _object(files, SETTINGS_FILE, where).items() if k not in _FROM_CODE}
    for name, token in _object(files, "special_tokens_map.json", where).items():
        if name in _NAMES and not settings.get(name):
            settings[name] = token
    as_json = _object(files, TEMPLATE_FILES[1], where).get("chat_template")
    if TEMPLATE_FILES[0] in files:
        try:
            settings["chat_template"] = files[TEMPLATE_FILES[0]].decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{where} has a {TEMPLATE_FILES[0]} that is not UTF-8 ({error}). Copy it again.") from None
    elif as_json and not settings.get("chat_template"):
        settings["chat_template"] = as_json
    return settings


def _object(files: Mapping[str, bytes], name: str, where: str) -> dict[str, Any]:
    try:
        return strict_json.parse(files[name]) if name in files else {}
    except ValueError as error:
        raise InputError(f"{where} has a {name} that cannot be read ({error}). Copy it again.") from error


def _id_in(table: bytes, token: str | None) -> int | None:
    """Returns the id of a token in a tokenizer.json, or None."""
    try:
        found = strict_json.parse(table)
        added = {entry["content"]: entry["id"] for entry in found.get("added_tokens") or []}
        i = (found["model"]["vocab"] | added).get(token)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # `Tokenizers` reports the error
    return i if type(i) is int and i >= 0 else None
