"""Encoded files describe their content, and all damage is detected."""

import numpy as np
import pytest

from compressed_lm import codecs
from compressed_lm.codecs import encoded_file
from compressed_lm.errors import InputError

DATA = b"some bytes \x00\xff and more of them " * 20


def test_round_trip_and_size():
    """A file has a header and the ids at their minimal width; it decodes to the same bytes."""
    codec = codecs.create("gzip(v=4096)")
    content = encoded_file.encode_file(DATA, codec)
    assert encoded_file.decode_file(content, codec) == DATA
    assert len(content) < len(codec.encode(DATA)) * 1.5 + 400
    assert encoded_file.decode_file(encoded_file.encode_file(b"", codec), codec) == b""


def test_every_flipped_bit_and_truncation_is_found():
    """Every single-bit change and truncation is detected, and none crashes."""
    codec = codecs.Bytes()
    content = encoded_file.encode_file(DATA[:60], codec)
    for position in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(InputError, match="not an encoded file|truncated or changed"):
            encoded_file.decode_file(bytes(damaged), codec)
    for length in range(len(content)):
        with pytest.raises(InputError, match="not an encoded file|truncated or changed"):
            encoded_file.decode_file(content[:length], codec)


def test_another_codec_refuses():
    """The error names both codecs."""
    content = encoded_file.encode_file(DATA, codecs.create("gzip(v=256)"))
    with pytest.raises(InputError, match=r"encoded with gzip\(v=256\).*the codec given is gzip\(v=4096\)"):
        encoded_file.decode_file(content, codecs.create("gzip(v=4096)"))


def test_another_m1_refuses(m1):
    """Codecs that differ only in M1's weights have different fingerprints."""
    other = codecs.M1(
        {**m1.params, "final": m1.params["final"] | {"logit_shift": np.int32(m1.params["final"]["logit_shift"] + 1)}},
        m1.config,
    )
    content = encoded_file.encode_file(DATA, codecs.create("ac", m1=m1))
    with pytest.raises(InputError, match="another M1"):
        encoded_file.decode_file(content, codecs.create("ac", m1=other))
