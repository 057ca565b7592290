"""Other tokenizers, trained on the same text, with one interface.

SentencePiece with a unigram model of 32,000 pieces; byte-level BPE with 65,536 entries, trained and run by Hugging Face
`tokenizers`; and the same merges run by `tiktoken`.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Sequence

import sentencepiece
import tiktoken
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

UNIGRAM_PIECES = 32_000
BPE_ENTRIES = 65_536
GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""


@dataclasses.dataclass(frozen=True)
class Peer:
    """Tokenizer on one thread.

    Attributes:
        name: name in tables.
        encoders: functions from texts to ids, by name.
        decoders: functions from ids to texts, by name.
    """

    name: str
    encoders: dict[str, Callable[[Sequence[str]], list]]
    decoders: dict[str, Callable[[list], list[str]]]


def load(documents: Sequence[str], folder: pathlib.Path) -> list[Peer]:
    """Returns the peers; trains them on the documents unless the folder already has them."""
    text_hash = hashlib.sha256("\0".join(documents).encode()).hexdigest()[:16]
    folder = folder / text_hash
    folder.mkdir(parents=True, exist_ok=True)
    unigram, bpe = folder / "unigram.model", folder / "bpe.json"
    if not unigram.exists():
        train_unigram(documents, unigram)
    if not bpe.exists():
        train_bpe(documents, bpe)
    return [sentencepiece_peer(unigram), tiktoken_peer(bpe), tokenizers_peer(bpe)]


def train_unigram(documents: Sequence[str], path: pathlib.Path) -> None:
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(line for document in documents for line in document.splitlines() if line.strip()),
            model_writer=file,
            model_type="unigram",
            vocab_size=UNIGRAM_PIECES,
            hard_vocab_limit=False,  # a small text has fewer pieces
            byte_fallback=True,
            max_sentence_length=1 << 16,
            minloglevel=2,
        )


def train_bpe(documents: Sequence[str], path: pathlib.Path) -> None:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=BPE_ENTRIES, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(documents, trainer)
    tokenizer.save(str(path))


def sentencepiece_peer(path: pathlib.Path) -> Peer:
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return Peer(
        f"SentencePiece unigram {model.vocab_size():,}",
        {
            "one by one": lambda texts: [model.encode(text) for text in texts],
            "batch": lambda texts: model.encode(list(texts), num_threads=1),
        },
        {
            "one by one": lambda ids: [model.decode(i) for i in ids],
            "batch": lambda ids: model.decode(ids, num_threads=1),
        },
    )


def tokenizers_peer(path: pathlib.Path) -> Peer:
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    return Peer(
        f"Hugging Face BPE {tokenizer.get_vocab_size():,}",
        {
            "one by one": lambda texts: [tokenizer.encode(text).ids for text in texts],
            "batch": lambda texts: [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts))],
        },
        {"one by one": lambda ids: [tokenizer.decode(i) for i in ids], "batch": tokenizer.decode_batch},
    )


def tiktoken_peer(path: pathlib.Path) -> Peer:
    byte_of = _bytes_by_sign()
    vocabulary = json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
    ranks = {bytes(byte_of[sign] for sign in entry): i for entry, i in vocabulary.items()}
    encoding = tiktoken.Encoding("bpe", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={})
    return Peer(
        f"tiktoken BPE {encoding.n_vocab:,}",
        {
            "one by one": lambda texts: [encoding.encode_ordinary(text) for text in texts],
            "batch": lambda texts: encoding.encode_ordinary_batch(list(texts), num_threads=1),
        },
        {
            "one by one": lambda ids: [encoding.decode(i) for i in ids],
            "batch": lambda ids: encoding.decode_batch(ids, num_threads=1),
        },
    )


def _bytes_by_sign() -> dict[str, int]:
    """Returns the byte of each character of a byte-level vocabulary.

    Printable bytes are their own character; the others are the characters from U+0100, in order.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
