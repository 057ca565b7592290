"""DEFLATE as a tokenizer, the way Lester et al. 2024 (section 3.4) use it: zlib at its default level, header and
checksum kept."""

import hashlib
import zlib
from collections.abc import Sequence

import numpy as np

from compressed_lm.codecs.protocol import checked_ids
from compressed_lm.coding import bits
from compressed_lm.coding.range_coder import CorruptStream


class Gzip:
    """zlib streams cut into tokens of log2(V) bits. A stream knows its own end, so the fill of the last token is
    harmless."""

    name = "gzip"
    flops_per_byte = m1_flops_per_byte = 0.0
    window_bits = m1_hash = restart_tokens = None

    def __init__(self, *, v: int = 256):
        self.vocab_size, self._token_bits = v, bits.token_bits(v)
        self.spec = f"gzip(v={v})"
        self.fingerprint = hashlib.sha256(f"compressed_lm gzip 1 {self.spec}".encode()).hexdigest()

    build = classmethod(lambda cls, *, v=256: cls(v=v))

    def files(self) -> dict[str, bytes]:
        return {}

    @classmethod
    def from_files(cls, files: dict[str, bytes], *, v: int = 256) -> "Gzip":
        return cls(v=v)

    def encode(self, data: bytes) -> np.ndarray:
        return bits.repack(np.frombuffer(zlib.compress(data), np.uint8), 8, self._token_bits).astype(np.int32)

    def decode(self, ids: np.ndarray) -> bytes:
        decoder = zlib.decompressobj()
        try:
            data = decoder.decompress(self._stream(ids))
        except zlib.error as error:
            raise CorruptStream(
                f"{len(ids)} ids are no zlib stream ({error}): they were changed. Restore them from their source."
            ) from error
        if not decoder.eof:
            raise CorruptStream(
                f"{len(ids)} ids end after {len(data)} bytes in the middle of a zlib stream: they were "
                "truncated. Restore them from their source."
            )
        return data

    def decode_partial(self, ids: np.ndarray) -> bytes:
        """The bytes that a sequence, complete or not, determines."""
        decoder, data = zlib.decompressobj(), b""
        for byte in self._stream(ids)[: len(ids) * self._token_bits // 8]:
            try:
                data += decoder.decompress(bytes([byte]))
            except zlib.error:
                break
        return data

    def _stream(self, ids) -> bytes:
        ids = checked_ids(ids, self)
        return bits.repack(ids, self._token_bits, 8).astype(np.uint8).tobytes()

    def encode_batch(self, documents: Sequence[bytes]) -> list[np.ndarray]:
        return [self.encode(document) for document in documents]

    def decode_batch(self, ids: Sequence[np.ndarray]) -> list[bytes]:
        return [self.decode(sequence) for sequence in ids]

    def token_byte_lengths(self, ids: np.ndarray) -> None:
        return None
