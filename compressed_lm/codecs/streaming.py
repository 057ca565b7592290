"""Streaming decoder: ids to text during generation."""

import codecs as text_codecs

import numpy as np
import numpy.typing as npt

from compressed_lm.codecs.checked import checked_ids
from compressed_lm.codecs.protocol import Codec


class StreamDecoder:
    """Decoder of ids as a model produces them. Text that was returned never changes.

        decoder = StreamDecoder(codec)
        for ids in sampled:
            print(decoder.feed(ids), end="")
        print(decoder.close())

    If groups of `codec.restart_tokens` tokens decode independently, only the open group is decoded again. Other codecs
    decode all ids each time.
    """

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._ids = np.zeros(0, np.int32)  # of the open group
        self._shown = b""  # text of the open group that was returned
        self._utf8 = text_codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed_bytes(self, ids: npt.ArrayLike) -> bytes:
        """Returns the bytes that are final after these ids, int[T]."""
        ids = np.concatenate([self._ids, checked_ids(ids, self._codec.vocab_size, self._codec.spec)])
        group = self._codec.restart_tokens
        whole = len(ids) // group * group if group else 0
        closed = self._codec.decode(ids[:whole]) if whole else b""
        text = closed + self._codec.decode_partial(ids[whole:])
        new = text[len(self._shown) :] if text.startswith(self._shown) else b""
        self._ids, self._shown = ids[whole:], (self._shown + new)[len(closed) :]
        return new

    def feed(self, ids: npt.ArrayLike) -> str:
        """Returns the text that is final after these ids, int[T]; bytes that are not UTF-8 become U+FFFD."""
        return self._utf8.decode(self.feed_bytes(ids))

    def close(self) -> str:
        """Returns U+FFFD for an unfinished character at the end, or an empty string."""
        return self._utf8.decode(b"", final=True)
