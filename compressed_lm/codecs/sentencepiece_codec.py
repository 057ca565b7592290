"""SentencePiece for arbitrary bytes, lossless."""

import contextlib
import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence

import sentencepiece

from compressed_lm.codecs.sentencepiece_json import varint
from compressed_lm.codecs.subword import INVALID, SETTINGS_FILE, SubwordCodec
from compressed_lm.codecs.tokenizer_json import SPACE
from compressed_lm.errors import InputError
from compressed_lm.settings import Limits

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
MAX_SENTENCE = 4000
MODELS = ("unigram", "bpe")
_AS_IT_IS = b"\x1a\x06\x12\x00\x18\x00\x20\x00"
"""Appended to a model, where the last value of a field takes precedence: no normalisation (field 2 of normalizer_spec),
no space before a text (3), no white space removed (4)."""

_STAND_INS = {"\n": "\ufdd0", "\r": "\ufdd1", "\t": "\ufdd2", "\u2585": "\ufdd3"}
"""Replacements for characters that SentencePiece's trainer loses: it strips line feeds and carriage returns from the
ends of sentences, does not join tabs to other characters, and omits sentences with its sign for unknown text. The
replacements are Unicode noncharacters."""

_TO_TRAINER = str.maketrans({"\x00": "", SPACE: "", **dict.fromkeys(_STAND_INS.values(), ""), **_STAND_INS})
_FROM_TRAINER = {stand_in.encode(): character.encode() for character, stand_in in _STAND_INS.items()}
_FIRST_FIELD = b"\x0a"
"""Tag of field 1 of a protocol buffer, for a type with a length."""


