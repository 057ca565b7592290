"""Sizes of a text by general compressors, which need no language model."""

import bz2
import heapq
import lzma
import math
import zlib
from collections import Counter


def sizes(data: bytes) -> dict[str, int]:
    """Returns the bytes of a text after zlib, bz2 and lzma (with their containers) and a Huffman code."""
    return {
        "zlib_bytes": len(zlib.compress(data, 9)),
        "bz2_bytes": len(bz2.compress(data, 9)),
        "lzma_bytes": len(lzma.compress(data, preset=9)),
        "huffman_bytes": math.ceil(huffman_bits(data) / 8),
    }


def huffman_bits(data: bytes) -> int:
    """Returns the bits of a text with the optimal prefix code of its own characters, without the table of the code.

    Characters are those of UTF-8 if the text is valid, otherwise bytes. A text of one character has one bit each.
    """
    try:
        counts = Counter(data.decode())
    except UnicodeDecodeError:
        counts = Counter(map(chr, data))
    if len(counts) < 2:
        return counts.total()
    heap, bits = list(counts.values()), 0
    heapq.heapify(heap)
    while len(heap) > 1:  # a character is one bit deeper with every sum that it is part of
        both = heapq.heappop(heap) + heapq.heappop(heap)
        bits += both
        heapq.heappush(heap, both)
    return bits
