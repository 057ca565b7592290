"""Ids to text as they arrive."""

import codecs as text_codecs

import numpy as np

from compressed_lm.codecs.checked import checked_ids
from compressed_lm.codecs.protocol import Codec


class StreamDecoder:
    """Turns ids into text as a model produces them; what was given out is never taken back.

    decoder = StreamDecoder(codec)
    for ids in sampled:
        print(decoder.feed(ids), end="")
    print(decoder.close())

    Where the codec's `restart_tokens` says that groups of tokens decode by themselves, only the open group is decoded
    again; other codecs decode everything so far each time.
    """

    def __init__(self, codec: Codec):
        self._codec = codec
        self._ids = np.zeros(0, np.int32)  # of the open group
        self._shown = b""  # what was given out of it
        self._utf8 = text_codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed_bytes(self, ids) -> bytes:
        """The bytes that become certain with these ids, int[T]."""
        ids = np.concatenate([self._ids, checked_ids(ids, self._codec.vocab_size, self._codec.spec)])
        group = self._codec.restart_tokens
        whole = len(ids) // group * group if group else 0
        closed = self._codec.decode(ids[:whole]) if whole else b""
        text = closed + self._codec.decode_partial(ids[whole:])
        new = text[len(self._shown) :] if text.startswith(self._shown) else b""
        self._ids, self._shown = ids[whole:], (self._shown + new)[len(closed) :]
        return new

    def feed(self, ids) -> str:
        """The text that becomes certain with these ids; bytes that are not UTF-8 become U+FFFD."""
        return self._utf8.decode(self.feed_bytes(ids))

    def close(self) -> str:
        """The replacement for a character that was left unfinished, or nothing."""
        return self._utf8.decode(b"", final=True)
