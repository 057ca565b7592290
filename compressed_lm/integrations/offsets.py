"""Offsets of tokens in a text, in characters."""

import numpy as np

from compressed_lm.errors import InputError


def utf8(text: str, name: str) -> bytes:
    """Returns the bytes of a text: UTF-8, in which U+DC80 to U+DCFF are the bytes 128 to 255.

    Python decodes invalid UTF-8 to these characters with `errors="surrogateescape"`, so any byte string has a text.

    Raises:
        InputError: the text has another surrogate, which has no UTF-8.
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{name} was given a text with the surrogate U+{ord(text[error.start]):04X} at character {error.start}, "
            'which has no UTF-8. Remove it: text.encode("utf-8", "ignore").decode("utf-8").'
        ) from None


def character_offsets(text: str, lengths: np.ndarray) -> list[tuple[int, int]]:
    """Returns the first character of each token and the one after its last, as byte-level BPE of `tokenizers` does.

    A token that begins or ends inside a character has the whole character.

    Args:
        text: the text of all tokens.
        lengths: int[T], bytes of each token (`utf8`).
    """
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    sizes = 1 + (points >= 0x80) + (points >= 0x800) + (points >= 0x10000)
    sizes[(points >= 0xDC80) & (points <= 0xDCFF)] = 1  # one byte of invalid UTF-8
    character = np.repeat(np.arange(len(points)), sizes)
    ends = np.cumsum(lengths, dtype=np.int64)
    begins = ends - lengths
    if not len(ends):
        return []
    if ends[-1] != len(character):
        raise InputError(
            f"Tokens of {ends[-1]} bytes were given for a text of {len(character)}; as many were expected. Offsets "
            "need the ids of this text."
        )
    padded = np.append(character, len(points))
    last = np.where(lengths > 0, character[np.maximum(ends - 1, 0)] + 1 if len(character) else 0, padded[begins])
    return list(zip(padded[begins].tolist(), last.tolist(), strict=True))
