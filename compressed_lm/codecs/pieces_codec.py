"""`pieces`: a unigram vocabulary with case and space markers, parsed word by word and digit by digit."""

import hashlib
import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from compressed_lm.codecs.checked import CheckedCodec
from compressed_lm.coding import unigram
from compressed_lm.coding.pieces import Pieces
from compressed_lm.errors import InputError
from compressed_lm.io import npz

FILE = "pieces.npz"
MIN_V = 300
MARKS = ("apart", "within")
_FIRST_RULES = 1  # of vocabularies without a version; their ids and fingerprints are unchanged


class PiecesCodec(CheckedCodec):
    """Unigram vocabulary of distinct byte strings.

    A SentencePiece vocabulary of the same size has ids for other forms of common words (with a capital, without a
    space), for numbers of several digits, and for characters twice (also as bytes). Here these ids are used for more
    words. See `coding.segments` for the segmentation, `coding.folding` for the markers and `coding.pieces` for the
    parser; `experiments/beat_subword` measures the effect of each rule. Neither training nor use needs a neural
    network. Any n bytes are at most 1.05 n + 20 ids; see `coding.literal` for text that folding would make longer.
    """

    name = "pieces"
    summary = "subword units that encode text in the fewest bits, with case and space markers"
    example = "pieces(v=65536)"
    color, marker = "#117733", "p"
    task_specs = ("pieces(v=4096)", "pieces(v=65536)")
    flops_per_byte = m1_flops_per_byte = 0.0
    window_bits = m1_hash = None
    restart_tokens = None  # a marker changes the text after it, so a piece has no length of its own

    def __init__(self, pieces: Pieces, *, marks: str = "apart") -> None:
        self.pieces, self.vocab_size = pieces, len(pieces)
        self.spec = f"pieces(v={len(pieces)})" if marks == "apart" else f"pieces(marks={marks},v={len(pieces)})"
        content = b"".join(len(s).to_bytes(1) + s for s in pieces.strings) + pieces.costs.astype("<u2").tobytes()
        content += np.packbits(pieces.spaced).tobytes()
        self.fingerprint = hashlib.sha256(b"compressed_lm pieces %d " % pieces.rules + content).hexdigest()

    @classmethod
    def build(
        cls,
        *,
        v: int = 65536,
        marks: str = "apart",
        documents: Iterable[bytes],
        progress: Callable[[int], None] = lambda n_dropped: None,
    ) -> "PiecesCodec":
        """Learns the pieces from documents.

        Args:
            v: number of ids, from 300 to 65,536.
            marks: "apart", or "within": frequent words and the markers before them are one piece, which makes texts
                shorter.
            documents: the text.
            progress: called with the number of candidates dropped so far.

        Raises:
            InputError: v is out of range, or the text is too short for it.
        """
        if not MIN_V <= v <= 1 << 16:
            raise InputError(f"pieces(v={v}) was requested; v from {MIN_V} to 65536 was expected.")
        if marks not in MARKS:
            raise InputError(f"marks={marks} was given; expected one of {', '.join(MARKS)}.")
        counts = unigram.count(list(documents))
        return cls(unigram.learn(counts, v, marks_within=marks == "within", progress=progress), marks=marks)

    def __getstate__(self) -> dict[str, Any]:
        p = self.pieces  # its lookup tables are built again, and its cache belongs to a thread
        return self.__dict__ | {"pieces": (p.strings, p.costs, p.spaced, p.rules)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        strings, costs, spaced, rules = state["pieces"]
        self.__dict__ |= state | {"pieces": Pieces(strings, costs, spaced, rules=rules)}

    def files(self) -> dict[str, bytes]:
        content = io.BytesIO()
        text = np.frombuffer(b"".join(self.pieces.strings), np.uint8)
        lengths = np.array([len(s) for s in self.pieces.strings], np.uint8)
        arrays: dict[str, Any] = dict(text=text, lengths=lengths, costs=self.pieces.costs, spaced=self.pieces.spaced)
        if self.pieces.rules != _FIRST_RULES:
            arrays["rules"] = np.array(self.pieces.rules)
        np.savez_compressed(content, **arrays)
        return {FILE: content.getvalue()}

    @classmethod
    def from_files(cls, files: dict[str, bytes], *, v: int = 65536, marks: str = "apart") -> "PiecesCodec":
        try:
            arrays = npz.read_arrays(files[FILE])
            text, lengths = arrays["text"].tobytes(), arrays["lengths"]
            costs, spaced = arrays["costs"], arrays["spaced"]
            rules = int(arrays["rules"]) if "rules" in arrays else _FIRST_RULES
            ends = np.cumsum(lengths, dtype=np.int64).tolist()
            strings = [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]
            codec = cls(Pieces(strings, costs, spaced, rules=rules), marks=marks)
        except Exception as error:
            raise InputError(f"{FILE} cannot be read ({error}). Build the codec again.") from error
        if codec.vocab_size != v:
            raise InputError(f"{FILE} has {codec.vocab_size} pieces, and {v} were expected. Build the codec again.")
        return codec

    def _encode_documents(self, documents: Sequence[bytes]) -> list[np.ndarray]:
        return self.pieces.encode_batch(documents)

    def _decode_sequences(self, sequences: Sequence[np.ndarray]) -> list[bytes]:
        return self.pieces.decode_batch(sequences)

    def _decode_unfinished(self, ids: np.ndarray) -> bytes:
        return self.pieces.decode(ids, unfinished=True)