class SentencePiece(SubwordCodec):
    """Unigram or BPE vocabulary with byte fallback, trained on the corpus, without normalisation.

    Line feeds, carriage returns and tabs are learned like all other characters. Text that SentencePiece would change
    (invalid UTF-8, NUL, its own space character) is encoded in byte pieces. An existing model, such as Llama 2's
    tokenizer.model, is used in the same way; this codec does not put a space before every text as Llama 2 does.

    Attributes:
        eod_id: the model's end-of-text id if it has one, otherwise `vocab_size`.
        settings: content of the tokenizer_config.json of a model's tokenizer, not part of the fingerprint; None if
            there is none.
    """

    name = "sentencepiece"
    summary = "subword units of a unigram or BPE model trained on the corpus by SentencePiece"
    example = "sentencepiece(v=4096)"
    limits = {"v": Limits(low=1)}
    color, marker = "#E69F00", "s"
    task_specs = ("sentencepiece",)
    _refused = f"\x00{SPACE}\ufffd{INVALID}"  # NUL, the space character and the replacement character as well

    def __init__(self, *, v: int, content: bytes, model: str = "unigram", settings: bytes | None = None) -> None:
        self._content = content
        self.settings = settings
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(content + _AS_IT_IS)
        except Exception as error:
            raise InputError(
                f"{len(content)} bytes were given as a SentencePiece model, which it is not ({error}). Build "
                "the codec again."
            ) from error
        self.vocab_size = v
        self.spec = f"sentencepiece(v={v})" if model == "unigram" else f"sentencepiece(model={model},v={v})"
        if self._processor.vocab_size() != v:
            raise InputError(
                f"The SentencePiece model has {self._processor.vocab_size()} pieces, and {v} were expected. Build the "
                "codec again."
            )
        byte_ids = [self._processor.piece_to_id(f"<0x{b:02X}>") for b in range(256)]
        if not all(map(self._processor.is_byte, byte_ids)):
            raise InputError(
                "The SentencePiece model has no pieces for single bytes (byte_fallback), so it is not lossless. Use "
                "another codec."
            )
        end = self._processor.eos_id()
        self.eod_id = end if end >= 0 else v
        source = "The SentencePiece model"
        self._set_pieces([self._bytes_of(i) for i in range(v)], byte_ids, end if end >= 0 else None, source)
        self.fingerprint = hashlib.sha256(b"compressed_lm sentencepiece 1" + content).hexdigest()

    def _bytes_of(self, i: int) -> bytes:
        piece = self._processor.id_to_piece(i)
        if self._processor.is_unknown(i) or self._processor.is_control(i):
            return b""
        match = _BYTE_PIECE.fullmatch(piece) if self._processor.is_byte(i) else None
        return bytes([int(match[1], 16)]) if match else piece.replace(SPACE, " ").encode()

    @classmethod
    def of_model(cls, content: bytes, *, settings: bytes | None = None) -> "SentencePiece":
        """Returns the codec of a SentencePiece model of any size, such as the content of a tokenizer.model."""
        processor = sentencepiece.SentencePieceProcessor()
        with contextlib.suppress(RuntimeError):  # `__init__` reports the error
            processor.LoadFromSerializedProto(content)
        return cls(v=processor.vocab_size(), content=content, settings=settings)

    @classmethod
    def build(cls, *, v: int = 4096, model: str = "unigram", documents: Iterable[bytes]) -> "SentencePiece":
        """Trains a model on documents; bytes that are not UTF-8 are ignored.

        Args:
            v: number of pieces.
            model: "unigram" (Kudo 2018) or "bpe".
            documents: the text.
        """
        if model not in MODELS:
            raise InputError(f"model={model} was given; expected one of {', '.join(MODELS)}.")
        sentences = (sentence for document in documents for sentence in _sentences(document.decode("utf-8", "ignore")))
        content = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=sentences,
                model_writer=content,
                model_type=model,
                vocab_size=v,
                byte_fallback=True,
                normalization_rule_name="identity",
                add_dummy_prefix=False,
                remove_extra_whitespaces=False,
                split_by_whitespace=True,
                allow_whitespace_only_pieces=True,
                character_coverage=0.9995,
                max_sentence_length=4 * MAX_SENTENCE,
                bos_id=-1,
                eos_id=-1,
                pad_id=-1,
                num_threads=2,
                minloglevel=2,
            )
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"SentencePiece could not train {v} pieces on this corpus: {error}. Give more text or a smaller v."
            ) from error
        return cls(v=v, model=model, content=_without_stand_ins(content.getvalue()))

    def files(self) -> dict[str, bytes]:
        return {"sentencepiece.model": self._content} | (
            {} if self.settings is None else {SETTINGS_FILE: self.settings}
        )

    @classmethod
    def from_files(cls, files: dict[str, bytes], *, v: int = 4096, model: str = "unigram") -> "SentencePiece":
        return cls(v=v, model=model, content=files["sentencepiece.model"], settings=files.get(SETTINGS_FILE))

    @property
    def is_bpe(self) -> bool:
        """Whether pieces are merged by rank, not chosen by probability."""
        return all(self._processor.get_score(i).is_integer() for i in range(self.vocab_size))

    def token(self, i: int) -> str:
        """Returns the model's token of an id, such as `</s>`."""
        return self._processor.id_to_piece(i)

    def special_tokens(self) -> dict[str, int]:
        """Returns the control tokens and the token for unknown text, with their ids."""
        kinds = self._processor.is_control, self._processor.is_unknown
        return {self.token(i): i for i in range(self.vocab_size) if any(kind(i) for kind in kinds)}

    def _tokenize(self, texts: list[str]) -> Iterable[Sequence[int]]:
        return self._processor.encode(texts)


def _sentences(text: str) -> Iterator[str]:
    """Yields parts of a text for the trainer. They keep line ends, so that pieces may contain them."""
    text = text.translate(_TO_TRAINER)
    return (text[start : start + MAX_SENTENCE] for start in range(0, len(text), MAX_SENTENCE))


def _without_stand_ins(model: bytes) -> bytes:
    """Returns a model in which `_STAND_INS` are replaced by the original characters.

    A model is a protocol buffer whose fields all have a tag, a length and that many bytes. Field 1, repeated, is a
    piece, whose own first field (1) is its text.
    """
    fields: list[bytes] = []
    start = 0
    while start < len(model):
        tag, (content, start) = model[start : start + 1], _field(model, start + 1)
        if tag == _FIRST_FIELD:
            text, rest = _field(content, 1)
            for stand_in, character in _FROM_TRAINER.items():
                text = text.replace(stand_in, character)
            content = _FIRST_FIELD + _varint(len(text)) + text + content[rest:]
        fields += [tag, _varint(len(content)), content]
    return b"".join(fields)


def _field(message: bytes, start: int) -> tuple[bytes, int]:
    """Returns the content of a protocol buffer's field whose length is at `start`, and the field's end."""
    length, start = varint(message, start)
    return message[start : start + length], start + length


def _varint(number: int) -> bytes:
    """Returns a number as a protocol buffer varint: seven bits per byte, lowest first."""
    head = []
    while number > 127:
        head.append(number & 127 | 128)
        number >>= 7
    return bytes([*head, number])
