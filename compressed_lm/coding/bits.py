"""Bit packing: fixed-width codes and byte streams to tokens, and back."""

import numpy as np
import numpy.typing as npt

from compressed_lm.errors import InputError

_BLOCK = 1 << 18  # values packed at a time, a multiple of 8


def token_bits(vocab_size: int) -> int:
    """Returns log2 of a vocabulary size. Raises ValueError unless it is a power of two between 2 and 2**16."""
    width = int(vocab_size).bit_length() - 1
    if not 1 <= width <= 16 or 1 << width != vocab_size:
        raise InputError(
            f"A vocabulary of {vocab_size} was given; a power of two from 2 to 65536 (such as 256, 4096, "
            "65536) was expected."
        )
    return width


def repack(values: npt.ArrayLike, from_bits: int, to_bits: int) -> np.ndarray:
    """Returns the same bits in fields of another width, most significant bit first; the last one is zero-padded.

    Args:
        values: integers[N] below 2**from_bits.
        from_bits: width of the given fields, at most 32.
        to_bits: width of the returned fields, at most 32.

    Returns:
        uint32[ceil(N * from_bits / to_bits)].
    """
    values = np.asarray(values, np.uint32)
    if from_bits == to_bits:
        return values.copy()
    if from_bits % to_bits == 0:
        shifts = np.arange(from_bits - to_bits, -1, -to_bits, dtype=np.uint32)
        return ((values[:, None] >> shifts) & np.uint32((1 << to_bits) - 1)).reshape(-1)
    return unpack_bits(pack_bits(values, from_bits), to_bits, -(-len(values) * from_bits // to_bits))


def pack_bits(values: npt.ArrayLike, width: int) -> bytes:
    """Returns integers below 2**width as bytes without gaps, most significant bit first; the last one is zero-padded.

    Args:
        values: integers[N] below 2**width.
        width: bits per value, at most 32.

    Returns:
        ceil(N * width / 8) bytes.
    """
    values = np.asarray(values)
    if width == 8:
        return values.astype(np.uint8).tobytes()
    shifts = np.arange(width - 1, -1, -1, dtype=np.uint32)
    # Block by block, since each bit takes four bytes below. The values of a block fill whole bytes.
    blocks = (values[i : i + _BLOCK].astype(np.uint32) for i in range(0, len(values), _BLOCK))
    return b"".join(np.packbits((block[:, None] >> shifts & 1).astype(np.uint8)).tobytes() for block in blocks)


def unpack_bits(content: bytes, width: int, count: int) -> np.ndarray:
    """Returns uint32[count], the values of `pack_bits`; bits after the end of the bytes are zeros."""
    packed = np.frombuffer(content, np.uint8)
    if width == 8:
        return packed[:count].astype(np.uint32)
    values = np.zeros(count, np.uint32)
    for i in range(0, count, _BLOCK):
        block = values[i : i + _BLOCK]
        bits = np.unpackbits(packed[i * width // 8 :], count=len(block) * width).reshape(len(block), width)
        for column in range(width):
            block <<= 1
            block |= bits[:, column]
    return values


def unpack(tokens: np.ndarray, from_bits: int, to_bits: int) -> np.ndarray:
    """Returns the whole fields of `to_bits` in tokens; undoes `repack`. Remaining bits are padding and are dropped."""
    fields = repack(tokens, from_bits, to_bits)
    return fields[: len(tokens) * from_bits // to_bits]


def codes_to_tokens(codes: npt.ArrayLike, code_bits: int, token_bits: int) -> np.ndarray:
    """Returns the tokens of window codes; the last token is zero-padded.

    Args:
        codes: uint32[N, K], codes below 2**code_bits as 16-bit limbs, most significant first.
        code_bits: b, at most 16 K.
        token_bits: log2(V), at most 16.

    Returns:
        int32[ceil(N * b / token_bits)].
    """
    codes = np.asarray(codes, np.uint32)
    n_limbs = codes.shape[1]
    if code_bits == 16 * n_limbs:
        return repack(codes.reshape(-1), 16, token_bits).astype(np.int32)
    if len(codes) > (block := token_bits << 12):  # codes that fill whole tokens, see `repack`
        parts = [codes_to_tokens(codes[i : i + block], code_bits, token_bits) for i in range(0, len(codes), block)]
        return np.concatenate(parts)
    bits = np.unpackbits(codes.astype(">u2").view(np.uint8).reshape(len(codes), 2 * n_limbs), axis=1)
    bits = bits[:, 16 * n_limbs - code_bits :].reshape(-1)
    return _pack(np.concatenate([bits, np.zeros(-len(bits) % token_bits, np.uint8)]), token_bits)[:, 0].astype(np.int32)


def tokens_to_codes(tokens: np.ndarray, token_bits: int, code_bits: int) -> np.ndarray:
    """Returns the whole codes in tokens, uint32[N, K]; undoes `codes_to_tokens`. Remaining bits are padding."""
    n_limbs = -(-code_bits // 16)
    if code_bits == 16 * n_limbs:
        fields = unpack(tokens, token_bits, 16)
        return fields[: len(fields) // n_limbs * n_limbs].reshape(-1, n_limbs)
    tokens = np.asarray(tokens)
    if len(tokens) > (block := code_bits << 12):
        return np.concatenate(
            [tokens_to_codes(tokens[i : i + block], token_bits, code_bits) for i in range(0, len(tokens), block)]
        )
    bits = np.unpackbits(tokens.astype(">u2").view(np.uint8).reshape(len(tokens), 2), axis=1)[:, -token_bits:]
    n_codes = bits.size // code_bits
    return _pack(bits.reshape(-1)[: n_codes * code_bits], code_bits)


def _pack(bits: np.ndarray, width: int) -> np.ndarray:
    """Returns fields of `width` bits as 16-bit limbs, uint32[N, K], from single bits uint8[N * width]."""
    n_limbs = -(-width // 16)
    rows = np.zeros((len(bits) // width, 16 * n_limbs), np.uint8)
    rows[:, 16 * n_limbs - width :] = bits.reshape(-1, width)
    return np.packbits(rows, axis=1).view(">u2").astype(np.uint32)
