"""The identity codec: one id a byte."""

import hashlib
from collections.abc import Sequence

import numpy as np

from compressed_lm.codecs.protocol import checked_ids


class Bytes:
    """Each byte is its own id (V = 256), the ByT5 way of reading text. M1 is trained on this codec."""

    name = "bytes"
    spec = "bytes"
    vocab_size = 256
    fingerprint = hashlib.sha256(b"compressed_lm bytes 1").hexdigest()
    flops_per_byte = m1_flops_per_byte = 0.0
    window_bits = m1_hash = None
    restart_tokens = 1

    @classmethod
    def build(cls) -> "Bytes":
        return cls()

    def encode(self, data: bytes) -> np.ndarray:
        return np.frombuffer(data, np.uint8).astype(np.int32)

    def decode(self, ids: np.ndarray) -> bytes:
        ids = checked_ids(ids, self)
        return ids.astype(np.uint8).tobytes()

    decode_partial = decode

    def files(self) -> dict[str, bytes]:
        return {}

    @classmethod
    def from_files(cls, files: dict[str, bytes]) -> "Bytes":
        return cls()

    def encode_batch(self, documents: Sequence[bytes]) -> list[np.ndarray]:
        return [self.encode(document) for document in documents]

    def decode_batch(self, ids: Sequence[np.ndarray]) -> list[bytes]:
        return [self.decode(sequence) for sequence in ids]

    def token_byte_lengths(self, ids: np.ndarray) -> np.ndarray:
        return np.ones(len(ids), np.int32)
