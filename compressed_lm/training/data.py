"""Batches of a token store, in an order that depends only on the seed and the step."""

import collections
import concurrent.futures
from collections.abc import Generator, Sequence
from typing import Protocol

import grain
import jax
import numpy as np
from jax.sharding import NamedSharding

from compressed_lm.errors import InputError


class Rows(Protocol):
    """Random access to rows int32[L] of tokens.

    Rows of several stores have `parts`: (rate, number of rows) of each, in order.
    """

    def __len__(self) -> int:
        """Returns the number of rows."""

    def __getitem__(self, index: int) -> np.ndarray:
        """Returns a row."""


class TrainingStore(Protocol):
    """The part of a token store (`data.store.TokenStore`) that training uses."""

    fingerprint: str
    codec_spec: str
    codec_fingerprint: str
    eod_id: int
    n_documents: int
    n_tokens: int
    n_bytes: int

    def rows(self, seq_len: int) -> Rows:
        """Returns the rows of `seq_len` tokens."""


def _order(parts: Sequence[tuple[float, int]], seed: int) -> grain.MapDataset:
    """Returns the numbers of rows in the order of training: of each store all, in another order in each epoch."""
    starts = [sum(n for _, n in parts[:i]) for i in range(len(parts))]
    orders = [
        grain.MapDataset.range(start, start + n).seed((seed + i) % (1 << 32)).shuffle().repeat()
        for i, (start, (_, n)) in enumerate(zip(starts, parts, strict=True))
    ]
    return orders[0] if len(orders) == 1 else grain.MapDataset.mix(orders, weights=[rate for rate, _ in parts])


class Batches:
    """Random access to the batches of a run: epochs of all rows, each epoch in its own order.

    The rows of a step depend only on the store, the seed and the step, so the state of the data is one integer.

    Args:
        store: a token store.
        batch_size: B, over all processes.
        seq_len: L.
        seed: of the order.
        sharding: of a batch; each process reads only its own rows.

    Attributes:
        rows_per_epoch: number of rows in the store; of a mixture, rows until a store repeats.

    Raises:
        InputError: the store has no whole row.
    """

    def __init__(self, store: TrainingStore, *, batch_size: int, seq_len: int, seed: int, sharding: NamedSharding):
        rows = store.rows(seq_len)
        if not len(rows):
            raise InputError(
                f"The token store holds less than one row of seq_len={seq_len} tokens; use a larger corpus or "
                "shorter rows."
            )
        parts = getattr(rows, "parts", ((1.0, len(rows)),))
        if not all(n for _, n in parts):
            raise InputError(
                f"A store of the mixture holds less than one row of seq_len={seq_len} tokens; leave it out, or use "
                "shorter rows."
            )
        self.rows_per_epoch = int(min(n / rate for rate, n in parts))
        self._rows, self._order = rows, _order(parts, seed)
        self._shape, self._sharding = (batch_size, seq_len), sharding
        places = sharding.addressable_devices_indices_map(self._shape).values()
        local = [place[0].indices(batch_size) for place in places if place is not None]
        self._first, self._last = min(i[0] for i in local), max(i[1] for i in local)

    def __getitem__(self, step: int) -> jax.Array:
        """Returns the targets int32[B, L] of the update after `step` updates."""
        start = step * self._shape[0]
        local = np.empty((self._last - self._first, self._shape[1]), np.int32)
        for i, place in enumerate(range(start + self._first, start + self._last)):
            local[i] = self._rows[self._order[place]]
        return jax.make_array_from_process_local_data(self._sharding, local, self._shape)

    def prefetch(self, first: int, last: int, *, ahead: int = 2) -> Generator[jax.Array, None, None]:
        """Yields the batches of steps first..last-1; a thread reads up to `ahead` of them in advance."""
        with concurrent.futures.ThreadPoolExecutor(1, "batches") as pool:
            pending = collections.deque(
                pool.submit(self.__getitem__, i) for i in range(first, min(first + ahead, last))
            )
            for step in range(first, last):
                batch = pending.popleft().result()
                if step + ahead < last:
                    pending.append(pool.submit(self.__getitem__, step + ahead))
                yield batch
