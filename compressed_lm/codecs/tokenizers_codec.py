"""Lossless BPE of the package `tokenizers`, from a `tokenizer.json` or trained."""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from compressed_lm.codecs import byte_escape, tokenizer_json
from compressed_lm.codecs.subword import INVALID, SETTINGS_FILE, SubwordCodec
from compressed_lm.codecs.tokenizer_json import FILE
from compressed_lm.errors import InputError
from compressed_lm.settings import Limits

MIN_V, MAX_V = 257, 1 << 24


class BPECodec(SubwordCodec):
    """Base class of the codecs of a `tokenizer.json`."""

    def __init__(
        self, *, v: int, eod: int, tokenizer: bytes, missing_bytes: str = "none", settings: bytes | None = None
    ) -> None:
        """Loads a tokenizer.

        Args:
            v: number of ids, special tokens included; 0 for any.
            eod: id of end-of-document, inside the vocabulary.
            tokenizer: content of tokenizer.json.
            missing_bytes: one of `byte_escape.MISSING_BYTES`, for a vocabulary without a token for each byte.
            settings: content of tokenizer_config.json.

        Raises:
            InputError: it is not a lossless BPE, it has other ids than requested, or the package `tokenizers` is not
                installed.
        """
        tokenizers = _package()
        plain = tokenizer_json.plain(tokenizer, eod)
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(plain.content))
        except BaseException as error:  # the package raises `Exception` itself, or a PanicException beside it
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise InputError(f"{FILE} cannot be read ({error}). Copy it again.") from error
        self._content, self._settings = tokenizer, settings
        self._tokenizer.encode_special_tokens = True  # as text
        pieces = tokenizer_json.pieces(self._tokenizer, plain.kind)
        self.vocab_size, self.eod_id = len(pieces), eod
        if v not in (0, self.vocab_size) or not 0 <= eod < self.vocab_size:
            raise InputError(
                f"{FILE} has the ids 0 to {self.vocab_size - 1}, and tokenizers(eod={eod},v={v}) was requested. Give "
                "the tokenizer of the model, and its end-of-text id as eod."
            )
        if plain.kind == tokenizer_json.BYTE_FALLBACK:
            self._refused = f"{tokenizer_json.SPACE}{INVALID}"
        byte_ids = [self._tokenizer.token_to_id(token) for token in tokenizer_json.byte_tokens(plain.kind)]
        missing = [byte for byte, i in enumerate(byte_ids) if i is None]
        escape = self._escape_for(missing, missing_bytes, byte_ids)
        self._missing, self._escape = bytes(missing), escape
        if escape:
            self.restart_tokens = None  # a byte may be three tokens
        self._set_pieces(pieces, byte_ids, eod, FILE)
        handling = missing_bytes if missing else "none"
        self.spec = f"tokenizers(eod={eod},{f'missing_bytes={handling},' * bool(missing)}v={self.vocab_size})"
        # Version 2 has other ids than 1 for text that looks like certain added tokens.
        rules = f"{2 if plain.changed else 1} {eod} " + (
            f"{handling} {escape.token if escape else ''} " if missing else ""
        )
        self.fingerprint = hashlib.sha256(f"compressed_lm tokenizers {rules}".encode() + tokenizer).hexdigest()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._tokenizer.encode_special_tokens = True  # a tokenizer loses this when it is pickled

    def files(self) -> dict[str, bytes]:
        return {FILE: self._content} | ({} if self._settings is None else {SETTINGS_FILE: self._settings})

    @property
    def settings(self) -> bytes | None:
        """Content of tokenizer_config.json, if the codec has one."""
        return self._settings

    @property
    def is_byte_level(self) -> bool:
        """Whether characters represent bytes, as in GPT-2."""
        return self._refused == INVALID

    @property
    def missing(self) -> bytes:
        """The bytes without a token."""
        return self._missing

    def token(self, i: int) -> str:
        """Returns the token of an id in tokenizer.json, such as `<|endoftext|>`."""
        return self._tokenizer.id_to_token(i)

    def special_tokens(self) -> dict[str, int]:
        """Returns the special tokens and their ids."""
        return {token.content: i for i, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}

    def stripping_tokens(self) -> tuple[frozenset[str], frozenset[str]]:
        """Returns the special tokens that include white space before them, and those that include it after them."""
        added = [token for token in self._tokenizer.get_added_tokens_decoder().values() if token.special]
        return frozenset(t.content for t in added if t.lstrip), frozenset(t.content for t in added if t.rstrip)

    def _escape_for(
        self, missing: list[int], missing_bytes: str, byte_ids: list[int | None]
    ) -> byte_escape.ByteEscape | None:
        """Returns the escape of the missing bytes, or None if they are refused or there are none.

        Raises:
            InputError: bytes are missing and `missing_bytes` does not say what to do, or there can be no escape.
        """
        if missing and missing_bytes not in ("escape", "refuse"):
            raise InputError(
                f"{FILE} has no token for {len(missing)} of the 256 bytes (the first is {min(missing)}), so not every "
                "byte string has ids. Escape these bytes (missing_bytes=escape), refuse text that has them "
                "(missing_bytes=refuse), or use another codec."
            )
        if not missing or missing_bytes == "refuse":
            return None
        digits = [byte_ids[digit] for digit in byte_escape.DIGITS]
        self._lost = byte_escape.lost_characters(missing)
        return byte_escape.choose(self.special_tokens(), digits, self.eod_id, FILE)

    def _tokenize(self, texts: list[str]) -> Iterable[Sequence[int]]:
        return (found.ids for found in self._tokenizer.encode_batch(texts, add_special_tokens=False))

    def _encode_documents(self, documents: Sequence[bytes]) -> list[np.ndarray]:
        if self._missing and not self._escape:
            pattern = re.compile(b"[" + re.escape(self._missing) + b"]")
            for number, document in enumerate(documents):
                if match := pattern.search(document):
                    raise InputError(
                        f"{self.spec} has no token for the byte {match[0][0]} (0x{match[0][0]:02x}), which is at "
                        f"position {match.start()} of document {number}. Remove it, or import the tokenizer with "
                        "missing_bytes=escape."
                    )
        return super()._encode_documents(documents)

    def _raw_ids(self, raw: bytes) -> list[int]:
        if not self._escape:
            return super()._raw_ids(raw)
        table, missing = self._byte_ids.tolist(), self._missing
        return [i for byte in raw for i in (self._escape.ids(byte) if byte in missing else (table[byte],))]

    def _fallback(self, run: str, raw: bytes) -> list[int]:
        """Returns the ids of a run that the tokenizer does not keep: escapes only for characters without tokens."""
        parts = self._lost.findall(run) if self._escape else []
        if len(parts) < 2:
            return super()._fallback(run, raw)
        ids: list[int] = []
        for part, found in zip(parts, self._tokenize(parts), strict=True):
            own = part.encode()
            ids += found if self._is_intact(found, own) else self._raw_ids(own)
        return ids

    def _decode_sequences(self, sequences: Sequence[np.ndarray]) -> list[bytes]:
        if not self._escape:
            return super()._decode_sequences(sequences)
        return [self._escape.decode(ids, self._pieces) for ids in sequences]

    def _decode_unfinished(self, ids: np.ndarray) -> bytes:
        n_open = self._escape.n_open(ids) if self._escape else 0
        return self._decode_sequences([ids[: len(ids) - n_open]])[0]

    def _lengths(self, ids: np.ndarray) -> np.ndarray:
        return self._escape.lengths(ids, self._piece_lengths) if self._escape else super()._lengths(ids)


