"""Lossless byte-level BPE of the package `tokenizers`, from a `tokenizer.json` or trained."""

import collections
import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

from compressed_lm.codecs.subword import SubwordCodec
from compressed_lm.errors import InputError
from compressed_lm.io import strict_json
from compressed_lm.settings import Limits

FILE = "tokenizer.json"
MIN_V, MAX_V = 257, 1 << 24
_MOST_IDS = 16
"""Largest number of ids per token: some vocabularies have gaps, and each id takes memory."""

_HARMLESS = ("NFC",)
"""Normalisers that change hardly any text; the codec omits them."""


class ByteLevelBPE(SubwordCodec):
    """Base class of the codecs of a `tokenizer.json`."""

    def __init__(self, *, v: int, eod: int, tokenizer: bytes) -> None:
        """Loads a tokenizer.

        Args:
            v: number of ids, special tokens included; 0 for any.
            eod: id of end-of-document, inside the vocabulary.
            tokenizer: content of tokenizer.json.

        Raises:
            InputError: it is not byte-level BPE, it has other ids than requested, or the package `tokenizers` is not
                installed.
        """
        tokenizers = _package()
        plain = json.dumps(_plain(tokenizer))
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(plain)
        except BaseException as error:  # the package raises `Exception` itself, or a PanicException beside it
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise InputError(f"{FILE} cannot be read ({error}). Copy it again.") from error
        self._content = tokenizer
        self._tokenizer.encode_special_tokens = True  # as text
        pieces = _pieces(self._tokenizer)
        self.vocab_size, self.eod_id = len(pieces), eod
        self.spec = f"tokenizers(eod={eod},v={self.vocab_size})"
        if v not in (0, self.vocab_size) or not 0 <= eod < self.vocab_size:
            raise InputError(
                f"{FILE} has the ids 0 to {self.vocab_size - 1}, and tokenizers(eod={eod},v={v}) was requested. Give "
                "the tokenizer of the model, and its end-of-text id as eod."
            )
        symbols = {byte: self._tokenizer.token_to_id(symbol) for symbol, byte in _bytes_of_symbols().items()}
        if lost := [byte for byte, i in symbols.items() if i is None]:
            raise InputError(
                f"{FILE} has no token for {len(lost)} of the 256 bytes (the first is {min(lost)}), so not every byte "
                "string has ids. Use another codec."
            )
        self._set_pieces(pieces, [symbols[byte] for byte in range(256)], eod, FILE)
        self.fingerprint = hashlib.sha256(b"compressed_lm tokenizers 1 %d " % eod + tokenizer).hexdigest()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._tokenizer.encode_special_tokens = True  # a tokenizer loses this when it is pickled

    def files(self) -> dict[str, bytes]:
        return {FILE: self._content}

    def token(self, i: int) -> str:
        """Returns the token of an id in tokenizer.json, such as `<|endoftext|>`."""
        return self._tokenizer.id_to_token(i)

    def _tokenize(self, texts: list[str]) -> Iterable[Sequence[int]]:
        return (found.ids for found in self._tokenizer.encode_batch(texts, add_special_tokens=False))


class Tokenizers(ByteLevelBPE):
    """Vocabulary that came with a model, such as that of GPT-NeoX or Llama 3.

    The ids are those that the model was trained on, with two exceptions that make them lossless: bytes of invalid UTF-8
    get the ids of single bytes, and text is not normalised to NFC. Special tokens have no bytes, and text that looks
    like one is encoded as text.
    """

    name = "tokenizers"
    summary = "the vocabulary that came with an imported model"

    @classmethod
    def build(cls, *, v: int = 0, eod: int = -1, tokenizer: bytes) -> "Tokenizers":
        """Returns the codec of the content of a tokenizer.json."""
        return cls(v=v, eod=eod, tokenizer=tokenizer)

    @classmethod
    def from_files(cls, files: dict[str, bytes], *, v: int = 0, eod: int = -1) -> "Tokenizers":
        return cls(v=v, eod=eod, tokenizer=files[FILE])


class BPE(ByteLevelBPE):
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


_AFFIXES = ("continuing_subword_prefix", "end_of_word_suffix")
_MODEL = {"vocab": dict, "merges": list, "byte_fallback": bool, "fuse_unk": bool, "ignore_merges": bool}


def _package() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise InputError(
            "The package tokenizers is not installed, and the codecs bpe and tokenizers need it. Install it: pip "
            "install 'compressed_lm[hf]'."
        ) from None
    return tokenizers


def _plain(content: bytes) -> dict[str, Any]:
    """Returns the content of a tokenizer.json without the steps that change or add text.

    Raises:
        InputError: it is not byte-level BPE.
    """
    try:
        found = strict_json.parse(content)
        parts = _flat(found["pre_tokenizer"], "pretokenizers")
        problems = [
            f"normalizer {part['type']} (it changes text)"
            for part in _flat(found.get("normalizer"), "normalizers")
            if part["type"] not in _HARMLESS
        ]
        byte_level = [part for part in parts if part["type"] == "ByteLevel"]
        if found["model"]["type"] != "BPE" or not byte_level:
            problems.insert(0, f"{found['model']['type']}{'' if byte_level else ' that is not byte-level'}")
        if any(part.get("add_prefix_space") for part in byte_level):
            problems.append("add_prefix_space (it changes text)")
        problems += [f"{name} (of other kinds of BPE)" for name in _AFFIXES if found["model"].get(name)]
        if wrong := [name for name, kind in _MODEL.items() if not isinstance(found["model"].get(name, kind()), kind)]:
            raise ValueError(f"the {wrong[0]} of its model has a wrong type")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{FILE} cannot be read ({error!r}). Copy it again.") from error
    if problems:
        raise InputError(
            f"{FILE} uses {', '.join(problems)}; the codec tokenizers reads byte-level BPE, which is lossless. If the "
            "model has a tokenizer.model (SentencePiece with byte pieces), put that into the folder."
        )
    # Dropout is random. The decoder is not used: texts are concatenated from the tokens' bytes.
    model = found["model"] | dict(dropout=None) | dict.fromkeys(_AFFIXES)
    unused = dict.fromkeys(("normalizer", "post_processor", "truncation", "padding", "decoder"))
    return found | unused | dict(model=model)


def _flat(part: dict | None, key: str) -> list[dict]:
    if not part:
        return []
    return [flat for inner in part[key] for flat in _flat(inner, key)] if part["type"] == "Sequence" else [part]


def _bytes_of_symbols() -> dict[str, int]:
    """Returns the byte of each character of byte-level BPE (GPT-2): printable bytes represent themselves."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("\xa1"), ord("\xac") + 1), *range(ord("\xae"), 256)]
    others = [byte for byte in range(256) if byte not in kept]
    return {chr(byte): byte for byte in kept} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _pieces(tokenizer: Any) -> list[bytes]:
    """Returns the bytes of each id; none for special tokens and for ids without a token.

    Raises:
        InputError: two tokens have the same id, or there are far more ids than tokens.
    """
    bytes_of, added = _bytes_of_symbols(), tokenizer.get_added_tokens_decoder()
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
    pieces = [b""] * (largest + 1)
    for token, i in vocabulary.items():
        if i in added:
            pieces[i] = b"" if added[i].special else token.encode()
        elif all(c in bytes_of for c in token):
            pieces[i] = bytes(bytes_of[c] for c in token)
    return pieces
