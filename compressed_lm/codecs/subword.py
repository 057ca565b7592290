"""Base class of codecs whose ids come from a subword tokenizer of another library."""

import abc
import itertools
import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from compressed_lm.codecs.checked import CheckedCodec
from compressed_lm.errors import InputError

INVALID = "\udc80-\udcff"
"""Surrogate escapes of invalid UTF-8 bytes, as a range of a regular expression."""

SETTINGS_FILE = "tokenizer_config.json"
"""File of the names of special tokens and the chat template; not part of a codec's fingerprint."""


class SubwordCodec(CheckedCodec):
    """Lossless ids for all byte strings: the tokenizer's ids if they decode to the text, otherwise ids of its bytes.

    A family calls `_set_pieces` and defines `_tokenize`.
    """

    flops_per_byte = m1_flops_per_byte = 0.0
    window_bits = m1_hash = None
    restart_tokens: int | None = 1

    _refused = INVALID
    """Characters that are not passed to the tokenizer, as ranges of a regular expression."""

    @abc.abstractmethod
    def _tokenize(self, texts: list[str]) -> Iterable[Sequence[int]]:
        """The tokenizer's ids of each text."""

    def _set_pieces(self, pieces: list[bytes], byte_ids: Sequence[int | None], eod: int | None, source: str) -> None:
        """Sets the bytes of each id and the id of each single byte.

        Args:
            pieces: bytes by id; empty for ids without text.
            byte_ids: 256 ids; None for a byte without a token, if the family replaces `_raw_ids`.
            eod: the end-of-document id inside the vocabulary, if there is one.
            source: source of the pieces, for messages.

        Raises:
            InputError: a byte has no id of its own, or text may have the end-of-document id.
        """
        for byte, i in enumerate(byte_ids):
            if i is None:
                continue
            if i == eod:
                raise InputError(
                    f"{source} has the id {i} for the byte {byte} ({bytes([byte])!r}), but {i} was given as the "
                    "end-of-document id (--eod, or eos_token_id in config.json). Give the id of a token without text."
                )
            if pieces[i] != bytes([byte]):
                raise InputError(
                    f"{source} has the id {i} for the byte {byte} ({bytes([byte])!r}) and for something else, so it is "
                    "not lossless. Copy it again, or use another codec."
                )
        self._pieces, self._byte_ids = list(pieces), np.array([-1 if i is None else i for i in byte_ids], np.int32)
        if eod is not None:
            self._pieces[eod] = b""  # text is never encoded to it
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
            yield ids if self._is_intact(ids, raw) else self._fallback(run, raw)

    def _is_intact(self, ids: Sequence[int], raw: bytes) -> bool:
        return b"".join([self._pieces[i] for i in ids]) == raw

    def _raw_ids(self, raw: bytes) -> list[int]:
        """Returns the ids of single bytes."""
        return self._byte_ids[np.frombuffer(raw, np.uint8)].tolist()

    def _fallback(self, run: str, raw: bytes) -> list[int]:
        """Returns the ids of a run that the tokenizer does not take, or that its ids do not decode to."""
        del run
        return self._raw_ids(raw)

    def _decode_sequences(self, sequences: Sequence[np.ndarray]) -> list[bytes]:
        return [b"".join([self._pieces[i] for i in ids]) for ids in sequences]

    def _lengths(self, ids: np.ndarray) -> np.ndarray:
        return self._piece_lengths[ids]


def encode_runs(
    documents: Sequence[bytes], pattern: re.Pattern, encode: Callable[[list[str]], Iterable[Sequence[int]]]
) -> list[np.ndarray]:
    """Returns the ids of each document, run by run.

    Each distinct run is encoded once: a call of a tokenizer takes some microseconds, which is slow if every second byte
    is invalid.

    Args:
        documents: byte strings.
        pattern: matches one run after another in a text whose invalid bytes are surrogate escapes.
        encode: returns the ids of each run.

    Returns:
        int32[T] for each document.
    """
    runs = [pattern.findall(document.decode("utf-8", "surrogateescape")) for document in documents]
    different = list(dict.fromkeys(itertools.chain.from_iterable(runs)))
    ids = dict(zip(different, encode(different), strict=True))
    return [np.fromiter(itertools.chain.from_iterable(map(ids.__getitem__, own)), np.int32) for own in runs]
