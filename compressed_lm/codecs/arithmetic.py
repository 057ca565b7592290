"""Arithmetic coding of whole documents: `ac` with M1 (Lester et al. 2024, section 2.3), `static_ac` with one table."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from compressed_lm.codecs.checked import WHOLE_BITS, CheckedCodec, checked_token_bits
from compressed_lm.codecs.document_segments import encode_segments
from compressed_lm.codecs.m1 import M1
from compressed_lm.coding import bits, range_coder, tables
from compressed_lm.coding.tables import END
from compressed_lm.errors import CorruptStream, InputError

SEGMENT_BYTES = 10_240
"""Longer documents are split into segments of this length, which decode in parallel. The paper's examples have it."""


class _Streams(CheckedCodec):
    """Base class: tokens are fields of log2(V) bits of a stream that reads as zeros beyond its end.

    All values within a text's interval decode to this text. `encode` writes one known value, and other ids are refused:
    most truncated or changed ids, and all ids with something appended.
    """

    limits = {"v": WHOLE_BITS}
    window_bits = restart_tokens = None

    def __init__(self, v: int) -> None:
        self.vocab_size, self._token_bits = v, checked_token_bits(v, self.name)

    def _tokens(self, stream: bytes) -> np.ndarray:
        tokens = bits.repack(np.frombuffer(stream, np.uint8), 8, self._token_bits).astype(np.int32)
        if stream.endswith(b"\0"):  # the decoder needs this zero byte
            return tokens
        return tokens[: np.flatnonzero(tokens)[-1] + 1] if tokens.any() else tokens[:0]

    def _stream(self, ids: np.ndarray) -> bytes:
        return bits.repack(ids, self._token_bits, 8).astype(np.uint8).tobytes()

    def _known(self, ids: np.ndarray) -> bytes:
        """Returns the complete bytes of the stream in these ids."""
        return self._stream(ids)[: len(ids) * self._token_bits // 8]

    def _check_written(self, ids: np.ndarray, stream: bytes, n_bytes: int) -> None:
        """Raises CorruptStream unless the ids are those of the stream that `encode` writes for the text."""
        if not np.array_equal(ids, self._tokens(stream)):
            raise _corrupt(ids, f"decode to {n_bytes} bytes, for which {self.spec} writes other ids")


class StaticAC(_Streams):
    """Arithmetic coding with the corpus's byte frequencies; the end of a document is a 257th symbol."""

    name = "static_ac"
    summary = "arithmetic coding with fixed byte frequencies"
    example = "static_ac(v=256)"
    color, marker = "#A0703C", "P"
    task_specs = ("static_ac(v=256)", "static_ac(v=4096)", "static_ac(v=65536)")
    flops_per_byte = m1_flops_per_byte = 0.0
    m1_hash = None

    def __init__(self, *, v: int = 256, freqs: npt.ArrayLike) -> None:
        super().__init__(v)
        self.spec = f"static_ac(v={v})"
        self.freqs = np.asarray(freqs, np.uint32)
        if self.freqs.shape != (257,) or self.freqs.min() < 1 or self.freqs.sum() != tables.TABLE_TOTAL:
            raise InputError(
                "The table of static_ac is invalid: 257 positive frequencies that sum to 65536 were expected. Build "
                "the codec again."
            )
        self._cdf = tables.cumulative(self.freqs)
        self.fingerprint = hashlib.sha256(
            b"compressed_lm static_ac 1" + self.spec.encode() + self.freqs.astype("<u4").tobytes()
        ).hexdigest()

    @classmethod
    def build(cls, *, v: int = 256, documents: Iterable[bytes]) -> "StaticAC":
        """Builds the codec from the byte counts of documents."""
        counts = np.zeros(257, np.int64)
        for document in documents:
            counts[:256] += np.bincount(np.frombuffer(document, np.uint8), minlength=256)
            counts[END] += 1
        if not counts[END]:
            raise InputError("static_ac counts bytes, and no document was given. Name a corpus with documents.")
        return cls(v=v, freqs=tables.frequencies_from_counts(counts))

    def files(self) -> dict[str, bytes]:
        return {"frequencies.bin": self.freqs.astype("<u4").tobytes()}

    @classmethod
    def from_files(cls, files: dict[str, bytes], *, v: int = 256) -> "StaticAC":
        return cls(v=v, freqs=np.frombuffer(files["frequencies.bin"], "<u4"))

    def _encode_documents(self, documents: Sequence[bytes]) -> list[np.ndarray]:
        symbols = [np.append(np.frombuffer(document, np.uint8).astype(np.int32), END) for document in documents]
        return [self._tokens(range_coder.encode(self._cdf[s], self.freqs[s], stops=True)) for s in symbols]

    def _decode_sequences(self, sequences: Sequence[np.ndarray]) -> list[bytes]:
        return [self._decode_sequence(ids) for ids in sequences]

    def _decode_sequence(self, ids: np.ndarray) -> bytes:
        symbols, stream = range_coder.decode_until(self._stream(ids), self._cdf, END)
        self._check_written(ids, stream, len(symbols))
        return symbols.astype(np.uint8).tobytes()

    def _decode_unfinished(self, ids: np.ndarray) -> bytes:
        symbols = range_coder.decode_prefix(self._known(ids), self._cdf, END)
        return symbols.astype(np.uint8).tobytes()


class AC(_Streams):
    """Arithmetic coding with M1. M1's context is reset every `M1.config.context` symbols, the coder is not.

    A document of up to `SEGMENT_BYTES` is one stream that ends in M1's end symbol. A longer one begins with the end
    symbol (as an empty document does) and one bit that means "long", then the lengths of its segments in tokens, then
    the segments, encoded as separate documents.
    """

    name = "ac"
    summary = "arithmetic coding of whole documents with the predictions of a small byte model, M1"
    example = "ac(v=256)"
    color, marker = "#D55E00", "^"
    task_specs = ("ac(v=256)", "ac(v=4096)", "ac(v=65536)")

    def __init__(self, *, v: int = 256, m1: M1) -> None:
        super().__init__(v)
        self.spec, self.m1 = f"ac(v={v})", m1
        self.flops_per_byte = self.m1_flops_per_byte = m1.flops_per_byte
        self.m1_hash = m1.hash
        self.fingerprint = hashlib.sha256(
            f"compressed_lm ac 2 {self.spec} {SEGMENT_BYTES} {m1.hash}".encode()
        ).hexdigest()

    @classmethod
    def build(cls, *, v: int = 256, m1: M1) -> "AC":
        return cls(v=v, m1=m1)

    def files(self) -> dict[str, bytes]:
        return {"m1.npz": self.m1.to_bytes()}

    @classmethod
    def from_files(cls, files: dict[str, bytes], *, v: int = 256) -> "AC":
        return cls(v=v, m1=M1.from_bytes(files["m1.npz"]))

    def _encode_documents(self, documents: Sequence[bytes]) -> list[np.ndarray]:
        return list(self._encode_checked_stream(documents))

    def _encode_checked_stream(self, documents: Iterable[bytes]) -> Iterator[np.ndarray]:
        for parts in encode_segments(documents, SEGMENT_BYTES, self._encode_segments):
            header = [] if len(parts) == 1 else [self._header([len(tokens) for tokens in parts])]
            yield np.concatenate(header + parts) if header else parts[0]

    def _encode_segments(self, segments: Iterable[bytes]) -> Iterator[np.ndarray]:
        for segment, coded in self.m1.engine.entries(segments):
            yield self._written_tokens(segment, coded)

    def _written_tokens(self, segment: bytes, coded: np.ndarray) -> np.ndarray:
        coded = coded if segment else np.concatenate([coded, [_FLAG[0]]])
        return self._tokens(range_coder.encode(coded[:, 0], coded[:, 1], stops=True))

    def _decode_known(self, sequences: Sequence[np.ndarray], documents: Sequence[bytes]) -> list[bytes]:
        """Decodes with M1's contexts in parallel, since their symbols are known.

        M1 runs in cached steps, as in a decoder. If each symbol decodes with the table that follows from the symbols
        before it, a decoder finds the same ones.
        """
        parts = [self._segments_of(ids) for ids in sequences]
        texts = [[d[i : i + SEGMENT_BYTES] for i in range(0, len(d), SEGMENT_BYTES)] for d in documents]
        alike = [i for i in range(len(parts)) if len(parts[i]) == len(texts[i])]
        streams = itertools.chain.from_iterable(parts[i] for i in alike)
        segments = itertools.chain.from_iterable(texts[i] for i in alike)
        coded = self.m1.engine.entries(segments, cached=True)
        right = (self._decodes(ids, *pair) for ids, pair in zip(streams, coded, strict=True))
        good = {i for i in alike if all([next(right) for _ in parts[i]])}
        others = iter(self._decode_sequences([ids for i, ids in enumerate(sequences) if i not in good]))
        return [document if i in good else next(others) for i, document in enumerate(documents)]

    def _decodes(self, ids: np.ndarray, segment: bytes, coded: np.ndarray) -> bool:
        """Returns whether the stream in these ids decodes to the symbols of these table entries."""
        below, freq = coded.T
        # Three symbols per table: those below, the expected one, those above.
        cdfs = np.stack([np.zeros_like(below), below, below + freq, np.full_like(below, tables.TABLE_TOTAL)], axis=-1)
        return bool((range_coder.decode(self._stream(ids), cdfs) == 1).all()) and np.array_equal(
            ids, self._written_tokens(segment, coded)
        )

    @property
    def _end_first(self) -> np.ndarray:
        """Table entry of an end symbol at the beginning of a document."""
        below, above = self.m1.first_table[END : END + 2]
        return np.array([below, above - below], np.uint32)

    def _header(self, lengths: Sequence[int]) -> np.ndarray:
        """Returns the header of a long document: end symbol, "long", number of segments and their lengths.

        The numbers are written as 16-bit digits.
        """
        digits = np.array([len(lengths), *lengths], np.uint32)
        digits = np.stack([digits >> 16, digits & 0xFFFF], axis=1).reshape(-1)
        coded = np.concatenate([[self._end_first, _FLAG[1]], np.stack([digits, np.ones_like(digits)], axis=1)])
        stream = range_coder.encode(coded[:, 0], coded[:, 1], followed=True)
        return bits.repack(np.frombuffer(stream, np.uint8), 8, self._token_bits).astype(np.int32)

    def _decode_sequences(self, sequences: Sequence[np.ndarray]) -> list[bytes]:
        parts = [self._segments_of(ids) for ids in sequences]
        flat = iter(self._decode_segments(list(itertools.chain.from_iterable(parts))))
        return [self._joined(list(itertools.islice(flat, len(p)))) for p in parts]

    def _joined(self, segments: list[bytes]) -> bytes:
        """Returns the document of these segments. Raises CorruptStream if `encode` would split it differently."""
        lengths = [len(segment) for segment in segments]
        if segments and (set(lengths[:-1]) - {SEGMENT_BYTES} or not 0 < lengths[-1] <= SEGMENT_BYTES):
            raise CorruptStream(
                f"The ids decode to {len(segments)} segments of up to {max(lengths)} bytes, but all except a "
                f"document's last have {SEGMENT_BYTES}: they were changed. Restore them from their source."
            )
        return b"".join(segments)

    def _segments_of(self, ids: np.ndarray) -> list[np.ndarray]:
        """Returns the tokens of a document's segments: none for the empty document, one sequence for a short one."""
        stream = self._stream(ids)
        decoder = range_coder.Decoder(stream)
        if decoder.symbol(self.m1.first_table) != END:
            return [ids]
        if decoder.symbol(np.array([0, _FLAG[0][1], tables.TABLE_TOTAL], np.uint32)) == 0:
            empty = np.array([self._end_first, _FLAG[0]])
            self._check_written(ids, range_coder.encode(empty[:, 0], empty[:, 1], stops=True), 0)
            return []
        uniform = np.arange(tables.TABLE_TOTAL + 1, dtype=np.uint32)
        number = lambda: decoder.symbol(uniform) << 16 | decoder.symbol(uniform)  # noqa: E731
        n_segments = number()
        if not 2 <= n_segments <= len(ids):
            raise _corrupt(ids, f"announce {n_segments} segments")
        lengths = [number() for _ in range(n_segments)]
        header = self._header(lengths)
        if len(header) + sum(lengths) != len(ids):
            raise _corrupt(ids, f"were given, but their header announces {len(header) + sum(lengths)}")
        if not np.array_equal(header, ids[: len(header)]):
            raise _corrupt(ids, f"have a header for which {self.spec} writes other ids")
        return np.split(ids, len(header) + np.cumsum([0, *lengths]))[1:-1]

    def _decode_segments(self, segments: Sequence[np.ndarray]) -> list[bytes]:
        streams = [self._stream(ids) for ids in segments]
        # No segment has more than `SEGMENT_BYTES`; one byte more shows that this one has.
        decoded = self.m1.engine.decode(streams, overrun=range_coder.OVERRUN, limit=SEGMENT_BYTES + 1)
        for ids, stream, found in zip(segments, streams, decoded, strict=True):
            n_bytes = len(found.symbols)
            if found.state is None:
                raise _corrupt(ids, f"end after {n_bytes} bytes without an end of document")
            self._check_written(ids, range_coder.rewritten(stream, *found.state), n_bytes)
        return [found.symbols.tobytes() for found in decoded]

    def _decode_unfinished(self, ids: np.ndarray) -> bytes:
        (found,) = self.m1.engine.decode([self._known(ids)], overrun=0, limit=SEGMENT_BYTES + 1)
        return found.symbols.tobytes()


def _corrupt(ids: np.ndarray, problem: str) -> CorruptStream:
    return CorruptStream(
        f"{len(ids)} ids {problem}: they were truncated or changed, or something was appended to them. Restore them "
        "from their source."
    )


_FLAG = np.array([[0, tables.TABLE_TOTAL - 1], [tables.TABLE_TOTAL - 1, 1]], np.uint32)
"""Table entries of "empty" and "long" after an end symbol at the beginning of a document."""
