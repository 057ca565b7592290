"""The code length of a text under a model, by coding it: a second measure of what its loss says.

The range coder has tables of 16 bits, which vocabularies of 100,000 ids do not fit into. So a token is two symbols: the
leading bits of its id, then the others, given the leading ones. Their probabilities multiply to the token's.
"""

from collections.abc import Sequence

import numpy as np

from compressed_lm.coding import range_coder
from compressed_lm.coding.tables import TABLE_TOTAL, cumulative
from compressed_lm.cramming.frozen import FrozenModel, probabilities
from compressed_lm.errors import InputError


def tables(probabilities: np.ndarray) -> np.ndarray:
    """Returns uint32[N, S + 1], cumulative tables of 2**16 for distributions float[N, S].

    Every symbol has a frequency of at least 1, and what rounding leaves goes to the likeliest.
    """
    n, size = probabilities.shape
    if size > TABLE_TOTAL // 2:
        raise InputError(f"Distributions over {size} symbols were given; tables of 2**16 hold at most 2**15.")
    total = np.maximum(probabilities.sum(-1, keepdims=True), np.finfo(float).tiny)
    frequencies = 1 + np.floor(probabilities / total * (TABLE_TOTAL - size)).astype(np.int64)
    frequencies[np.arange(n), probabilities.argmax(-1)] += TABLE_TOTAL - frequencies.sum(-1)
    return cumulative(frequencies.astype(np.uint32))


def encode(distributions: np.ndarray, ids: np.ndarray) -> bytes:
    """Returns the stream of tokens under their distributions.

    Args:
        distributions: float64[N, V].
        ids: int[N].
    """
    return range_coder.encode(*entries(distributions, ids))


def entries(distributions: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (below, freq), uint32[2 N] each: the table entries of the two symbols of each token."""
    parts, width = _parts(distributions)
    rows = np.arange(len(ids))
    high, low = np.divmod(np.asarray(ids), width)
    both = [_entries(parts.sum(-1), high), _entries(parts[rows, high], low)]
    below, freq = (np.stack(pair, axis=1).reshape(-1) for pair in zip(*both, strict=True))
    return below, freq


def decode(stream: bytes, distributions: np.ndarray) -> np.ndarray:
    """Returns int32[N], the tokens of a stream, by the readable decoder; undoes `encode`."""
    decoder, ids = range_coder.Decoder(stream), []
    for row in distributions:
        parts, width = _parts(row[None])
        high = decoder.symbol(tables(parts.sum(-1))[0])
        ids.append(high * width + decoder.symbol(tables(parts[:, high])[0]))
    return np.array(ids, np.int32)


def coded_bytes(model: FrozenModel, vectors: Sequence, texts: Sequence[np.ndarray]) -> int:
    """Returns the bytes of texts in one stream, each coded with what the model gives it after its vectors.

    Args:
        model: the model.
        vectors: float[K, D] of each text.
        texts: int32[N] each.
    """
    each = [entries(probabilities(model, v, ids), ids) for v, ids in zip(vectors, texts, strict=True)]
    below, freq = (np.concatenate(arrays) for arrays in zip(*each, strict=True))
    return len(range_coder.encode(below, freq))


def coded_bytes_alone(model: FrozenModel, texts: Sequence[np.ndarray]) -> int:
    """Returns the bytes of texts in one stream, each coded with what the model gives it after end-of-document: the size
    that arithmetic coding with this model compresses them to."""
    return coded_bytes(model, [model.alone] * len(texts), texts)


def _parts(distributions):
    """Returns (float64[N, high, low], low): the distributions with ids in rows of `low`, a power of two."""
    n, size = distributions.shape
    width = 1 << -(-(size - 1).bit_length() // 2)
    rows = -(-size // width)
    return np.pad(distributions, ((0, 0), (0, rows * width - size))).reshape(n, rows, width), width


def _entries(distributions, symbols):
    """Returns (below, freq), uint32[N] each: the entries of symbols in their tables."""
    cdfs, rows = tables(distributions), np.arange(len(symbols))
    below = cdfs[rows, symbols]
    return below, cdfs[rows, symbols + 1] - below
