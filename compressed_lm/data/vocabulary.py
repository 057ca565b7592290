"""Seqio vocabulary of a codec."""

import re
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from compressed_lm.codecs.checked import checked_bytes, checked_ids
from compressed_lm.codecs.protocol import Codec
from compressed_lm.errors import InputError

PAD_ID = 0
EOS_ID = 1
N_RESERVED = 2
_ESCAPED = re.compile("[^\ud800-\udc7f\udd00-\udfff]*")
"""Texts whose only surrogates are escapes of invalid UTF-8 bytes."""


class CodecVocabulary(seqio.Vocabulary):
    """Ids of a codec plus two: 0 is padding, 1 is end-of-sequence, and the codec's id `i` is `i + 2`.

    It is lossless for every byte string: `decode_tf` returns the bytes, and `decode` a `str` in which invalid UTF-8
    bytes are surrogate escapes, as in Python's file names. `encode` accepts such strings, and refuses other lone
    surrogates. It pickles: with the function that loads its codec if there is one, otherwise with the codec.
    """

    def __init__(self, codec: Codec | Callable[[], Codec]) -> None:
        """Wraps a codec, or a function that loads one at the first use."""
        super().__init__()
        self._lock = threading.Lock()  # tf.data maps in several threads
        self._codec: Codec | None = None if callable(codec) else codec
        self._load: Callable[[], Codec] | None = codec if callable(codec) else None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_lock": None, "_codec": None if self._load else self._codec}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    @property
    def codec(self) -> Codec:
        with self._lock:
            if self._codec is None:
                assert self._load is not None
                self._codec = self._load()
            return self._codec

    @property
    def eos_id(self) -> int:
        return EOS_ID

    @property
    def bos_id(self) -> int:
        return PAD_ID

    @property
    def unk_id(self) -> None:
        return None  # every byte string has ids

    @property
    def _base_vocab_size(self) -> int:
        return self.codec.vocab_size + N_RESERVED

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CodecVocabulary) and self.codec.fingerprint == other.codec.fingerprint

    def __repr__(self) -> str:
        return f"CodecVocabulary({self._codec.spec if self._codec else 'not loaded'})"

    def encode_documents(self, documents: Sequence[bytes]) -> list[np.ndarray]:
        """Returns the ids of each document, int32[T], without end-of-sequence, computed together."""
        return [np.asarray(ids, np.int32) + N_RESERVED for ids in self.codec.encode_batch(documents)]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Returns the document up to the first end-of-sequence; padding is skipped.

        Raises:
            InputError: these are not ids of the vocabulary.
            CorruptStream: the codec detected that they were truncated or changed.
        """
        ids = checked_ids(ids, self.vocab_size, repr(self))
        end = np.flatnonzero(ids == EOS_ID)
        ids = ids[: end[0]] if end.size else ids
        return self.codec.decode(ids[ids >= N_RESERVED] - N_RESERVED)

    def _encode(self, s: str | bytes) -> list[int]:
        return self.encode_documents([_document(s)])[0].tolist()

    def _decode(self, ids: Iterable[int]) -> str:
        return self.decode_bytes(ids).decode("utf-8", "surrogateescape")

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        # A vector with one element, since NumPy passes a scalar string in more than one type.
        ids = tf.numpy_function(
            lambda documents: self.encode_documents(documents.tolist())[0], [tf.reshape(s, [1])], tf.int32
        )
        ids.set_shape([None])
        return ids

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        def decode(rows: np.ndarray) -> np.ndarray:
            flat = [self.decode_bytes(row) for row in rows.reshape(-1, rows.shape[-1])]
            return np.array(flat, object).reshape(rows.shape[:-1])

        text = tf.numpy_function(decode, [ids], tf.string)
        text.set_shape(ids.shape[:-1])
        return text


def _document(s: str | bytes) -> bytes:
    """Returns the bytes of a text. Raises InputError for lone surrogates that are not escapes of bytes."""
    if not isinstance(s, str):
        return checked_bytes(s, "CodecVocabulary")
    try:
        return s.encode()
    except UnicodeEncodeError as error:
        document = s.encode("utf-8", "surrogateescape") if _ESCAPED.fullmatch(s) else b""
        if document.decode("utf-8", "surrogateescape") == s:
            return document
        raise InputError(
            f"The text has the lone surrogate {s[error.start]!r} at index {error.start}, which is not a character and "
            'has no UTF-8 bytes. Remove it, or pass bytes: text.encode("utf-8", "surrogatepass").'
        ) from None
