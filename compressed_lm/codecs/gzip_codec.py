"""DEFLATE as a tokenizer (Lester et al. 2024, section 3.4): zlib at its default level, with header and checksum."""

import zlib

from compressed_lm.codecs.compressor import CompressorCodec


class Gzip(CompressorCodec):
    """Zlib streams, split into tokens of log2(V) bits."""

    name = "gzip"
    summary = "the output of DEFLATE, split into tokens"
    example = "gzip(v=256)"
    color, marker = "#CC79A7", "v"
    task_specs = ("gzip(v=256)", "gzip(v=4096)", "gzip(v=65536)")
    stream, error = "a zlib stream", zlib.error
    compress = staticmethod(zlib.compress)
    decompressor = staticmethod(zlib.decompressobj)
