"""DEFLATE as a tokenizer (Lester et al. 2024, section 3.4): zlib at its default level, with header and checksum."""

import hashlib
import zlib
from collections.abc import Sequence

import numpy as np

from compressed_lm.codecs.checked import WHOLE_BITS, CheckedCodec, checked_token_bits
from compressed_lm.coding import bits
from compressed_lm.errors import CorruptStream
from compressed_lm.io import limits


class Gzip(CheckedCodec):
    """Zlib streams split into tokens of log2(V) bits.

    A stream marks its own end; only the zero padding of the last token may follow it.
    """

    name = "gzip"
    summary = "the output of DEFLATE, split into tokens"
    example = "gzip(v=256)"
    limits = {"v": WHOLE_BITS}
    color, marker = "#CC79A7", "v"
    task_specs = ("gzip(v=256)", "gzip(v=4096)", "gzip(v=65536)")
    flops_per_byte = m1_flops_per_byte = 0.0
    window_bits = m1_hash = restart_tokens = None

    def __init__(self, *, v: int = 256) -> None:
        self.vocab_size, self._token_bits = v, checked_token_bits(v, self.name)
        self.spec = f"gzip(v={v})"
        self.fingerprint = hashlib.sha256(f"compressed_lm gzip 1 {self.spec}".encode()).hexdigest()

    @classmethod
    def build(cls, *, v: int = 256) -> "Gzip":
        return cls(v=v)

    def files(self) -> dict[str, bytes]:
        return {}

    @classmethod
    def from_files(cls, files: dict[str, bytes], *, v: int = 256) -> "Gzip":
        return cls(v=v)

    def _encode_documents(self, documents: Sequence[bytes]) -> list[np.ndarray]:
        streams = [np.frombuffer(zlib.compress(document), np.uint8) for document in documents]
        return [bits.repack(stream, 8, self._token_bits).astype(np.int32) for stream in streams]

    def _decode_sequences(self, sequences: Sequence[np.ndarray]) -> list[bytes]:
        return [self._decode_sequence(ids) for ids in sequences]

    def _decode_sequence(self, ids: np.ndarray) -> bytes:
        decoder, stream = zlib.decompressobj(), self._stream(ids)
        try:
            promised = limits.PROMISED.get()
            data = decoder.decompress(stream, *([] if promised is None else [promised + 1]))
            if promised is not None and len(data) > promised:
                raise CorruptStream(
                    f"{len(ids)} ids unpack to more than the expected {promised:,} bytes: they were changed. Restore "
                    "them from their source."
                )
        except zlib.error as error:
            raise CorruptStream(
                f"{len(ids)} ids are not a zlib stream ({error}): they were changed. Restore them from their source."
            ) from error
        if not decoder.eof:
            raise CorruptStream(
                f"{len(ids)} ids end after {len(data)} bytes in the middle of a zlib stream: they were "
                "truncated. Restore them from their source."
            )
        n_ids = -(-8 * (len(stream) - len(decoder.unused_data)) // self._token_bits)
        if n_ids != len(ids) or any(decoder.unused_data):
            raise CorruptStream(
                f"{len(ids)} ids were given, but the zlib stream ends after {n_ids}: they were changed, or something "
                "was appended to them. Restore them from their source."
            )
        return data

    def _decode_unfinished(self, ids: np.ndarray) -> bytes:
        decoder, data = zlib.decompressobj(), b""
        for byte in self._stream(ids)[: len(ids) * self._token_bits // 8]:
            try:
                data += decoder.decompress(bytes([byte]))
            except zlib.error:
                break
        return data

    def _stream(self, ids: np.ndarray) -> bytes:
        return bits.repack(ids, self._token_bits, 8).astype(np.uint8).tobytes()
