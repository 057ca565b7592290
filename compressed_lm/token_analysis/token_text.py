"""The texts that ids stand for, and how much of the vocabulary is used (Lester et al. 2024, section 6.1, appendices C
and D.8)."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from compressed_lm.codecs.protocol import Codec
from compressed_lm.errors import InputError
from compressed_lm.token_analysis.windows import ALL_POSITIONS, common_length, tokens_per_window

_CHECKED_DOCUMENTS = 8  # documents on which windows are tried apart, to see whether they depend on each other


def token_texts(codec: Codec, documents: Sequence[bytes], *, min_count: int = 2, max_ids: int = 2048) -> pd.DataFrame:
    """The texts that each id stands for, in all places and, where windows have several tokens, by place in the window.

    The text of a token is what it spells, where tokens have lengths; in windows that decode on their own, the bytes
    that it adds to those determined by the window's tokens so far, whatever follows; in other codecs, the bytes that it
    adds to `decode_partial` of the document's ids so far. A token that adds no byte stands for no text: it never counts
    as one with the id's usual text.

    Args:
        codec: the codec.
        documents: text, all of it in memory.
        min_count: ids seen less often (at a position) are left out; the shares of rare ids are flattering.
        max_ids: for the other codecs, each of whose ids costs a call of `decode_partial` (with M1, milliseconds to
            tenths of a second): whole documents are taken in order until they have this many ids.

    Returns:
        A row per position and id: `codec`, `position` (place in the window from 0, or -1 for all of them together),
            `id`,
        `n` (occurrences), `n_texts` (different texts, "no text" among them), `share` (of occurrences with the most
            common
        text), `n_bytes` (mean length of its texts, bytes), `text` (the most common one, other bytes than UTF-8
            escaped).
    """
    return texts_of_ids(codec, codec.encode_batch(documents), min_count=min_count, max_ids=max_ids)


def texts_of_ids(codec: Codec, sequences: Sequence[np.ndarray], *, min_count: int, max_ids: int) -> pd.DataFrame:
    """`token_texts` of documents that are encoded already: ids int32[T] of each."""
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
    """`position`, `id` and `text` (bytes) of every token."""
    window = tokens_per_window(codec)
    sequences = [ids[: len(ids) // window * window] for ids in sequences if len(ids) >= window]
    if not sequences:
        raise InputError(f"The documents have no whole window of {codec.spec}; give more text.")
    if codec.token_byte_lengths(sequences[0]) is not None:
        ids, spelled_by = np.unique(np.concatenate(sequences), return_inverse=True)
        texts = np.array(codec.decode_batch(list(ids[:, None])), object)[spelled_by]
    elif window > 1 and _windows_stand_alone(codec, sequences[:_CHECKED_DOCUMENTS], window):
        texts = _window_texts(codec, np.concatenate(sequences).reshape(-1, window)).reshape(-1)
    else:
        n_documents = int(np.searchsorted(np.cumsum([len(s) for s in sequences]), max_ids)) + 1
        sequences = sequences[:n_documents]
        texts = [text for ids in sequences for text in _added_texts(codec, ids)]
    ids = np.concatenate(sequences)
    return pd.DataFrame({"position": np.arange(len(ids)) % window, "id": ids, "text": texts})


def _windows_stand_alone(codec: Codec, sequences: Sequence[np.ndarray], window: int) -> bool:
    """Whether windows decode alone to what they decode to in their documents."""
    apart = [b"".join(codec.decode_batch(list(ids.reshape(-1, window)))) for ids in sequences]
    return apart == codec.decode_batch(sequences)


def _window_texts(codec: Codec, windows: np.ndarray) -> np.ndarray:
    """The bytes that each token of windows int32[N, T] determines after those before it: object[N, T] of bytes.

    What the first tokens of a window determine is what all windows that begin with them have in common. The windows
    with the lowest and the highest code bound them all where codes are ordered as texts are; those that occur in the
    documents are taken in as well, for codecs that number their texts in another order.
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
    """A summary of `token_texts`: `codec`, `position`, `n_ids`, `stable_ids` (share of ids that always stand for one
    text), `stable_tokens` (share of tokens whose id does), `usual_tokens` (share of tokens with their id's most common
    text)."""
    rows = []
    for (codec, position), ids in texts.groupby(["codec", "position"], sort=False):
        stable, n = ids["share"] == 1, ids["n"]
        shares = stable.mean(), n[stable].sum() / n.sum(), (ids["share"] * n).sum() / n.sum()
        rows.append((codec, position, len(ids), *shares))
    return pd.DataFrame(rows, columns=["codec", "position", "n_ids", "stable_ids", "stable_tokens", "usual_tokens"])


def attested_ids(codec: Codec, documents: Sequence[bytes]) -> pd.DataFrame:
    """Which part of the vocabulary is used, and used again (appendix D.8).

    Returns:
        A row per position as in `token_texts`: `codec`, `position`, `n_tokens`, `n_ids` (different ones), `attested`
        (share of the vocabulary), `repeated` (share of the attested ids that occur twice or more).
    """
    return attested_of_ids(codec, codec.encode_batch(documents))


def attested_of_ids(codec: Codec, sequences: Sequence[np.ndarray]) -> pd.DataFrame:
    """`attested_ids` of documents that are encoded already: ids int32[T] of each."""
    window, rows = tokens_per_window(codec), []
    for position in [ALL_POSITIONS, *(range(window) if window > 1 else [])]:
        chosen = [ids if position == ALL_POSITIONS else ids[position::window] for ids in sequences]
        counts = np.bincount(np.concatenate(chosen), minlength=codec.vocab_size)
        n_ids = int(np.count_nonzero(counts))
        rows.append(
            (codec.spec, position, counts.sum(), n_ids, n_ids / len(counts), (counts > 1).sum() / max(n_ids, 1))
        )
    return pd.DataFrame(rows, columns=["codec", "position", "n_tokens", "n_ids", "attested", "repeated"])
