"""What a program that runs M1 does: `host_m1` on the CPU, `device_m1` on the devices of JAX."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np

from compressed_lm.codecs.window_rules import WindowRules


@dataclasses.dataclass(frozen=True)
class Decoded:
    """A decoded arithmetic-coded stream.

    Attributes:
        symbols: uint8[T], up to the end symbol, the end of the stream or the limit.
        state: the coder's state after the end symbol, see `range_coder.rewritten`: code, size, and bytes read. None if
            there was no end symbol, or no encoder writes such a stream.
    """

    symbols: np.ndarray
    state: tuple[int, int, int] | None


class Engine(Protocol):
    """Program that runs M1. All give the same bits."""

    def frequencies(self, texts: np.ndarray) -> np.ndarray:
        """See `M1.byte_frequencies`."""
        ...

    def first_table(self) -> np.ndarray:
        """Returns the cumulative table of the 257 symbols at the start of a context, uint32[258]."""
        ...

    def entries(self, segments: Iterable[bytes], *, cached: bool = False) -> Iterator[tuple[bytes, np.ndarray]]:
        """Yields each segment and the table entries of its bytes and its end, uint32[T + 1, 2], in order.

        An entry is the cumulative frequency below the symbol, and its frequency. M1 is reset at the start of a segment
        and every `context` symbols.

        Args:
            segments: texts, read as needed.
            cached: compute them in cached steps, as decoders do, to check that they are the same.
        """
        ...

    def decode(self, streams: Sequence[bytes], *, overrun: int, limit: int) -> list[Decoded]:
        """Decodes arithmetic-coded streams, up to their end symbols, `overrun` bytes beyond their ends or `limit`.

        Symbols after `limit` bytes may be left out.
        """
        ...

    def encode_windows(self, segments: Iterable[bytes], rules: WindowRules) -> Iterator[np.ndarray]:
        """Yields the window codes of each segment in order, uint32[N, K]: 16-bit limbs, most significant first."""
        ...

    def decode_windows(self, codes: Sequence[np.ndarray], rules: WindowRules) -> list[bytes]:
        """Returns the text of each sequence of window codes uint32[N, K]."""
        ...
