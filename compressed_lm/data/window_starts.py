"""Rows of text that begin at the starts of a codec's windows: training data of a byte model for windows."""

import hashlib

import numpy as np

from compressed_lm.codecs.protocol import Codec
from compressed_lm.data.store import TokenStore
from compressed_lm.errors import InputError


class WindowStarts:
    """Rows of raw bytes that begin at the start of a window, for `training.train` instead of a token store.

    The first byte of a window is not a random byte of the text: it is the byte that the window before could not hold.

    Attributes:
        codec_spec, codec_fingerprint, vocab_size, eod_id: of the codec `bytes`, as in the store.
        fingerprint: fingerprint of the store and the windows.
        n_documents, n_tokens, n_bytes: size of the text in memory; a token is a byte.
        bytes_per_token: bytes per window.
    """

    def __init__(self, store: TokenStore, codec: Codec, *, max_bytes: int) -> None:
        """Encodes documents taken evenly from a store.

        Args:
            store: store of the codec `bytes`.
            codec: codec whose tokens have lengths (`token_byte_lengths`).
            max_bytes: approximate bytes of text in memory.

        Raises:
            InputError: the store has another codec, or the codec's tokens have no lengths.
        """
        if store.codec_spec != "bytes":
            raise InputError(
                f"A store of raw text was expected; {store.path} has the codec {store.codec_spec}. Give the store that "
                "M1 was trained on (`tokens` in its folder)."
            )
        self.codec_spec, self.codec_fingerprint = store.codec_spec, store.codec_fingerprint
        self.vocab_size, self.eod_id = store.vocab_size, store.eod_id
        self.fingerprint = hashlib.sha256(
            f"window starts {store.fingerprint} {codec.fingerprint} {max_bytes}".encode()
        ).hexdigest()
        stride = max(1, -(-store.n_bytes // max_bytes))
        texts = [store.document(i).ids.astype(np.uint8).tobytes() for i in range(0, len(store), stride)]
        tokens = codec.encode_batch(texts)
        lengths = [np.append(_token_lengths(codec, t), 1) for t in tokens]  # the end of a document is one more
        self._starts = np.concatenate([[0], np.cumsum(np.concatenate(lengths), dtype=np.int64)])[:-1]
        parts = [np.append(np.frombuffer(t, np.uint8), np.uint16(self.eod_id)) for t in texts]
        self._stream = np.concatenate(parts)
        self.n_documents, self.n_bytes = len(texts), sum(map(len, texts))
        self.n_tokens = self.n_bytes
        self.bytes_per_token = self.n_bytes / sum(map(len, tokens))

    def rows(self, seq_len: int) -> "_Rows":
        """Returns rows int32[seq_len] with random access."""
        return _Rows(self._stream, self._starts[self._starts + seq_len <= len(self._stream)], seq_len)


def _token_lengths(codec: Codec, ids: np.ndarray) -> np.ndarray:
    lengths = codec.token_byte_lengths(ids)
    if lengths is None:
        raise InputError(f"The tokens of {codec.spec} have no lengths of their own. Give another codec.")
    return lengths


class _Rows:
    def __init__(self, stream: np.ndarray, starts: np.ndarray, seq_len: int) -> None:
        self._stream, self._starts, self._seq_len = stream, starts, seq_len

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> np.ndarray:
        start = self._starts[index]
        return self._stream[start : start + self._seq_len].astype(np.int32)
