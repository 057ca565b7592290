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
