"""Codec protocol: a lossless map between byte strings and token ids."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np


class Codec(Protocol):
    """A lossless map from byte strings to sequences of integers below `vocab_size`, and back.

    `decode(encode(data)) == data` for every byte string, including the empty one and invalid UTF-8 (except for
    `eiw(fill=paper)`, which exists for comparison). Ids 0..V-1 belong to the codec. The ids of end-of-document and
    padding are outside, in the model's vocabulary. Only a vocabulary that came with a model may include its own
    end-of-document, as the attribute `eod_id` (see `eod_id`); no text encodes to it.

    Ids have no checksum (encoded files and token stores do), so the detection of damage depends on the family:

    ==============================  ====================================================================================
    family                          `decode(ids)`, ids within the vocabulary
    ==============================  ====================================================================================
    `bytes`                         accepts any ids; `encode` of the decoded text gives the same ids
    `ac`, `static_ac`               raises, or `encode` of the decoded text gives the same ids: ids that end early or
                                    continue after the end of the stream are refused
    `gzip`, `lzma`                  raises unless they are one complete stream with the right checksum and nothing
                                    after it; another release of zlib may write another stream for the same text
    `eiw`                           raises unless they are whole windows and the zero padding of the last token; any
                                    windows decode, and a model may use other windows for a text than `encode` does
    `pieces`, `sentencepiece`,      accepts any ids, as tokenizers do: a text has many encodings, of which `encode`
    `bpe`, `tokenizers`             gives one
    ==============================  ====================================================================================

    Codecs pickle: the copy has the same fingerprint and gives the same ids, also in another process.

    `decode_partial` accepts any ids within the vocabulary, for every family. `codecs.checked` defines what is accepted
    as bytes and as ids; everything else raises `InputError`.

    Attributes:
        name: the family, such as "eiw".
        spec: the full spec that builds the codec again, such as "eiw(align=word,b=16,v=65536)".
        vocab_size: V, the number of ids.
        fingerprint: hex digest of everything the ids depend on (rules, options, weights). Two codecs with equal
            fingerprints give equal ids (`gzip` and `lzma`: with the same release of their library).
        flops_per_byte: floating-point operations of the codec itself at run time, per byte of text.
        m1_flops_per_byte: M1's share in the accounting of Lester et al. 2024, section 3.8 (2 N per byte), even if M1 is
            not needed at run time.
        window_bits: bits per Equal-Info Window, or None.
        m1_hash: hex digest of M1's weights, or None.
        restart_tokens: groups of this many tokens decode independently; None if a token's text may depend on all tokens
            before it.
    """

    name: str
    spec: str
    vocab_size: int
    fingerprint: str
    flops_per_byte: float
    m1_flops_per_byte: float

    # Read-only, so that a family may declare a narrower type.
    @property
    def window_bits(self) -> int | None: ...
    @property
    def m1_hash(self) -> str | None: ...
    @property
    def restart_tokens(self) -> int | None: ...

    def encode(self, data: bytes) -> np.ndarray:
        """Returns the ids of one document, int32[T]."""
        ...

    def decode(self, ids: np.ndarray) -> bytes:
        """Returns the document of these ids.

        Raises:
            InputError: these are not ids of this codec.
            CorruptStream: they were truncated or changed, as far as the family can detect it (see above).
        """
        ...

    def decode_partial(self, ids: np.ndarray) -> bytes:
        """Returns the bytes that an unfinished sequence already determines, for text as it is generated.

        It accepts all ids within the vocabulary.
        """
        ...

    def encode_batch(self, documents: Sequence[bytes]) -> list[np.ndarray]:
        """Returns `encode` of each document, computed together."""
        ...

    def encode_stream(self, documents: Iterable[bytes]) -> Iterator[np.ndarray]:
        """Yields `encode` of each document, in order.

        It reads ahead by a bounded amount of text: 1 MiB; with M1, what keeps all batch slots full: 40 KiB for each of
        R x D slots for `eiw`, a few batches of as many contexts for `ac`. D are the devices and R their rows
        (`local_devices.use_rows_per_device`); on CPU D are the cores, R is 16, and a few times as much may be
        read. To this comes the document, or the segment of one, that exceeds it.
        """
        ...

    def decode_batch(self, ids: Sequence[np.ndarray]) -> list[bytes]:
        """Returns `decode` of each sequence, computed together."""
        ...

    def decode_known(self, ids: Sequence[np.ndarray], documents: Sequence[bytes]) -> list[bytes]:
        """Returns `decode` of each sequence, for checks: the documents that it should be are known.

        `ac` runs M1 on all contexts in parallel, where `decode` needs a step for each byte. Sequences of which the
        result is another text are decoded as usual.
        """
        ...

    def token_byte_lengths(self, ids: np.ndarray) -> np.ndarray | None:
        """Returns the number of bytes of each id, int32[T]; None if a token has no length of its own."""
        ...

    def files(self) -> dict[str, bytes]:
        """Returns the files of a saved codec: file name -> content."""
        ...


def eod_id(codec: Codec) -> int:
    """Returns the id of end-of-document: the codec's own if it has one, otherwise the first after its ids."""
    return getattr(codec, "eod_id", codec.vocab_size)
