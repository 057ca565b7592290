"""Bits of each document of a store under a model, for comparisons on the same documents."""

import functools
import math

import jax
import numpy as np

from compressed_lm.data.store import TokenStore
from compressed_lm.evaluation.bits_per_byte import row_length
from compressed_lm.models import Transformer, TransformerConfig
from compressed_lm.training.step import Params, eval_nats


def document_bits(
    params: Params, model_config: TransformerConfig, store: TokenStore, *, seq_len: int, batch_size: int = 16
) -> tuple[np.ndarray, np.ndarray]:
    """Returns bits and bytes of each document.

    Rows are those of `BitsPerByte`, so the sums are equal. The bits of a document are those of its tokens and of the
    end-of-document token that follows.

    Args:
        params: parameters of the model.
        model_config: shape of the model.
        store: the documents.
        seq_len: L, tokens per row; a text that is shorter than one row gets a shorter row.
        batch_size: largest number of rows at a time.

    Returns:
        bits float64[D], n_bytes int64[D].
    """
    nats_of = jax.jit(functools.partial(eval_nats, model=Transformer(model_config), eod_id=store.eod_id))
    seq_len = row_length(store, seq_len)
    rows = store.rows(seq_len, drop_remainder=False)
    batch_size = min(batch_size, len(rows))
    nats = []
    for first in range(0, len(rows), batch_size):
        batch = [rows[i] for i in range(first, min(first + batch_size, len(rows)))]
        batch += [np.full(seq_len, -1, np.int32)] * (batch_size - len(batch))
        nats.append(np.asarray(nats_of(params, np.stack(batch)), np.float64).reshape(-1))
    lengths, n_bytes = np.array([(len(r.ids) + 1, r.n_bytes) for r in store.documents()]).T
    stream = np.concatenate(nats)[: lengths.sum()]
    return np.add.reduceat(stream, np.cumsum(lengths) - lengths) / math.log(2), n_bytes
