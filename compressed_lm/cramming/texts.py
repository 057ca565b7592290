"""Texts with a fixed number of tokens for capacity measurements: natural text, random words, random tokens.

A shorter text of the same source, seed and index is the beginning of the longer one, so that lengths are compared on
the same texts.
"""

import collections
import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from compressed_lm.codecs.protocol import Codec
from compressed_lm.errors import InputError

_SENTENCE = re.compile(rb"(?:\A|[.!?][\"')\]]*\s+|\n)(?=[A-Z\"'(])")
_WORD = re.compile(rb"[a-z]+(?:'[a-z]+)?")
_SPARE = 8  # additional tokens after a text, since the last tokens of the encoded bytes may differ


def natural(
    documents: Iterable[bytes], codec: Codec, *, n_tokens: int, n_texts: int, seed: int = 0
) -> list[np.ndarray]:
    """Returns texts int32[n_tokens] from documents, each beginning with a sentence.

    Sentences are drawn from all documents, without replacement.

    Args:
        documents: documents of the validation split, or of a domain that the model has not seen.
        codec: codec of the model.
        n_tokens: N.
        n_texts: number of texts.
        seed: seed of the draw.

    Raises:
        InputError: too few sentences have enough text after them.
    """
    documents = list(documents)
    starts = [(i, match.end()) for i, document in enumerate(documents) for match in _SENTENCE.finditer(document)]
    texts: list[np.ndarray] = []
    for place in np.random.default_rng(seed).permutation(len(starts)):
        if len(texts) == n_texts:
            break
        i, start = starts[place]

        def content(n: int, i: int = i, start: int = start) -> bytes:
            return documents[i][start : start + n]

        ids = _beginning(content, codec, n_tokens)
        if ids is not None:
            texts.append(ids)
    if len(texts) < n_texts:
        raise InputError(
            f"{n_texts} texts of {n_tokens} tokens were requested, and the {len(documents):,} documents have "
            f"{len(starts):,} sentences, {len(texts)} of them with enough text after them. Give more or longer "
            "documents, or request fewer or shorter texts."
        )
    return texts


def frequent_words(documents: Iterable[bytes], size: int = 10_000) -> list[bytes]:
    """Returns the most frequent words of documents in lower case, sorted by frequency, then alphabetically.

    Raises:
        InputError: the documents have no words.
    """
    counts: collections.Counter[bytes] = collections.Counter()
    for document in documents:
        counts.update(_WORD.findall(document.lower()))
    if not counts:
        raise InputError("Frequent words were requested, and the documents have no word in a-z. Give other documents.")
    return [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:size]]


def random_words(
    words: Sequence[bytes], codec: Codec, *, n_tokens: int, n_texts: int, seed: int = 0
) -> list[np.ndarray]:
    """Returns texts int32[n_tokens] of independent, uniformly drawn words, separated by spaces."""
    texts = []
    for i in range(n_texts):
        rng, drawn = np.random.default_rng([seed, i]), bytearray()

        def content(n: int, rng: np.random.Generator = rng, drawn: bytearray = drawn) -> bytes:
            while len(drawn) < n:
                drawn.extend(words[int(rng.integers(len(words)))] + b" ")
            return bytes(drawn[:n])

        ids = _beginning(content, codec, n_tokens)
        assert ids is not None  # `content` never ends
        texts.append(ids)
    return texts


def random_tokens(codec: Codec, *, n_tokens: int, n_texts: int, seed: int = 0) -> list[np.ndarray]:
    """Returns texts int32[n_tokens] of independent, uniformly drawn ids, which `encode` may never produce."""
    rngs = [np.random.default_rng([seed, i]) for i in range(n_texts)]
    return [rng.integers(0, codec.vocab_size, n_tokens).astype(np.int32) for rng in rngs]


def _beginning(content: Callable[[int], bytes], codec: Codec, n_tokens: int) -> np.ndarray | None:
    """Returns the first ids of a text whose first n bytes are `content(n)`; None if it is too short."""
    n_bytes = 8 * n_tokens
    while True:
        data = content(n_bytes)
        ids = codec.encode(data)
        if len(ids) >= n_tokens + _SPARE:
            return np.asarray(ids[:n_tokens], np.int32)
        if len(data) < n_bytes:  # the text ends here
            return None
        n_bytes *= 2
