"""Cutting fixed-width codes and byte streams into tokens, and back."""

import numpy as np


def token_bits(vocab_size: int) -> int:
    """log2 of the vocabulary size. Raises ValueError unless it is a power of two between 2 and 2**16."""
    width = int(vocab_size).bit_length() - 1
    if not 1 <= width <= 16 or 1 << width != vocab_size:
        raise ValueError(
            f"A vocabulary of {vocab_size} was given; a power of two from 2 to 65536 (such as 256, 4096, "
            "65536) was expected."
        )
    return width


def repack(values, from_bits: int, to_bits: int) -> np.ndarray:
    """The same bits cut into fields of another width, most significant bit first; the last field is filled up with
    zeros.

    Args:
        values: integers[N] below 2**from_bits.
        from_bits: width of the given fields, at most 32.
        to_bits: width of the wanted fields, at most 32.

    Returns:
        uint32[ceil(N * from_bits / to_bits)].
    """
    values = np.asarray(values, np.uint32)
    if from_bits == to_bits:
        return values.copy()
    if from_bits % to_bits == 0:
        shifts = np.arange(from_bits - to_bits, -1, -to_bits, dtype=np.uint32)
        return ((values[:, None] >> shifts) & np.uint32((1 << to_bits) - 1)).reshape(-1)
    block = (
        to_bits << 14
    )  # values that fill whole fields; a bit takes four bytes on the way, so long inputs go block by block
    if len(values) > block:
        return np.concatenate([repack(values[i : i + block], from_bits, to_bits) for i in range(0, len(values), block)])
    shifts = np.arange(from_bits - 1, -1, -1, dtype=np.uint32)
    bits = ((values[:, None] >> shifts) & np.uint32(1)).reshape(-1)
    bits = np.concatenate([bits, np.zeros(-len(bits) % to_bits, np.uint32)]).reshape(-1, to_bits)
    return (bits << np.arange(to_bits - 1, -1, -1, dtype=np.uint32)).sum(-1, dtype=np.uint32)


def unpack(tokens, from_bits: int, to_bits: int) -> np.ndarray:
    """`repack` undone: the whole fields of `to_bits` that the tokens hold; fewer than `to_bits` left-over bits are
    fill and are dropped."""
    fields = repack(tokens, from_bits, to_bits)
    return fields[: len(tokens) * from_bits // to_bits]


def codes_to_tokens(codes, code_bits: int, token_bits: int) -> np.ndarray:
    """Window codes cut into tokens; the last token is filled up with zeros where its width does not divide.

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


def tokens_to_codes(tokens, token_bits: int, code_bits: int) -> np.ndarray:
    """`codes_to_tokens` undone, uint32[N, K]: the whole codes that the tokens hold; what is left over is fill."""
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
    """Fields of `width` bits as 16-bit limbs uint32[N, K] from single bits uint8[N * width]."""
    n_limbs = -(-width // 16)
    rows = np.zeros((len(bits) // width, 16 * n_limbs), np.uint8)
    rows[:, 16 * n_limbs - width :] = bits.reshape(-1, width)
    return np.packbits(rows, axis=1).view(">u2").astype(np.uint32)
