"""Vocabulary in the metadata of a GGUF file."""

import collections
import enum
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from compressed_lm.errors import InputError


class TokenType(enum.IntEnum):
    """Types of tokens, with the numbers of `gguf.TokenType`, which are those of SentencePiece."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class Vocabulary(NamedTuple):
    """Tokens by id.

    Attributes:
        tokens: text of each token, in the alphabet of its kind of tokenizer.
        kinds: `TokenType` of each token.
        scores: float32[V]; zeros if the file has none.
    """

    tokens: Sequence[str]
    kinds: Sequence[int]
    scores: np.ndarray

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Vocabulary":
        """Returns the vocabulary of a file.

        Args:
            values: the metadata.

        Raises:
            InputError: lists are missing, have other lengths than the tokens, or two tokens are equal.
        """
        tokens = values.get("tokenizer.ggml.tokens")
        if not isinstance(tokens, list) or not tokens:
            raise InputError("The GGUF file has a tokenizer without tokens. Copy it again from its source.")
        kinds = _numbers(values, "token_type", len(tokens), "iu", TokenType.NORMAL)
        if unknown := set(kinds.tolist()) - set(TokenType):
            raise InputError(f"The GGUF file has a token of the unknown type {min(unknown)}. Copy it from its source.")
        used = [token for token, kind in zip(tokens, kinds, strict=True) if kind != TokenType.UNUSED]
        if len(set(used)) < len(used):
            twice = collections.Counter(used).most_common(1)[0][0]
            raise InputError(
                f"The GGUF file has the token {twice!r:.100} twice, so that its ids are not defined. Get the model in "
                "another file."
            )
        return cls(tokens, kinds.tolist(), _numbers(values, "scores", len(tokens), "f", 0).astype(np.float32))

    def ids(self, *kinds: TokenType) -> list[int]:
        """Returns the ids of the tokens of some types."""
        return [i for i, kind in enumerate(self.kinds) if kind in kinds]


def _numbers(values: Mapping[str, Any], key: str, count: int, types: str, default: int) -> np.ndarray:
    """Returns an array of the metadata, with one number for each token."""
    found = values.get(f"tokenizer.ggml.{key}", np.full(count, default, np.float32 if types == "f" else np.int32))
    if not isinstance(found, np.ndarray) or found.dtype.kind not in types or len(found) != count:
        raise InputError(
            f"The GGUF file has {count:,} tokens, and tokenizer.ggml.{key} is not a list of as many numbers. Copy it "
            "again from its source."
        )
    return found
