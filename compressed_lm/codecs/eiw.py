"""`eiw`: Equal-Info Windows (Lester et al. 2024, section 2.4) under the node rule of `coding.windows`.

The text is cut so that each window compresses to exactly b bits; M1 and coder start afresh at every window, and window
boundaries stand at fixed token offsets. Every sequence of window codes decodes, and the end of a document needs
nothing.
"""

import hashlib
import io
from collections.abc import Callable, Sequence

import numpy as np

from compressed_lm.codecs import device_windows
from compressed_lm.codecs.m1 import M1
from compressed_lm.codecs.protocol import checked_ids
from compressed_lm.coding import bits as bit_fields
from compressed_lm.coding import windows
from compressed_lm.coding.compiler import compile_windows
from compressed_lm.coding.dictionary import Dictionary
from compressed_lm.errors import InputError

ALIGNMENTS = ("none", "word")

COMPILED_BITS = 16
"""Windows of up to this many bits are compiled to a dictionary once, and M1 never runs again."""

MAX_WINDOW_BYTES = 63
"""After this many bytes in one window the table is flat, which bounds M1's context (one more slot holds the start) and
ends the window soon."""


class EIW:
    """Equal-Info Windows of b bits, cut into tokens of log2(V) bits.

    Attributes:
      m1: the byte model.
      align: "none", or "word": a window never runs over the start of a word.
      dictionary: all windows, where b is small enough to list them; None otherwise.
    """

    name = "eiw"

    def __init__(self, *, b: int, v: int, align: str, m1: M1, dictionary: Dictionary | None = None):
        self._token_bits = bit_fields.token_bits(v)
        if not max(windows.MIN_BITS, self._token_bits) <= b <= windows.MAX_BITS:
            raise InputError(
                f"eiw(b={b},v={v}) was asked for; b from 8 to 32 was expected, and at least log2(v) = "
                f"{self._token_bits}, since a token wider than a window "
                "could not tell where the last one ends. Choose a wider window or a smaller vocabulary."
            )
        if align not in ALIGNMENTS:
            raise InputError(f"align={align} was given; expected one of {', '.join(ALIGNMENTS)}.")
        if m1.config.context <= MAX_WINDOW_BYTES:
            raise InputError(
                f"M1 has a context of {m1.config.context} bytes; windows need {MAX_WINDOW_BYTES + 1}. Train "
                "M1 on longer sequences."
            )
        self.window_bits, self.vocab_size, self.align, self.m1, self.dictionary = b, v, align, m1, dictionary
        self.spec = f"eiw({'align=word,' if align == 'word' else ''}b={b},v={v})"
        self.m1_hash, self.m1_flops_per_byte = m1.hash, m1.flops_per_byte
        self.flops_per_byte = 0.0 if dictionary else m1.flops_per_byte
        rules = f"compressed_lm eiw 1 b={b} v={v} align={align} cap={MAX_WINDOW_BYTES} {m1.hash}"
        self.fingerprint = hashlib.sha256(rules.encode()).hexdigest()

    @classmethod
    def build(
        cls,
        *,
        b: int = 16,
        v: int = 65536,
        align: str = "none",
        m1: M1,
        progress: Callable[[int], None] = lambda n_codes: None,
        dictionary: Dictionary | None = None,
    ) -> "EIW":
        """Compiles the dictionary where b allows it.

        Args:
          b, v, align: options of the codec.
          m1: the byte model.
          progress: called with the number of the 2**b codes found so far.
          dictionary: a dictionary compiled before for the same M1, b and alignment, which another v can share.
        """
        cls(b=b, v=v, align=align, m1=m1)  # refuses bad options before any work
        if b <= COMPILED_BITS and dictionary is None:
            dictionary = compile_windows(
                m1.byte_frequencies, bits=b, align=align, max_bytes=MAX_WINDOW_BYTES, progress=progress
            )
        return cls(b=b, v=v, align=align, m1=m1, dictionary=dictionary)

    def files(self) -> dict[str, bytes]:
        files = {"m1.npz": self.m1.to_bytes()}
        if self.dictionary:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, parent=self.dictionary.parent, last=self.dictionary.last)
            files["dictionary.npz"] = buffer.getvalue()
        return files

    @classmethod
    def from_files(cls, files: dict[str, bytes], *, b: int = 16, v: int = 65536, align: str = "none") -> "EIW":
        dictionary = None
        if "dictionary.npz" in files:
            with np.load(io.BytesIO(files["dictionary.npz"]), allow_pickle=False) as archive:
                dictionary = Dictionary(archive["parent"], archive["last"])
        return cls(b=b, v=v, align=align, m1=M1.from_bytes(files["m1.npz"]), dictionary=dictionary)

    def encode_batch(self, documents: Sequence[bytes]) -> list[np.ndarray]:
        if self.dictionary:
            codes = [self.dictionary.encode(document) for document in documents]
        else:
            codes = device_windows.encode(
                self.m1, documents, bits=self.window_bits, align=self.align, max_bytes=MAX_WINDOW_BYTES
            )
        return [bit_fields.repack(c, self.window_bits, self._token_bits).astype(np.int32) for c in codes]

    def decode_batch(self, ids: Sequence[np.ndarray]) -> list[bytes]:
        codes = [self._codes(np.asarray(i)) for i in ids]
        if self.dictionary:
            return [self.dictionary.decode(c) for c in codes]
        texts = iter(
            device_windows.decode(
                self.m1,
                np.concatenate([np.zeros(0, np.uint32), *codes]),
                bits=self.window_bits,
                align=self.align,
                max_bytes=MAX_WINDOW_BYTES,
            )
        )
        return [b"".join([next(texts) for _ in c]) for c in codes]

    def _codes(self, ids: np.ndarray) -> np.ndarray:
        ids = checked_ids(ids, self)
        return bit_fields.unpack(ids, self._token_bits, self.window_bits)

    def encode(self, data: bytes) -> np.ndarray:
        return self.encode_batch([data])[0]

    def decode(self, ids: np.ndarray) -> bytes:
        return self.decode_batch([ids])[0]

    decode_partial = decode

    def token_byte_lengths(self, ids: np.ndarray) -> np.ndarray | None:
        """Bytes of each window, where a token is a whole window; None where windows are cut into several tokens."""
        if self._token_bits != self.window_bits or not self.dictionary:
            return None
        return self.dictionary.depth[self._codes(np.asarray(ids))]
