"""Lossless codecs from text to token ids and back.

Families: bytes, pieces, sentencepiece, bpe, tokenizers, gzip, static_ac, ac, eiw.

    codec = codecs.load("pieces16-en")
    ids = codec.encode(b"any bytes")
    assert codec.decode(ids) == b"any bytes"
"""

from compressed_lm.codecs.bytes_codec import Bytes
from compressed_lm.codecs.m1 import M1
from compressed_lm.codecs.protocol import Codec, eod_id
from compressed_lm.codecs.registry import (
    FAMILIES,
    canonical_spec,
    create,
    examples,
    load,
    parse_spec,
    save,
    save_dictionary,
    shipped,
)
from compressed_lm.codecs.special_tokens import SpecialTokens, prompt_ids, special_tokens_of
from compressed_lm.codecs.tokenizer_files import read_tokenizer, tokenizer_files

__all__ = [
    "FAMILIES",
    "M1",
    "Bytes",
    "Codec",
    "SpecialTokens",
    "canonical_spec",
    "create",
    "eod_id",
    "examples",
    "load",
    "parse_spec",
    "prompt_ids",
    "read_tokenizer",
    "save",
    "save_dictionary",
    "shipped",
    "special_tokens_of",
    "tokenizer_files",
]
