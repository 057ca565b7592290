"""Stability of the ids of a text under different prefixes (Lester et al. 2024, section 6.1, figure 8)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from compressed_lm.codecs.protocol import Codec
from compressed_lm.coding.compiled import njit
from compressed_lm.errors import InputError
from compressed_lm.token_analysis.windows import common_length, tokens_per_window

SENTENCE = b"The three elephants walked slowly to the river and drank until the sun went down."


def random_prefixes(documents: Sequence[bytes], n: int = 500, *, max_words: int = 8, seed: int = 0) -> list[bytes]:
    """Returns n prefixes of 1 to `max_words` consecutive words of the documents, each ending in a space.

    Raises:
        InputError: the documents contain no word.
    """
    texts = [words for words in (document.split() for document in documents) if words]
    if not texts:
        raise InputError(f"{len(documents)} documents without a word were given. Expected text to draw prefixes from.")
    rng = np.random.default_rng(seed)
    prefixes = []
    for _ in range(n):
        words = texts[rng.integers(len(texts))]
        n_words = int(rng.integers(1, max_words + 1))
        start = int(rng.integers(max(len(words) - n_words, 0) + 1))
        prefixes.append(b" ".join(words[start : start + n_words]) + b" ")
    return prefixes


def prefix_stability(codec: Codec, sentence: bytes, prefixes: Sequence[bytes]) -> pd.DataFrame:
    """Returns how much the ids of a fixed sentence differ after different prefixes (figure 8).

    If tokens have lengths, the ids of the sentence are those that contain one of its bytes. Otherwise they start at the
    first id (of a window, if there are windows) in which the prefix with the sentence differs from the prefix alone.

    Returns:
        One row per pair of prefixes: `codec`, `first` and `second` (indices into `prefixes`), `distance` (Levenshtein
        distance of the two id sequences / length of the longer one, 0 to 1).
    """
    sequences = sentence_ids(codec, sentence, prefixes)
    first, second = np.triu_indices(len(sequences), 1)
    distance = normalised_levenshtein(sequences)
    return pd.DataFrame({"codec": codec.spec, "first": first, "second": second, "distance": distance})


def sentence_ids(codec: Codec, sentence: bytes, prefixes: Sequence[bytes]) -> list[np.ndarray]:
    """Returns the ids int32[T] of the sentence after each prefix, as defined in `prefix_stability`."""
    whole = codec.encode_batch([prefix + sentence for prefix in prefixes])
    lengths = [n for ids in whole if (n := codec.token_byte_lengths(ids)) is not None]
    if len(lengths) == len(whole):
        ends = [np.cumsum(n) for n in lengths]
        starts = [int(np.searchsorted(e, len(p), side="right")) for e, p in zip(ends, prefixes, strict=True)]
    else:
        alone, window = codec.encode_batch(prefixes), tokens_per_window(codec)
        starts = [common_length(a, w) // window * window for a, w in zip(alone, whole, strict=True)]
    return [ids[start:] for ids, start in zip(whole, starts, strict=True)]


def normalised_levenshtein(sequences: Sequence[np.ndarray]) -> np.ndarray:
    """Returns edit distance / longer length of each pair of sequences, in the order of `np.triu_indices(n, 1)`.

    Returns:
        float64[n (n - 1) / 2]; 0 for two empty sequences.
    """
    offsets = np.concatenate([[0], np.cumsum([len(s) for s in sequences], dtype=np.int64)]).astype(np.int64)
    flat = np.concatenate([np.zeros(0, np.int32), *sequences]).astype(np.int32)
    out = np.zeros(len(sequences) * (len(sequences) - 1) // 2)
    _levenshtein(flat, offsets, out)
    return out


@njit(nogil=True)
def _levenshtein(flat, offsets, out):
    n, k = len(offsets) - 1, 0
    longest = 0
    for i in range(n):
        longest = max(longest, offsets[i + 1] - offsets[i])
    row = np.empty(longest + 1, np.int32)
    for i in range(n):
        a = flat[offsets[i] : offsets[i + 1]]
        for j in range(i + 1, n):
            b = flat[offsets[j] : offsets[j + 1]]
            for y in range(len(b) + 1):
                row[y] = y
            for x in range(len(a)):
                diagonal, row[0] = row[0], x + 1
                for y in range(len(b)):
                    changed = diagonal + (a[x] != b[y])
                    diagonal = row[y + 1]
                    row[y + 1] = min(changed, row[y] + 1, diagonal + 1)
            out[k] = row[len(b)] / max(len(a), len(b), 1)
            k += 1


def distance_histogram(pairs: pd.DataFrame, n_bins: int = 50) -> pd.DataFrame:
    """Returns a histogram of the table of `prefix_stability`; a codec without pairs has no rows.

    Returns:
        One row per bin: `codec`, `low` and `high` (edges of the bin), `share` (of the codec's pairs), `mean` (distance
        of all its pairs).
    """
    edges = np.linspace(0, 1, n_bins + 1)
    tables = []
    for codec, rows in pairs.groupby("codec", sort=False):
        share = np.histogram(rows["distance"], edges)[0] / len(rows)
        mean = rows["distance"].mean()
        tables.append(
            pd.DataFrame({"codec": codec, "low": edges[:-1], "high": edges[1:], "share": share, "mean": mean})
        )
    return pd.concat(tables, ignore_index=True)