class Tokenizers(BPECodec):
    """Vocabulary that came with a model, such as that of GPT-NeoX, Llama 3 or SmolLM.

    The ids are those that the model was trained on, with three exceptions that make them lossless: bytes of invalid
    UTF-8 get the ids of single bytes, text is not normalised to NFC, and bytes without a token are escaped
    (`byte_escape`). Special tokens have no bytes, and text that looks like one is encoded as text.
    """

    name = "tokenizers"
    summary = "the vocabulary that came with an imported model"
    limits = {"missing_bytes": Limits(choices=byte_escape.MISSING_BYTES)}

    @classmethod
    def build(cls, *, v: int = 0, eod: int = -1, missing_bytes: str = "none", tokenizer: bytes) -> "Tokenizers":
        """Returns the codec of the content of a tokenizer.json."""
        return cls(v=v, eod=eod, tokenizer=tokenizer, missing_bytes=missing_bytes)

    @classmethod
    def from_files(
        cls, files: dict[str, bytes], *, v: int = 0, eod: int = -1, missing_bytes: str = "none"
    ) -> "Tokenizers":
        settings = files.get(SETTINGS_FILE)
        return cls(v=v, eod=eod, tokenizer=files[FILE], missing_bytes=missing_bytes, settings=settings)


class BPE(BPECodec):
    """Byte-level BPE trained on the corpus, with words split by GPT-2's regular expression.

    The last id is end-of-document, as `<|endoftext|>` is in the vocabularies that come with models.
    """

    name = "bpe"
    summary = "subword units of byte-level BPE trained on the corpus"
    example = "bpe(v=4096)"
    limits = {"v": Limits(low=258)}  # 256 bytes, one pair of them, and the end of a document
    color, marker = "#882255", "X"
    task_specs = ("bpe",)

    def __init__(self, *, v: int, tokenizer: bytes) -> None:
        super().__init__(v=v, eod=v - 1, tokenizer=tokenizer)
        self.spec = f"bpe(v={v})"

    @classmethod
    def build(cls, *, v: int = 65536, documents: Iterable[bytes]) -> "BPE":
        """Trains v - 1 pieces on documents; bytes that are not UTF-8 are ignored."""
        if not MIN_V <= v <= MAX_V:
            raise InputError(
                f"bpe(v={v}) was requested; v from {MIN_V} (256 bytes and the end of a document) to {MAX_V} was "
                "expected."
            )
        tokenizers = _package()
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=v - 1, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        )
        tokenizer.train_from_iterator((d.decode("utf-8", "ignore") for d in documents), trainer)
        if tokenizer.get_vocab_size() != v - 1:
            raise InputError(
                f"bpe(v={v}) was requested, and this text gives only {tokenizer.get_vocab_size() + 1} ids. Give more "
                "text or a smaller v."
            )
        tokenizer.add_special_tokens(["<|endoftext|>"])
        return cls(v=v, tokenizer=tokenizer.to_str().encode())

    @classmethod
    def from_files(cls, files: dict[str, bytes], *, v: int = 65536) -> "BPE":
        return cls(v=v, tokenizer=files[FILE])


def _package() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise InputError(
            "The package tokenizers is not installed, and the codecs bpe and tokenizers need it. Install it: pip "
            "install 'compressed_lm[hf]'."
        ) from None
    return tokenizers
