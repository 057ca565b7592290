"""Texts to measure capacity with, of a fixed number of tokens: natural, random words, random tokens.

A shorter text of the same source, seed and place is the beginning of the longer one, so that lengths are compared on
the same texts.
"""

import collections
import re
from collections.abc import Iterable, Sequence

import numpy as np

from compressed_lm.codecs.protocol import Codec
from compressed_lm.errors import InputError

_SENTENCE = re.compile(rb"(?:\A|[.!?][\"')\]]*\s+|\n)(?=[A-Z\"'(])")
_WORD = re.compile(rb"[a-z]+(?:'[a-z]+)?")
_SPARE = 8  # tokens that a codec must have after a text's last one: those at the end of what it is given may differ


def natural(
    documents: Iterable[bytes], codec: Codec, *, n_tokens: int, n_texts: int, seed: int = 0
) -> list[np.ndarray]:
    """Returns texts int32[n_tokens] from documents, each from the start of a sentence on.

    Sentences are drawn from all documents together, without replacement.

    Args:
        documents: of the validation split, or of a domain that the model has not seen.
        codec: of the model.
        n_tokens: N.
        n_texts: how many.
        seed: of the draw.

    Raises:
        InputError: too few sentences have so much text after them.
    """
    documents = list(documents)
    starts = [(i, match.end()) for i, document in enumerate(documents) for match in _SENTENCE.finditer(document)]
    texts = []
    for place in np.random.default_rng(seed).permutation(len(starts)):
        if len(texts) == n_texts:
            break
        i, start = starts[place]
        ids = _beginning(lambda n, i=i, start=start: documents[i][start : start + n], codec, n_tokens)
        if ids is not None:
            texts.append(ids)
    if len(texts) < n_texts:
        raise InputError(
            f"{n_texts} texts of {n_tokens} tokens were asked for, and the {len(documents):,} documents given have "
            f"{len(starts):,} sentences, {len(texts)} of them with so much text after them. Give more documents or "
            "longer ones, or ask for fewer or shorter texts."
        )
    return texts


def frequent_words(documents: Iterable[bytes], size: int = 10_000) -> list[bytes]:
    """Returns the most frequent words of documents, in lower case, the most frequent first and equals by alphabet.

    Raises:
        InputError: there is not one word.
    """
    counts = collections.Counter()
    for document in documents:
        counts.update(_WORD.findall(document.lower()))
    if not counts:
        raise InputError("A list of frequent words was asked for, and the documents given have not one word in a-z.")
    return [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:size]]


def random_words(
    words: Sequence[bytes], codec: Codec, *, n_tokens: int, n_texts: int, seed: int = 0
) -> list[np.ndarray]:
    """Returns texts int32[n_tokens] of independent words with spaces between, each word as likely as the others."""
    texts = []
    for i in range(n_texts):
        rng, drawn = np.random.default_rng([seed, i]), bytearray()

        def content(n, rng=rng, drawn=drawn):
            while len(drawn) < n:
                drawn.extend(words[rng.integers(len(words))] + b" ")
            return bytes(drawn[:n])

        texts.append(_beginning(content, codec, n_tokens))
    return texts


def random_tokens(codec: Codec, *, n_tokens: int, n_texts: int, seed: int = 0) -> list[np.ndarray]:
    """Returns texts int32[n_tokens] of independent ids, each id of the codec as likely as the others. They need not be
    the encoding of anything."""
    rngs = [np.random.default_rng([seed, i]) for i in range(n_texts)]
    return [rng.integers(0, codec.vocab_size, n_tokens).astype(np.int32) for rng in rngs]


def _beginning(content, codec, n_tokens):
    """Returns the first ids of a text whose first n bytes are `content(n)`; None if it is too short."""
    n_bytes = 8 * n_tokens
    while True:
        data = content(n_bytes)
        ids = codec.encode(data)
        if len(ids) >= n_tokens + _SPARE:
            return np.asarray(ids[:n_tokens], np.int32)
        if len(data) < n_bytes:  # all there is
            return None
        n_bytes *= 2
