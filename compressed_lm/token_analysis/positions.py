"""Loss of a model by the position of a token in its window (Lester et al. 2024, section 6.2, appendix A.1)."""

import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from compressed_lm.codecs.protocol import Codec
from compressed_lm.data.store import PADDING, TokenStore
from compressed_lm.models import Transformer
from compressed_lm.token_analysis.windows import tokens_per_window
from compressed_lm.training import load_run, token_nats
from compressed_lm.training.step import map_logits


def bits_by_token_position(
    predict: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    tokens_per_window: int,
    *,
    codec: str = "",
) -> pd.DataFrame:
    """Returns a model's loss and accuracy by the position of a token in its window.

    Args:
        predict: targets int32[B, L] -> (loss float[B, L] in nats, most likely id int32[B, L]).
        batches: (targets int32[B, L], positions int32[B, L]); targets at negative positions do not count.
        tokens_per_window: number of positions.
        codec: codec spec for the table.

    Returns:
        One row per position: `codec`, `position` (from 0), `n` (tokens), `bits` (mean loss, bits per token),
        `accuracy`, `trivial_accuracy` (best constant guess at this position on the same tokens; the paper uses the best
        accuracy of the first 2,000 updates, which is no better than such a guess), `gain` (their difference).
    """
    n, nats, right = (np.zeros(tokens_per_window) for _ in range(3))
    seen = [np.zeros(0, np.int64) for _ in range(tokens_per_window)]
    for targets, positions in batches:
        loss, best = (np.asarray(x) for x in predict(targets))
        counted = positions >= 0
        place, target = positions[counted], targets[counted]
        n += np.bincount(place, minlength=tokens_per_window)
        nats += np.bincount(place, loss[counted].astype(float), minlength=tokens_per_window)
        right += np.bincount(place, best[counted] == target, minlength=tokens_per_window)
        for p in range(tokens_per_window):
            counts = np.bincount(target[place == p], minlength=len(seen[p]))
            counts[: len(seen[p])] += seen[p]
            seen[p] = counts
    some = np.maximum(n, 1)
    table: dict[str, Any] = {"codec": codec, "position": np.arange(tokens_per_window), "n": n.astype(int)}
    table |= {"bits": nats / some / math.log(2), "accuracy": right / some}
    table["trivial_accuracy"] = np.array([counts.max(initial=0) for counts in seen]) / some
    return pd.DataFrame(table).assign(gain=lambda t: t["accuracy"] - t["trivial_accuracy"])


def positioned_rows(
    store: TokenStore, seq_len: int, tokens_per_window: int, *, max_rows: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the rows of `store.rows(seq_len, drop_remainder=False)` with the position of each token in its window.

    Positions are counted from the start of each document. They are -1 for end-of-document, padding, and the rest of a
    window that started in the previous row, because the model does not see its start.

    Args:
        store: the token store.
        seq_len: L, tokens per row.
        tokens_per_window: number of positions.
        max_rows: number of rows; all if None.

    Yields:
        (targets int32[L], positions int32[L]).
    """
    n_rows = len(store.rows(seq_len, drop_remainder=False))
    left = n_rows if max_rows is None else min(max_rows, n_rows)
    ids, positions = np.zeros(0, np.int32), np.zeros(0, np.int32)
    for record in store.documents():
        ids = np.concatenate([ids, record.ids, [store.eod_id]])
        positions = np.concatenate([positions, np.arange(len(record.ids)) % tokens_per_window, [-1]])
        while len(ids) >= seq_len and left:
            yield _row(ids[:seq_len], positions[:seq_len])
            ids, positions, left = ids[seq_len:], positions[seq_len:], left - 1
        if not left:
            return
    if len(ids):
        padding = (0, seq_len - len(ids))
        yield _row(np.pad(ids, padding, constant_values=PADDING), np.pad(positions, padding, constant_values=-1))


def _row(targets: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    begun = np.maximum.accumulate(positions <= 0)
    return targets.astype(np.int32), np.where(begun, positions, -1).astype(np.int32)


def run_bits_by_token_position(
    run_dir: str | os.PathLike,
    codec: Codec,
    store: TokenStore,
    *,
    batch_size: int = 32,
    max_rows: int | None = None,
    n_positions: int | None = None,
) -> pd.DataFrame:
    """Returns `bits_by_token_position` of a trained model on a validation store, with the row length of training.

    Args:
        run_dir: the training run.
        codec: the codec of its tokens.
        store: validation documents under this codec.
        batch_size: rows at a time.
        max_rows: rows evaluated; all if None.
        n_positions: number of positions; `tokens_per_window(codec)` if None. For a codec without windows, more than one
            position is a control: nothing depends on the position.

    Raises:
        InputError: codec, store and run do not belong together.
    """
    run = load_run(run_dir, codec=codec, store=store)

    def measure(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
        return token_nats(logits, targets)[0], jnp.argmax(logits, axis=-1)

    model = Transformer(run.model_config)
    predict = jax.jit(functools.partial(map_logits, measure, model=model, eod_id=run.eod_id))
    n_positions = n_positions or tokens_per_window(codec)
    rows = positioned_rows(store, run.train_config.seq_len, n_positions, max_rows=max_rows)
    return bits_by_token_position(
        lambda targets: predict(run.params, targets), _batches(rows, batch_size), n_positions, codec=codec.spec
    )


def _batches(rows: Iterable[tuple[np.ndarray, np.ndarray]], size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields batches of `size` rows; the last one is padded, so that all have the same shape."""
    batch: list[tuple[np.ndarray, np.ndarray]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield _stacked(batch)
            batch = []
    if batch:
        empty = np.full_like(batch[0][0], PADDING)
        batch += [(empty, empty)] * (size - len(batch))
        yield _stacked(batch)


def _stacked(rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    targets, positions = zip(*rows, strict=True)
    return np.stack(targets), np.stack(positions)
