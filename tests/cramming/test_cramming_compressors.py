"""Sizes of compressors are those of the programs, and of an optimal prefix code."""

import itertools
import zlib

import pytest

from compressed_lm.cramming import compressors


def optimal_bits(counts):
    """Returns the least bits of any prefix code by trying all lengths that satisfy Kraft's inequality."""
    lengths = itertools.product(range(1, len(counts) + 1), repeat=len(counts))
    return min(
        sum(c * n for c, n in zip(counts, each, strict=True)) for each in lengths if sum(2.0**-n for n in each) <= 1
    )


@pytest.mark.parametrize("counts", [(1, 1), (5, 1, 1), (8, 4, 2, 1, 1), (3, 3, 2, 2, 1)])
def test_huffman_is_the_optimal_prefix_code(counts):
    """The bits equal the least of all prefix codes."""
    data = "".join(chr(97 + i) * n for i, n in enumerate(counts)).encode()
    assert compressors.huffman_bits(data) == optimal_bits(counts)


def test_characters_are_those_of_utf_8():
    """Two bytes of one character are one symbol; invalid UTF-8 is counted by bytes; one character takes a bit each."""
    assert compressors.huffman_bits("ééé".encode()) == 3 and compressors.huffman_bits("éa".encode()) == 2
    assert compressors.huffman_bits(b"\xff\xffa") == 3 and compressors.huffman_bits(b"") == 0


def test_sizes_are_those_of_the_programs():
    """zlib's size is that of its stream, and repetitive text becomes smaller with all of them."""
    data = b"the same words again and again " * 40
    sizes = compressors.sizes(data)
    assert sizes["zlib_bytes"] == len(zlib.compress(data, 9)) and max(sizes.values()) < len(data)
