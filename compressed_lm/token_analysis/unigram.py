"""Context-free models of ids (Lester et al. 2024, section 3, table 3)."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from compressed_lm.codecs.protocol import Codec
from compressed_lm.token_analysis.uniformity import entropy_bits

SAME, SEPARATE = "same documents, Miller-Madow", "separate documents, add-one"


def unigram_gain(
    codec: Codec, documents: Sequence[bytes], fit_documents: Sequence[bytes] | None = None
) -> pd.DataFrame:
    """Returns bits per byte of a uniform and of a unigram model over the ids (table 3), without end-of-document.

    Args:
        codec: the codec.
        documents: text to measure.
        fit_documents: other text to fit the unigram model on.

    Returns:
        `codec`, `fit`, `n_bytes`, `n_tokens`, `uniform` (bits per byte), `unigram` (bits per byte), `gain` (their
        difference). One row uses the entropy of the documents' own ids with the Miller-Madow correction (`SAME`). With
        `fit_documents`, a second row uses frequencies counted there plus one (`SEPARATE`). If the vocabulary is large
        for the text, the first is too low, and the second too high: most of its probability is on unseen ids.
    """
    fit = None if fit_documents is None else codec.encode_batch(fit_documents)
    return gain_of_ids(codec, codec.encode_batch(documents), sum(map(len, documents)), fit)


def gain_of_ids(
    codec: Codec, sequences: Sequence[np.ndarray], n_bytes: int, fit_sequences: Sequence[np.ndarray] | None
) -> pd.DataFrame:
    """Returns `unigram_gain` of encoded documents, ids int32[T] each."""

    def count(parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.bincount(np.concatenate([np.zeros(0, np.int32), *parts]), minlength=codec.vocab_size)

    counts = count(sequences)
    n_tokens = int(counts.sum())
    unigrams = {SAME: n_tokens * entropy_bits(counts)}
    if fit_sequences is not None:
        frequencies = count(fit_sequences) + 1
        unigrams[SEPARATE] = float(counts @ (math.log2(frequencies.sum()) - np.log2(frequencies)))
    table = pd.DataFrame({"fit": list(unigrams), "n_bytes": n_bytes, "n_tokens": n_tokens})
    table["uniform"] = n_tokens * math.log2(codec.vocab_size) / max(n_bytes, 1)
    table["unigram"] = np.array(list(unigrams.values())) / max(n_bytes, 1)
    table.insert(0, "codec", codec.spec)
    return table.assign(gain=table["uniform"] - table["unigram"])
