"""Tokenizers of transformers for all codecs.

    import compressed_lm.integrations.transformers  # registers the class
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)  # written by `compressed-lm export-tokenizer`

Text goes to ids by its UTF-8: `CompressedTokenizer(codec)(text)["input_ids"]` are `codec.encode(text.encode())`.
"""

import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from compressed_lm import codecs
from compressed_lm.codecs.streaming import StreamDecoder
from compressed_lm.errors import CorruptStream, InputError
from compressed_lm.integrations import AUTO_MAP, CLASS, CODEC_FOLDER, code_and_readme
from compressed_lm.integrations.offsets import character_offsets, utf8
from compressed_lm.integrations.special_tokens import SpecialTokens, settings
from compressed_lm.integrations.token_names import token_names
from compressed_lm.io import write_atomic

try:
    from transformers import AddedToken, AutoTokenizer, BatchEncoding, PreTrainedConfig, PreTrainedTokenizer
    from transformers.generation.streamers import BaseStreamer
except ImportError as _error:
    raise InputError(
        f"The package transformers cannot be imported ({_error}). Install it: pip install 'transformers>=5.23,<6'."
    ) from None

_PLACE = 1 << 40
"""Stands for the first token of a call where offsets are wanted; larger than any id."""


class CompressedTokenizer(PreTrainedTokenizer):
    """Tokenizer of any codec.

    Every str without surrogates is decoded to itself. U+DC80 to U+DCFF stand for bytes of invalid UTF-8, as in
    `data.decode("utf-8", "surrogateescape")`; with `errors="surrogateescape"` they are decoded, too. Other surrogates
    are refused.

    Nothing is added to a text. `bos_token` and `eos_token` are the end of a document (`codecs.eod_id`). Text that looks
    like a special token is text, unless `split_special_tokens=False` is given to the constructor or to a call. A codec
    without `token_byte_lengths` (`pieces`, `ac`, ...) has no `return_offsets_mapping`. Ids that are not complete, as
    while text is generated, are decoded as far as they determine the text; ids outside the vocabulary are left out.
    """

    vocab_files_names = {"codec_file": f"{CODEC_FOLDER}/{codecs.registry.HEADER}"}
    model_input_names = ["input_ids", "attention_mask"]

    def __init__(
        self,
        codec: codecs.Codec | None = None,
        *,
        codec_file: str | os.PathLike | None = None,
        codec_fingerprint: str | None = None,
        errors: str = "replace",
        **options: Any,
    ) -> None:
        """Makes the tokenizer of a codec.

        Args:
            codec: any codec; None to load it from `codec_file`.
            codec_file: codec.json in the folder of a codec.
            codec_fingerprint: the fingerprint that the codec must have; None for any.
            errors: what decoded bytes that are not UTF-8 become: "replace" (U+FFFD) or another error handler of Python.
            **options: as for `PreTrainedTokenizer`.

        Raises:
            InputError: there is no codec, or it has another fingerprint.
        """
        if codec is None:
            if codec_file is None:
                raise InputError(
                    f"{options.get('name_or_path') or CLASS} has no codec: {CODEC_FOLDER}/{codecs.registry.HEADER} is "
                    f"missing. Pass a codec, as in {CLASS}(codecs.load('pieces16-en')), or a folder that "
                    "`compressed-lm export-tokenizer` or save_pretrained wrote."
                )
            codec = codecs.load(pathlib.Path(codec_file).parent)
        if codec_fingerprint not in (None, codec.fingerprint):
            raise InputError(
                f"tokenizer_config.json is of a codec with the fingerprint {codec_fingerprint[:16]}, and the folder "
                f"{CODEC_FOLDER} has {codec.spec} with {codec.fingerprint[:16]}. Write both again: `compressed-lm "
                "export-tokenizer`."
            )
        self._codec, self._names = codec, token_names(codec)
        self._ids_of_names = {name: i for i, name in enumerate(self._names)}
        special = SpecialTokens.of(codec)
        self._added_tokens_decoder = {
            i: AddedToken(name, special=True, normalized=False) for i, name in special.by_id.items()
        }
        known = dict(codec_spec=codec.spec, codec_fingerprint=codec.fingerprint, errors=errors, auto_map=AUTO_MAP)
        super().__init__(**settings(codec) | options | known)
        self.errors, self.codec_fingerprint = errors, codec.fingerprint

    @property
    def codec(self) -> codecs.Codec:
        """The codec."""
        return self._codec

    @property
    def vocab_size(self) -> int:
        """Number of ids of the codec, without special tokens after them."""
        return self._codec.vocab_size

    def get_vocab(self) -> dict[str, int]:
        """Returns the ids by name, special and added tokens included."""
        return self._ids_of_names | self._added_tokens_encoder

    def _convert_token_to_id(self, token: str) -> int | None:
        return self._ids_of_names.get(token)

    def _convert_id_to_token(self, index: int) -> str:
        return self._names[index] if 0 <= index < len(self._names) else ""

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return [self._names[i] for i in self._codec.encode(utf8(text, self._codec.spec)).tolist()]

    def _encode_plus(  # type: ignore[override]
        self,
        text: Any,
        text_pair: Any = None,
        *,
        return_offsets_mapping: bool = False,
        is_split_into_words: bool = False,
        split_special_tokens: bool | None = None,
        return_tensors: Any = None,
        **kwargs: Any,
    ) -> BatchEncoding:
        """Encodes all texts of a call together; the base class truncates and pads.

        For offsets, it gets the place of each token in this call instead of the id.
        """
        if kwargs.get("sanitize_control_tokens"):  # text of a chat with marks, which the base class resolves
            return super()._encode_plus(text, text_pair, return_tensors=return_tensors, **kwargs)
        if is_split_into_words:
            raise InputError(
                f"{self._codec.spec} was given words (is_split_into_words); text was expected, since the spaces "
                "between words are tokens, too. Pass the text."
            )
        if isinstance(text, list | tuple) and not text:  # which the base class refuses
            return BatchEncoding({name: [] for name in self.model_input_names}, tensor_type=return_tensors)
        split = self.split_special_tokens if split_special_tokens is None else split_special_tokens
        texts = [*_texts(text), *_texts(text_pair)]
        places: list[tuple[int, tuple[int, int]]] = []
        ids = self._ids(texts, as_text=split, places=places if return_offsets_mapping else None)
        found = super()._encode_plus(_replaced(text, ids), _replaced(text_pair, ids), **kwargs)
        if return_offsets_mapping:
            _resolve(found, places)
        several = isinstance(found["input_ids"][0], list) if found["input_ids"] else isinstance(text, list | tuple)
        return BatchEncoding(dict(found), tensor_type=return_tensors, prepend_batch_axis=not several)

    def _ids(
        self, texts: Sequence[str], *, as_text: bool, places: list[tuple[int, tuple[int, int]]] | None
    ) -> dict[str, list[int]]:
        """Returns the ids of each text.

        Args:
            texts: the texts.
            as_text: whether added and special tokens in a text are text.
            places: None; or a list to which the id and the offsets of each token are appended. Then `_PLACE` and the
                place in this list are returned for each token.
        """
        known = self._added_tokens_encoder
        parts = {text: [text] if as_text else self.tokens_trie.split(text) for text in texts}
        plain = list(dict.fromkeys(part for own in parts.values() for part in own if as_text or part not in known))
        encoded = dict(zip(plain, self._codec.encode_batch([utf8(p, self._codec.spec) for p in plain]), strict=True))
        if places is None:
            return {
                text: [i for part in own for i in (encoded[part].tolist() if part in encoded else [known[part]])]
                for text, own in parts.items()
            }
        found: dict[str, list[int]] = {}
        for text, own in parts.items():
            first, start = len(places), 0
            for part in own:
                ids = encoded[part] if part in encoded else None
                if ids is None:
                    places.append((known[part], (start, start + len(part))))
                else:
                    lengths = self._codec.token_byte_lengths(ids)
                    if lengths is None:
                        raise InputError(
                            f"{self._codec.spec} was asked for offsets (return_offsets_mapping), but its tokens have "
                            "no text of their own. Leave the option out, or use another codec, such as eiw16-en."
                        )
                    offsets = character_offsets(part, lengths)
                    places += [(i, (start + a, start + b)) for i, (a, b) in zip(ids.tolist(), offsets, strict=True)]
                start += len(part)
            found[text] = [_PLACE + place for place in range(first, len(places))]
        return found

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Returns the text of tokens, special tokens included."""
        ids = [self._convert_token_to_id_with_added_voc(token) for token in tokens]
        return self._decode([i for i in ids if i is not None])

    def _decode(
        self,
        token_ids: int | list[int],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **kwargs: Any,
    ) -> str:
        ids = token_ids if isinstance(token_ids, list) else [token_ids]
        left_out = set(self.all_special_ids) if skip_special_tokens else set()
        parts: list[str] = []
        run: list[int] = []
        for i in [*ids, None]:  # None ends the last run
            if i is not None and i not in self._added_tokens_decoder:
                if 0 <= i < self._codec.vocab_size:  # models have more rows than there are ids, labels have -100
                    run.append(i)
                continue
            if run:
                parts.append(self._text(run))
                run = []
            if i is not None and i not in left_out:
                parts.append(self._added_tokens_decoder[i].content)
        text = "".join(parts)
        clean = (
            self.clean_up_tokenization_spaces if clean_up_tokenization_spaces is None else clean_up_tokenization_spaces
        )
        return self.clean_up_tokenization(text) if clean else text

    def _text(self, ids: list[int]) -> str:
        try:
            data = self._codec.decode(np.array(ids))
        except CorruptStream:  # not a complete document
            data = self._codec.decode_partial(np.array(ids))
        return data.decode("utf-8", self.errors)

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Writes the codec and how to load it; returns the paths. The files have no prefix."""
        del filename_prefix
        folder, beside = pathlib.Path(save_directory), code_and_readme(self._codec)
        codecs.save(self._codec, folder / CODEC_FOLDER)
        for name, content in beside.items():
            write_atomic(folder / name, content)
        stored = [f"{CODEC_FOLDER}/{name}" for name in codecs.registry.saved(self._codec)]
        return tuple(str(folder / name) for name in [*stored, *beside])

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoTokenizer") -> None:
        """Does nothing: a saved tokenizer refers to this module, which is not copied into its folder."""


