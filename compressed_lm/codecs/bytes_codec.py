"""Identity codec: one id per byte."""

import hashlib
from collections.abc import Sequence

import numpy as np

from compressed_lm.codecs.checked import CheckedCodec


class Bytes(CheckedCodec):
    """Each byte is its own id (V = 256), as in ByT5. M1 is trained on this codec."""

    name = example = "bytes"
    summary = "the text itself, one token per byte"
    color, marker = "#808080", "o"
    task_specs = ("bytes",)
    spec = "bytes"
    vocab_size = 256
    fingerprint = hashlib.sha256(b"compressed_lm bytes 1").hexdigest()
    flops_per_byte = m1_flops_per_byte = 0.0
    window_bits = m1_hash = None
    restart_tokens = 1

    @classmethod
    def build(cls) -> "Bytes":
        return cls()

    def files(self) -> dict[str, bytes]:
        return {}

    @classmethod
    def from_files(cls, files: dict[str, bytes]) -> "Bytes":
        return cls()

    def _encode_documents(self, documents: Sequence[bytes]) -> list[np.ndarray]:
        return [np.frombuffer(document, np.uint8).astype(np.int32) for document in documents]

    def _decode_sequences(self, sequences: Sequence[np.ndarray]) -> list[bytes]:
        return [ids.astype(np.uint8).tobytes() for ids in sequences]

    def _lengths(self, ids: np.ndarray) -> np.ndarray:
        return np.ones(len(ids), np.int32)
