"""Texts of ids, and use of the vocabulary (Lester et al. 2024, section 6.1, appendices C and D.8)."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from compressed_lm.codecs.protocol import Codec
from compressed_lm.errors import InputError
from compressed_lm.token_analysis.windows import ALL_POSITIONS, common_length, tokens_per_window

_CHECKED_DOCUMENTS = 8  # documents used to test whether windows can be decoded independently


def token_texts(codec: Codec, documents: Sequence[bytes], *, min_count: int = 2, max_ids: int = 2048) -> pd.DataFrame:
    """Returns the texts of each id, at all positions together and, if windows have several tokens, by position.

    The text of a token depends on the codec. If tokens have lengths, it is the decoded token. If windows decode
    independently, it is the bytes that the token adds to those determined by the previous tokens of the window. In
    other codecs, it is the bytes that the token adds to `decode_partial` of the previous ids of the document. A token
    that adds no byte has no text: it never counts as a token with the id's usual text.

    Args:
        codec: the codec.
        documents: text, all in memory.
        min_count: ids seen less often (at a position) are left out, because shares of rare ids are biased upwards.
        max_ids: limit for the other codecs, where each id needs a call of `decode_partial` (with M1, milliseconds to
            tenths of a second): whole documents are used in order until they have this many ids.

    Returns:
        One row per position and id: `codec`, `position` (in the window from 0, or -1 for all positions together), `id`,
        `n` (occurrences), `n_texts` (different texts, including "no text"), `share` (of occurrences with the most
        common text), `n_bytes` (mean length of its texts, bytes), `text` (the most common one, with bytes that are not
        UTF-8 escaped).
    """
    return texts_of_ids(codec, codec.encode_batch(documents), min_count=min_count, max_ids=max_ids)


def texts_of_ids(codec: Codec, sequences: Sequence[np.ndarray], *, min_count: int, max_ids: int) -> pd.DataFrame:
    """Returns `token_texts` of encoded documents, ids int32[T] each."""
    tokens = _occurrences(codec, sequences, max_ids)
    tables = [tokens.assign(position=ALL_POSITIONS)] + ([tokens] if tokens_per_window(codec) > 1 else [])
    key = ["position", "id"]
    counts = pd.concat(tables).groupby([*key, "text"]).size().rename("count").reset_index()
    size = counts["text"].map(len)
    counts = counts.assign(total=counts["count"] * size, usual=counts["count"].where(size > 0, 0))
    counts = counts.sort_values([*key, "usual"], ascending=[True, True, False], kind="stable")
    ids = counts.groupby(key)
    out = ids.agg(n=("count", "sum"), n_texts=("text", "size"), usual=("usual", "max"), total=("total", "sum"))
    out = out.assign(share=out["usual"] / out["n"], n_bytes=out["total"] / out["n"], text=ids["text"].first())
    out = out[out["n"] >= min_count].reset_index()
    out["text"] = [text.decode("utf-8", "backslashreplace") for text in out["text"]]
    out.insert(0, "codec", codec.spec)
    return out.drop(columns=["usual", "total"])


def _occurrences(codec: Codec, sequences: Sequence[np.ndarray], max_ids: int) -> pd.DataFrame:
    """Returns `position`, `id` and `text` (bytes) of every token."""
    window = tokens_per_window(codec)
    sequences = [ids[: len(ids) // window * window] for ids in sequences if len(ids) >= window]
    if not sequences:
        raise InputError(f"The documents contain no complete window of {codec.spec}. Give more text.")
    if codec.token_byte_lengths(sequences[0]) is not None:
        ids, index = np.unique(np.concatenate(sequences), return_inverse=True)
        texts = np.array(codec.decode_batch(list(ids[:, None])), object)[index].tolist()
    elif window > 1 and _windows_stand_alone(codec, sequences[:_CHECKED_DOCUMENTS], window):
        texts = _window_texts(codec, np.concatenate(sequences).reshape(-1, window)).reshape(-1).tolist()
    else:
        n_documents = int(np.searchsorted(np.cumsum([len(s) for s in sequences]), max_ids)) + 1
        sequences = sequences[:n_documents]
        texts = [text for ids in sequences for text in _added_texts(codec, ids)]
    ids = np.concatenate(sequences)
    return pd.DataFrame({"position": np.arange(len(ids)) % window, "id": ids, "text": texts})


def _windows_stand_alone(codec: Codec, sequences: Sequence[np.ndarray], window: int) -> bool:
    """Returns whether windows decoded alone give the same text as within their documents."""
    apart = [b"".join(codec.decode_batch(list(ids.reshape(-1, window)))) for ids in sequences]
    return apart == codec.decode_batch(sequences)


def _window_texts(codec: Codec, windows: np.ndarray) -> np.ndarray:
    """Returns the bytes that each token of windows int32[N, T] adds to the previous ones: object[N, T] of bytes.

    The first tokens of a window determine the common prefix of all windows that begin with them. If codes have the
    order of texts, the windows with the lowest and the highest code bound all others. For codecs with another order,
    the windows that occur in the documents are included as well.
    """
    unique, number = np.unique(windows, axis=0, return_inverse=True)
    texts = codec.decode_batch(list(unique))
    n_tokens = windows.shape[1]
    ends = np.zeros((len(unique), n_tokens + 1), np.int64)
    ends[:, -1] = [len(text) for text in texts]
    for n in range(1, n_tokens):
        heads, head_of = np.unique(unique[:, :n], axis=0, return_inverse=True)
        lowest, highest = (
            codec.decode_batch(list(np.pad(heads, ((0, 0), (0, n_tokens - n)), constant_values=fill)))
            for fill in (0, codec.vocab_size - 1)
        )
        shared = np.array([common_length(a, b) for a, b in zip(lowest, highest, strict=True)])
        np.minimum.at(shared, head_of, [common_length(lowest[h], t) for h, t in zip(head_of, texts, strict=True)])
        ends[:, n] = shared[head_of]
    ends = np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]
    out = np.empty((len(unique), n_tokens), object)
    for i, text in enumerate(texts):
        out[i] = [text[ends[i, n] : ends[i, n + 1]] for n in range(n_tokens)]
    return out[number]


def _added_texts(codec: Codec, ids: np.ndarray) -> Iterator[bytes]:
    known = 0
    for n in range(1, len(ids) + 1):
        text = codec.decode_partial(ids[:n])
        yield text[known:]
        known = max(known, len(text))


def text_stability(texts: pd.DataFrame) -> pd.DataFrame:
    """Returns a summary of `token_texts`.

    Returns:
        One row per codec and position: `codec`, `position`, `n_ids`, `stable_ids` (share of ids with a single text),
        `stable_tokens` (share of tokens with such an id), `usual_tokens` (share of tokens with their id's most common
        text).
    """
    rows = []
    for (codec, position), ids in texts.groupby(["codec", "position"], sort=False):
        stable, n = ids["share"] == 1, ids["n"]
        shares = stable.mean(), n[stable].sum() / n.sum(), (ids["share"] * n).sum() / n.sum()
        rows.append((codec, position, len(ids), *shares))
    return pd.DataFrame(rows, columns=["codec", "position", "n_ids", "stable_ids", "stable_tokens", "usual_tokens"])


def attested_ids(codec: Codec, documents: Sequence[bytes]) -> pd.DataFrame:
    """Returns which part of the vocabulary occurs, once and repeatedly (appendix D.8).

    Returns:
        One row per position as in `token_texts`: `codec`, `position`, `n_tokens`, `n_ids` (different ids), `attested`
        (share of the vocabulary), `repeated` (share of the attested ids that occur at least twice).
    """
    return attested_of_ids(codec, codec.encode_batch(documents))


def attested_of_ids(codec: Codec, sequences: Sequence[np.ndarray]) -> pd.DataFrame:
    """Returns `attested_ids` of encoded documents, ids int32[T] each."""
    window, rows = tokens_per_window(codec), []
    for position in [ALL_POSITIONS, *(range(window) if window > 1 else [])]:
        chosen = [ids if position == ALL_POSITIONS else ids[position::window] for ids in sequences]
        counts = np.bincount(np.concatenate(chosen), minlength=codec.vocab_size)
        n_ids = int(np.count_nonzero(counts))
        rows.append(
            (codec.spec, position, counts.sum(), n_ids, n_ids / len(counts), (counts > 1).sum() / max(n_ids, 1))
        )
    return pd.DataFrame(rows, columns=["codec", "position", "n_tokens", "n_ids", "attested", "repeated"])