class CompressedStreamer(BaseStreamer):
    """Streamer for `model.generate` that is exact for all codecs.

    `transformers.TextStreamer` decodes every line by itself, which is right for codecs whose tokens are strings, such
    as `eiw16-en`, and wrong where a token depends on those before it, as in `pieces` and `ac`.
    """

    def __init__(self, tokenizer: CompressedTokenizer, *, skip_prompt: bool = False, write: Any = None) -> None:
        """Makes the streamer.

        Args:
            tokenizer: the tokenizer.
            skip_prompt: whether the prompt is left out.
            write: called with each new part of the text; None to print it.
        """
        self._tokenizer, self._skip_prompt = tokenizer, skip_prompt
        self._write = write or (lambda text: print(text, end="", flush=True))
        self._decoder, self._begun = StreamDecoder(tokenizer.codec), False

    def put(self, value: Any) -> None:
        """Takes ids of one sequence, int[T] or int[1, T]; the first call has the prompt."""
        is_prompt, self._begun = not self._begun, True
        if getattr(value, "ndim", 1) > 1 and len(value) != 1:
            raise InputError(
                f"{len(value)} sequences were given to a streamer; one was expected. Generate one at a time."
            )
        if is_prompt and self._skip_prompt:
            return
        for i in value.reshape(-1).tolist():
            if i < self._tokenizer.vocab_size and i not in self._tokenizer.added_tokens_decoder:
                self._write(self._decoder.feed([i]))
            else:  # the end of a document
                self._finish()

    def end(self) -> None:
        """Writes what is left."""
        self._finish()
        self._begun = False

    def _finish(self) -> None:
        self._write(self._decoder.close())
        self._decoder = StreamDecoder(self._tokenizer.codec)


