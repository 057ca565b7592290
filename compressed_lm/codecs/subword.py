"""What codecs share whose ids come from a subword tokenizer of another library."""

import itertools
import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from compressed_lm.codecs.checked import CheckedCodec
from compressed_lm.errors import InputError

INVALID = "\udc80-\udcff"
"""Surrogates that stand for the bytes of invalid UTF-8, as a range of a regular expression."""


class SubwordCodec(CheckedCodec):
    """Lossless ids for all byte strings: those of the tokenizer where they stand for the text, else those of its bytes.

    A family calls `_set_pieces` and defines `_tokenize`.
    """

    flops_per_byte = m1_flops_per_byte = 0.0
    window_bits = m1_hash = None
    restart_tokens = 1

    _refused = INVALID
    """Characters that are never given to the tokenizer, as ranges of a regular expression."""

    def _tokenize(self, texts: list[str]) -> Iterable[Sequence[int]]:
        """The tokenizer's ids of each text."""
        raise NotImplementedError

    def _set_pieces(self, pieces: list[bytes], byte_ids: Sequence[int], eod: int | None, source: str) -> None:
        """Takes the bytes that each id stands for and the id of each single byte.

        Args:
            pieces: bytes by id; empty for ids that stand for no text.
            byte_ids: 256 ids.
            eod: the id inside the vocabulary that ends documents, if there is one.
            source: where the pieces are from, for messages.

        Raises:
            InputError: a byte has no id of its own, or text may have the id that ends documents.
        """
        for byte, i in enumerate(byte_ids):
            if i == eod:
                raise InputError(
                    f"{source} has the id {i} for the byte {byte} ({bytes([byte])!r}), and {i} was to end documents "
                    "(--eod, or eos_token_id in config.json). Give the id of a token that stands for no text."
                )
            if pieces[i] != bytes([byte]):
                raise InputError(
                    f"{source} has the id {i} for the byte {byte} ({bytes([byte])!r}) and for something else as well, "
                    "so not every byte string would come back. Copy it again, or use another codec."
                )
        self._pieces, self._byte_ids = list(pieces), np.array(byte_ids, np.int32)
        if eod is not None:
            self._pieces[eod] = b""  # ids with it in them are refused, and text never has it
        self._piece_lengths = np.array([len(piece) for piece in self._pieces], np.int32)
        self._pattern = re.compile(f"[{self._refused}]+|[^{self._refused}]+")
        self._taken = re.compile(f"[^{self._refused}]")

    def _encode_documents(self, documents: Sequence[bytes]) -> list[np.ndarray]:
        return encode_runs(documents, self._pattern, self._encode_runs)

    def _encode_runs(self, runs: list[str]) -> Iterable[Sequence[int]]:
        taken = [self._taken.match(run) is not None for run in runs]
        found = iter(self._tokenize(list(itertools.compress(runs, taken))))
        for run, is_text in zip(runs, taken, strict=True):
            raw, ids = run.encode("utf-8", "surrogateescape"), next(found) if is_text else []
            intact = b"".join([self._pieces[i] for i in ids]) == raw
            yield ids if intact else self._byte_ids[np.frombuffer(raw, np.uint8)].tolist()

    def _decode_sequences(self, sequences: Sequence[np.ndarray]) -> list[bytes]:
        return [b"".join([self._pieces[i] for i in ids]) for ids in sequences]

    def _lengths(self, ids: np.ndarray) -> np.ndarray:
        return self._piece_lengths[ids]


def encode_runs(
    documents: Sequence[bytes], pattern: re.Pattern, encode: Callable[[list[str]], Iterable[Sequence[int]]]
) -> list[np.ndarray]:
    """The ids of each document, run by run.

    A tokenizer takes some microseconds for a call, which is long where every other byte is invalid, so each run that
    differs is encoded once.

    Args:
        documents: byte strings; surrogates stand for what is no UTF-8.
        pattern: matches one run after another.
        encode: the ids of each of some runs.

    Returns:
        int32[T] for each document.
    """
    runs = [pattern.findall(document.decode("utf-8", "surrogateescape")) for document in documents]
    different = list(dict.fromkeys(itertools.chain.from_iterable(runs)))
    ids = dict(zip(different, encode(different), strict=True))
    return [np.fromiter(itertools.chain.from_iterable(map(ids.__getitem__, own)), np.int32) for own in runs]
