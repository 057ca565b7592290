"""Text to token ids and back, lossless: bytes, sentencepiece, gzip, static_ac, ac, eiw.

codec = codecs.load("runs/demo/codecs/eiw-b16-v65536")
ids = codec.encode(b"any bytes")
assert codec.decode(ids) == b"any bytes"
"""

from compressed_lm.codecs.bytes_codec import Bytes
from compressed_lm.codecs.m1 import M1
from compressed_lm.codecs.protocol import Codec
from compressed_lm.codecs.registry import FAMILIES, canonical_spec, create, load, parse_spec, save

__all__ = ["FAMILIES", "M1", "Bytes", "Codec", "canonical_spec", "create", "load", "parse_spec", "save"]
