"""Codecs over general compressors: streams that mark their own end, split into tokens."""

import abc
import hashlib
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np

from compressed_lm.codecs.checked import WHOLE_BITS, CheckedCodec, checked_token_bits
from compressed_lm.coding import bits
from compressed_lm.errors import CorruptStream
from compressed_lm.io import limits


class CompressorCodec(CheckedCodec):
    """Streams of a compressor, split into tokens of log2(V) bits.

    A stream marks its own end and carries a checksum; only the zero padding of the last token may follow it. A family
    gives `compress`, `decompressor` and `error`.

    Attributes:
        stream: name of its streams, for messages.
        error: what its decompressor raises for other bytes.
    """

    limits = {"v": WHOLE_BITS}
    flops_per_byte = m1_flops_per_byte = 0.0
    window_bits = m1_hash = restart_tokens = None
    stream: ClassVar[str]
    error: ClassVar[type[Exception]]

    @staticmethod
    @abc.abstractmethod
    def compress(document: bytes, /) -> bytes:
        """Returns the stream of a document."""

    @staticmethod
    @abc.abstractmethod
    def decompressor() -> Any:
        """Returns a decompressor with `decompress`, `eof` and `unused_data`, as zlib and lzma have."""

    def __init__(self, *, v: int = 256) -> None:
        self.vocab_size, self._token_bits = v, checked_token_bits(v, self.name)
        self.spec = f"{self.name}(v={v})"
        self.fingerprint = hashlib.sha256(f"compressed_lm {self.name} 1 {self.spec}".encode()).hexdigest()

    @classmethod
    def build(cls, *, v: int = 256) -> Self:
        return cls(v=v)

    def files(self) -> dict[str, bytes]:
        return {}

    @classmethod
    def from_files(cls, files: dict[str, bytes], *, v: int = 256) -> Self:
        return cls(v=v)

    def _encode_documents(self, documents: Sequence[bytes]) -> list[np.ndarray]:
        streams = [np.frombuffer(self.compress(document), np.uint8) for document in documents]
        return [bits.repack(stream, 8, self._token_bits).astype(np.int32) for stream in streams]

    def _decode_sequences(self, sequences: Sequence[np.ndarray]) -> list[bytes]:
        return [self._decode_sequence(ids) for ids in sequences]

    def _decode_sequence(self, ids: np.ndarray) -> bytes:
        decoder, stream = self.decompressor(), self._stream(ids)
        try:
            promised = limits.PROMISED.get()
            data = decoder.decompress(stream, *([] if promised is None else [promised + 1]))
            if promised is not None and len(data) > promised:
                raise CorruptStream(
                    f"{len(ids)} ids unpack to more than the expected {promised:,} bytes: they were changed. Restore "
                    "them from their source."
                )
        except self.error as error:
            raise CorruptStream(
                f"{len(ids)} ids are not {self.stream} ({error}): they were changed. Restore them from their source."
            ) from error
        if not decoder.eof:
            raise CorruptStream(
                f"{len(ids)} ids end after {len(data)} bytes in the middle of {self.stream}: they were "
                "truncated. Restore them from their source."
            )
        n_ids = -(-8 * (len(stream) - len(decoder.unused_data)) // self._token_bits)
        if n_ids != len(ids) or any(decoder.unused_data):
            raise CorruptStream(
                f"{len(ids)} ids were given, but the stream ends after {n_ids}: they were changed, or something "
                "was appended to them. Restore them from their source."
            )
        return data

    def _decode_unfinished(self, ids: np.ndarray) -> bytes:
        decoder, data = self.decompressor(), b""
        for byte in self._stream(ids)[: len(ids) * self._token_bits // 8]:
            try:
                data += decoder.decompress(bytes([byte]))
            except self.error:
                break
        return data

    def _stream(self, ids: np.ndarray) -> bytes:
        return bits.repack(ids, self._token_bits, 8).astype(np.uint8).tobytes()
