"""Batches of a token store in an order that is a function of the step alone."""

import collections
import concurrent.futures
from collections.abc import Iterator

import grain
import jax
import numpy as np
from jax.sharding import NamedSharding

from compressed_lm.errors import InputError


class Batches:
    """Random access to the batches of a run: epochs of all rows, each epoch in an order of its own.

    Which rows a step gets depends only on the store, the seed and the step, so the state of the data is one integer.

    Args:
        store: a `corpora.TokenStore`, or anything with `rows(seq_len)`.
        batch_size: B, over all processes.
        seq_len: L.
        seed: of the order.
        sharding: where the rows of a batch live; each process reads only its own.

    Raises:
        InputError: the store has no whole row.
    """

    def __init__(self, store, *, batch_size: int, seq_len: int, seed: int, sharding: NamedSharding):
        rows = store.rows(seq_len)
        if not len(rows):
            raise InputError(
                f"The token store holds less than one row of seq_len={seq_len} tokens; use a larger corpus or "
                "shorter rows."
            )
        self.rows_per_epoch = len(rows)
        self._dataset = grain.MapDataset.source(rows).seed(seed).shuffle().repeat()
        self._shape, self._sharding = (batch_size, seq_len), sharding
        local = [
            index[0].indices(batch_size) for index in sharding.addressable_devices_indices_map(self._shape).values()
        ]
        self._first, self._last = min(i[0] for i in local), max(i[1] for i in local)

    def __getitem__(self, step: int) -> jax.Array:
        """Returns the targets int32[B, L] of the update that follows `step` updates."""
        start = step * self._shape[0]
        local = np.stack([self._dataset[start + i] for i in range(self._first, self._last)])
        return jax.make_array_from_process_local_data(self._sharding, local.astype(np.int32), self._shape)

    def prefetch(self, first: int, last: int, *, ahead: int = 2) -> Iterator[jax.Array]:
        """Yields the batches of steps first..last-1, reading up to `ahead` of them in a thread."""
        with concurrent.futures.ThreadPoolExecutor(1, "batches") as pool:
            pending = collections.deque(
                pool.submit(self.__getitem__, i) for i in range(first, min(first + ahead, last))
            )
            for step in range(first, last):
                batch = pending.popleft().result()
                if step + ahead < last:
                    pending.append(pool.submit(self.__getitem__, step + ahead))
                yield batch
