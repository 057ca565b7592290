"""LZMA as a tokenizer: a stronger general compressor than DEFLATE, with header and checksum."""

import functools
import lzma

from compressed_lm.codecs.compressor import CompressorCodec

MEMORY_BYTES = 128 << 20  # of a decompressor; ten times what streams of the default level need


class Lzma(CompressorCodec):
    """Xz streams of level 6 with CRC32, split into tokens of log2(V) bits; 60 bytes or more for each document."""

    name = "lzma"
    summary = "the output of LZMA (xz), split into tokens"
    example = "lzma(v=256)"
    color, marker = "#AA4499", "<"
    task_specs = ("lzma(v=256)", "lzma(v=4096)", "lzma(v=65536)")
    stream, error = "an xz stream", lzma.LZMAError
    decompressor = staticmethod(functools.partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, MEMORY_BYTES))

    @staticmethod
    def compress(document: bytes, /) -> bytes:
        return lzma.compress(document, lzma.FORMAT_XZ, lzma.CHECK_CRC32, preset=6)
