"""What a codec is: a lossless map between byte strings and token ids."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Codec(Protocol):
    """A lossless map from byte strings to sequences of integers below `vocab_size`, and back.

    `decode(encode(data)) == data` for every byte string, the empty one and invalid UTF-8 included (but for
    `eiw(fill=paper)`, which is there for comparison). Ids 0..V-1 belong to the codec; the
    ids of end-of-document and padding lie outside, in the model's vocabulary. Only a vocabulary that came with a model
    may hold its own end-of-document, as the attribute `eod_id` (see `eod_id`); no text encodes to it.

    Raw ids carry no checksum (encoded files and token stores do), so damage is found only as far as the family allows:

    ==============================  ====================================================================================
    family                          `decode(ids)`, ids within the vocabulary
    ==============================  ====================================================================================
    `bytes`                         takes any ids, and `encode` gives exactly these for the text that comes out
    `ac`, `static_ac`               raises, or `encode` gives exactly these ids for the text that comes out: they are
                                    refused where they end early or go on after the end of the stream
    `gzip`                          raises, or they are one whole zlib stream with the right checksum and nothing after
                                    it; another release of zlib may write another stream for the same text
    `eiw`                           raises unless they are whole windows and zero bits that fill up the last token; any
                                    windows decode, and a model may write a text in others than `encode` does
    `pieces`, `sentencepiece`,      takes any ids, as tokenizers do: a text can be spelled in many ways, of which
    `bpe`, `tokenizers`             `encode` gives one
    ==============================  ====================================================================================

    `decode_partial` takes any ids within the vocabulary, whatever the family. `codecs.checked` says what is accepted as
    bytes and as ids; everything else raises `InputError`.

    Attributes:
        name: the family, such as "eiw".
        spec: the full spelling that builds the codec again, such as "eiw(align=word,b=16,v=65536)".
        vocab_size: V, the number of ids.
        fingerprint: hex digest of everything the ids depend on (rules, options, weights). Two codecs with equal
            fingerprints give equal ids (`gzip`: with the same release of zlib).
        flops_per_byte: floating-point operations the codec itself spends at run time on each byte of text.
        m1_flops_per_byte: M1's share in the accounting of Lester et al. 2024, section 3.8 (2 N for each byte), whether
            or not M1 still runs.
        window_bits: bits per Equal-Info Window, or None.
        m1_hash: hex digest of M1's weights, or None.
        restart_tokens: groups of this many tokens decode by themselves, one after the other; None where a token's text
            may depend on all tokens before it.
    """

    name: str
    spec: str
    vocab_size: int
    fingerprint: str
    flops_per_byte: float
    m1_flops_per_byte: float
    window_bits: int | None
    m1_hash: str | None
    restart_tokens: int | None

    def encode(self, data: bytes) -> np.ndarray:
        """The ids of one document: int32[T]."""

    def decode(self, ids: np.ndarray) -> bytes:
        """The document that these ids stand for.

        Raises:
            InputError: these are no ids of this codec.
            CorruptStream: they were truncated or changed, as far as the family can tell (see above).
        """

    def decode_partial(self, ids: np.ndarray) -> bytes:
        """The bytes that an unfinished sequence already determines; never an error for ids within the vocabulary. For
        text as it is generated."""

    def encode_batch(self, documents: Sequence[bytes]) -> list[np.ndarray]:
        """`encode` of each document, computed together."""

    def decode_batch(self, ids: Sequence[np.ndarray]) -> list[bytes]:
        """`decode` of each sequence, computed together."""

    def token_byte_lengths(self, ids: np.ndarray) -> np.ndarray | None:
        """Bytes that each id stands for: int32[T]; None where a token has no length of its own."""

    def files(self) -> dict[str, bytes]:
        """What a saved codec has to carry beside its spec: file name -> content."""


def eod_id(codec: Codec) -> int:
    """The id of end-of-document: the codec's own where it has one, else the first after its ids."""
    return getattr(codec, "eod_id", codec.vocab_size)
