"""Streams of documents as streams of their segments, which codecs that run M1 encode in parallel."""

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np


def encode_segments(
    documents: Iterable[bytes],
    n_bytes: int | None,
    encode: Callable[[Iterator[bytes]], Iterator[np.ndarray]],
) -> Iterator[list[np.ndarray]]:
    """Yields the encoded segments of each document, in order.

    Args:
        documents: byte strings, read as `encode` asks for them.
        n_bytes: length of a segment; the last one of a document may be shorter. None: each document is one segment. The
            empty document is one empty segment.
        encode: yields the result of each segment, in order.
    """
    counts: collections.deque[int] = collections.deque()

    def segments() -> Iterator[bytes]:
        for document in documents:
            size = n_bytes or len(document) or 1
            starts = range(0, max(len(document), 1), size)
            counts.append(len(starts))
            yield from (document[start : start + size] for start in starts)

    results = encode(segments())
    for first in results:
        yield [first, *itertools.islice(results, counts.popleft() - 1)]
