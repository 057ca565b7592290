"""Encoded files: one document as packed token ids, with all data that a decoder checks.

Layout: 8 magic bytes; header length (u32, little endian); header (JSON: format version, codec, byte and token counts,
SHA-256 of the document); ids with the fewest bits each; CRC-32 of everything before it (u32, little endian).

The header describes no tensors and the checksum is short, so only the frame is shared with `io.container`.
"""

import contextvars
import hashlib
import json
import struct

import numpy as np

from compressed_lm.codecs.protocol import Codec
from compressed_lm.coding import bits
from compressed_lm.errors import InputError
from compressed_lm.io import limits, strict_json
from compressed_lm.io.checksums import Frame

MAGIC = b"\x89CLM\r\n\x1a\n"  # as in PNG: a non-text byte, and line ends that a text-mode transfer would change
FORMAT_VERSION = 1
_FRAME = Frame(MAGIC, FORMAT_VERSION, "an encoded file", "`compressed-lm encode`", crc=True)


def encode_file(data: bytes, codec: Codec) -> bytes:
    """Returns the encoded file of one document."""
    ids = codec.encode(data)
    header = {
        "format_version": FORMAT_VERSION,
        "codec": {"spec": codec.spec, "fingerprint": codec.fingerprint},
        "n_bytes": len(data),
        "n_tokens": len(ids),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    text = json.dumps(header, sort_keys=True).encode()
    body = MAGIC + struct.pack("<I", len(text)) + text + bits.repack(ids, _id_bits(codec), 8).astype(np.uint8).tobytes()
    return body + _FRAME.checksum(body)


def decode_file(content: bytes, codec: Codec, *, name: str = "the file") -> bytes:
    """Returns the document in an encoded file.

    Args:
        content: output of `encode_file`.
        codec: the codec that wrote it.
        name: name of the file, for messages.

    Raises:
        InputError: this is not an encoded file, it has another version, was truncated or changed, or was written by
            another codec.
    """
    _FRAME.body(content, name, least=len(MAGIC) + 4)
    (length,) = struct.unpack_from("<I", content, len(MAGIC))
    start = len(MAGIC) + 4 + length
    try:
        header = strict_json.parse(content[len(MAGIC) + 4 : start])
        version = header["format_version"]
        if version == FORMAT_VERSION:
            spec, fingerprint = (str(header["codec"][key]) for key in ("spec", "fingerprint"))
            n_bytes, n_tokens, digest = int(header["n_bytes"]), int(header["n_tokens"]), header["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{name} has a header that cannot be read ({error!r}), though its checksum is right: another program wrote "
            "it. Encode the document again."
        ) from error
    _FRAME.check_version(version, name)
    if fingerprint != codec.fingerprint:
        raise InputError(
            f"{name} was encoded with {spec}, fingerprint {fingerprint[:12]}; the codec given is {codec.spec}, "
            f"fingerprint {codec.fingerprint[:12]}. "
            "Give the codec that encoded it: another M1 or another vocabulary would decode to other text."
        )
    most = limits.expanded(len(content))
    if not 0 <= n_bytes <= most or not 0 <= n_tokens <= 8 * (len(content) - start) // _id_bits(codec):
        raise InputError(
            f"{name} has {len(content):,} bytes and claims {n_tokens:,} tokens for {n_bytes:,} bytes of text; at most "
            f"{most:,} bytes of text are decoded from it ({limits.HELP})."
        )
    ids = bits.unpack(np.frombuffer(content[start:-4], np.uint8), 8, _id_bits(codec))[:n_tokens].astype(np.int32)
    lengths = codec.token_byte_lengths(ids)
    if lengths is not None and int(lengths.sum(dtype=np.int64)) != n_bytes:
        raise InputError(
            f"{name} claims {n_bytes:,} bytes of text, but its tokens represent {int(lengths.sum(dtype=np.int64)):,}: "
            "another program wrote it. Encode the document again."
        )
    context = contextvars.copy_context()
    context.run(limits.PROMISED.set, n_bytes)
    data = context.run(codec.decode, ids)
    if len(data) != n_bytes or hashlib.sha256(data).hexdigest() != digest:
        raise InputError(
            f"{name} decodes to {len(data)} bytes that differ from the {n_bytes} encoded ones, though its checksum is "
            "right. The codec has a bug: please report this with the file."
        )
    return data


def _id_bits(codec: Codec) -> int:
    return max(1, (codec.vocab_size - 1).bit_length())