class _Config(PreTrainedConfig):
    """Type by which AutoTokenizer lists the class; no model has it."""

    model_type = "compressed_lm_tokenizer"


def _texts(given: Any) -> Iterable[str]:
    """Yields the texts of an argument of a call: a text, or a list of texts, pairs of them and sequences of ids."""
    if isinstance(given, str):
        yield given
    elif isinstance(given, list | tuple):
        for member in given:
            yield from _texts(member)


def _replaced(given: Any, ids: dict[str, list[int]]) -> Any:
    """Returns an argument of a call with ids in place of texts; an empty text stays, as the base class expects."""
    if isinstance(given, str):
        return ids[given] or given
    return type(given)(_replaced(member, ids) for member in given) if isinstance(given, list | tuple) else given


def _resolve(found: BatchEncoding, places: list[tuple[int, tuple[int, int]]]) -> None:
    """Replaces places by ids, and adds their offsets; special tokens and padding have (0, 0)."""

    def resolved(value: Any, part: int) -> Any:
        if isinstance(value, list):
            return [resolved(member, part) for member in value]
        return places[value - _PLACE][part] if value >= _PLACE else (value, (0, 0))[part]

    rows = found["input_ids"]
    found["offset_mapping"] = resolved(rows, 1)
    for name in ("input_ids", "overflowing_tokens"):
        if name in found:
            found[name] = resolved(found[name], 0)


AutoTokenizer.register(_Config, tokenizer_class=CompressedTokenizer, exist_ok=True)
