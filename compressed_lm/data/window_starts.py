"""Text seen from the starts of a codec's windows: what a byte model that serves windows should be trained on."""

import hashlib

import numpy as np

from compressed_lm.codecs.protocol import Codec
from compressed_lm.data.store import TokenStore
from compressed_lm.errors import InputError


class WindowStarts:
    """Rows of raw bytes that begin where a window begins, for `training.train` in the place of a token store.

    The first byte of a window is not a random byte of the text: it comes after what the window before could not hold.

    Attributes:
        codec_spec, codec_fingerprint, vocab_size, eod_id: of the codec `bytes`, as the store has them.
        fingerprint: of the store and the windows.
        n_documents, n_tokens, n_bytes: of the text in hand; a token is a byte.
        bytes_per_token: of the windows in it.
    """

    def __init__(self, store: TokenStore, codec: Codec, *, max_bytes: int):
        """Parses documents taken evenly from a store.

        Args:
            store: a store of the codec `bytes`.
            codec: one whose tokens have lengths (`token_byte_lengths`).
            max_bytes: about how much text to hold in memory.
        """
        if store.codec_spec != "bytes":
            raise InputError(
                f"Windows are looked for in a store of raw text; {store.path} has the codec {store.codec_spec}. Give "
                "the store that M1 was trained on (`tokens` in its folder)."
            )
        self.codec_spec, self.codec_fingerprint = store.codec_spec, store.codec_fingerprint
        self.vocab_size, self.eod_id = store.vocab_size, store.eod_id
        self.fingerprint = hashlib.sha256(
            f"window starts {store.fingerprint} {codec.fingerprint} {max_bytes}".encode()
        ).hexdigest()
        stride = max(1, -(-store.n_bytes // max_bytes))
        texts = [store.document(i).ids.astype(np.uint8).tobytes() for i in range(0, len(store), stride)]
        tokens = codec.encode_batch(texts)
        lengths = [np.append(codec.token_byte_lengths(t), 1) for t in tokens]  # the end of a document is one more
        self._starts = np.concatenate([[0], np.cumsum(np.concatenate(lengths), dtype=np.int64)])[:-1]
        parts = [np.append(np.frombuffer(t, np.uint8), np.uint16(self.eod_id)) for t in texts]
        self._stream = np.concatenate(parts)
        self.n_documents, self.n_bytes = len(texts), sum(map(len, texts))
        self.n_tokens = self.n_bytes
        self.bytes_per_token = self.n_bytes / sum(map(len, tokens))

    def rows(self, seq_len: int) -> "_Rows":
        """Random access to rows int32[seq_len]."""
        return _Rows(self._stream, self._starts[self._starts + seq_len <= len(self._stream)], seq_len)


class _Rows:
    def __init__(self, stream: np.ndarray, starts: np.ndarray, seq_len: int):
        self._stream, self._starts, self._seq_len = stream, starts, seq_len

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> np.ndarray:
        start = self._starts[index]
        return self._stream[start : start + self._seq_len].astype(np.int32)
