"""Token stores as data sets of PyTorch.

    from torch.utils.data import DataLoader
    from compressed_lm.integrations.torch import TokenStoreIterable

    loader = DataLoader(TokenStoreIterable("store", 512, epochs=None), batch_size=8, num_workers=2)
    for batch in loader:
        loss = model(**batch).loss  # a model of transformers shifts the labels itself

Rows are those of `TokenStore.rows`: the documents one after another, with end-of-document after each.
"""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from compressed_lm.data.store import PADDING, TokenStore
from compressed_lm.errors import InputError

try:
    import torch
    from torch import distributed
    from torch.utils import data as torch_data
except ImportError as _error:
    raise InputError(f"The package torch cannot be imported ({_error}). Install it: pip install torch.") from None

IGNORED = -100
"""Label of positions without a loss, in PyTorch and transformers."""

_MOST_EPOCHS = 1 << 31


class TokenStoreDataset(torch_data.Dataset):
    """Rows of a token store, by index. It can be pickled, so that workers of a DataLoader may read.

    An item is a dict: `input_ids` int64[L] and `labels` int64[L], the same ids, since models of transformers shift
    them. With `drop_remainder=False` there is also `attention_mask` int64[L]; the last row is then padded with
    end-of-document, with labels of -100.

    Attributes:
        store: the store.
        seq_len: L, tokens of a row.
    """

    def __init__(
        self, store: TokenStore | str | os.PathLike, seq_len: int, *, drop_remainder: bool = True, codec: Any = None
    ) -> None:
        """Opens the rows.

        Args:
            store: a token store, or its folder.
            seq_len: tokens of a row.
            drop_remainder: whether the tokens after the last full row are dropped.
            codec: the codec in use; a store of another one is refused. None for no check.

        Raises:
            InputError: there is no finished store, it is of another codec, or the length is not a whole number of at
                least 1.
        """
        self.store = store if isinstance(store, TokenStore) else TokenStore.open(store)
        if codec is not None and codec.fingerprint != self.store.codec_fingerprint:
            raise InputError(
                f"{self.store!r} is a store of another codec than {codec.spec}, which was given. Give the codec of the "
                "store, or compress the text again."
            )
        if isinstance(seq_len, bool) or not isinstance(seq_len, int | np.integer):
            raise InputError(f"seq_len={seq_len!r} was given; a whole number of tokens was expected.")
        self.seq_len, self._padded = int(seq_len), not drop_remainder
        self._rows = self.store.rows(seq_len, drop_remainder=drop_remainder)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = self._rows[index + len(self) if index < 0 else index].astype(np.int64)
        if not self._padded:
            ids = torch.from_numpy(row)
            return {"input_ids": ids, "labels": ids.clone()}
        known = row != PADDING
        return {
            "input_ids": torch.from_numpy(np.where(known, row, self.store.eod_id)),
            "attention_mask": torch.from_numpy(known.astype(np.int64)),
            "labels": torch.from_numpy(np.where(known, row, IGNORED)),
        }


class TokenStoreIterable(torch_data.IterableDataset):
    """Rows of a token store in random order, each once an epoch, shared among ranks and the workers of each.

    The order depends on the seed only, and is computed row by row: opening takes no memory in proportion to the store.
    Every rank gets the same number of rows (up to `world_size - 1` rows at the end are dropped).

    It resumes: `state_dict` counts the rows that this worker has given, and `load_state_dict` continues after them.
    `torchdata.stateful_dataloader.StatefulDataLoader` calls both in each worker. With a DataLoader of PyTorch and
    without workers they can be called directly.

    Attributes:
        rows: the rows by index, `TokenStoreDataset`.
        seed: seed of the order.
        epochs: number of passes over the rows; None for no end.
    """

    def __init__(
        self,
        store: TokenStore | str | os.PathLike,
        seq_len: int,
        *,
        seed: int = 0,
        epochs: int | None = 1,
        shuffle: bool = True,
        rank: int | None = None,
        world_size: int | None = None,
        codec: Any = None,
    ) -> None:
        """Opens the rows.

        Args:
            store: a token store, or its folder.
            seq_len: tokens of a row.
            seed: seed of the order; each epoch has another order.
            epochs: number of passes over the rows; None for no end.
            shuffle: False for the order of the store.
            rank: number of this process among `world_size`; both None for those of `torch.distributed` where it is
                initialised, otherwise 0 of 1.
            world_size: number of processes.
            codec: the codec in use; a store of another one is refused. None for no check.

        Raises:
            InputError: as `TokenStoreDataset`; the store has fewer rows than there are processes; or the number of
                epochs, the rank or the seed is out of range.
        """
        self.rows = TokenStoreDataset(store, seq_len, codec=codec)
        if rank is None and world_size is None:
            joined = distributed.is_available() and distributed.is_initialized()
            rank, world_size = (distributed.get_rank(), distributed.get_world_size()) if joined else (0, 1)
        if rank is None or world_size is None or not 0 <= rank < world_size:
            raise InputError(f"rank={rank} of world_size={world_size} was given; 0 to world_size - 1 was expected.")
        if epochs is not None and not 1 <= epochs < _MOST_EPOCHS:
            raise InputError(f"epochs={epochs} was given; at least 1, or None for no end, was expected.")
        if not 0 <= seed < 1 << 32:
            raise InputError(f"seed={seed} was given; 0 to 2**32 - 1 was expected.")
        if len(self.rows) < world_size:
            raise InputError(
                f"{self.rows.store!r} has {len(self.rows)} rows of {seq_len} tokens for {world_size} processes; one "
                "row for each was expected. Give a longer text or shorter rows."
            )
        self.seed, self.epochs, self._shuffle = seed, epochs, shuffle
        self._rank, self._world_size = rank, world_size
        self._done = self._first = 0  # rows of this worker: given since the beginning, and before `load_state_dict`

    def __len__(self) -> int:
        """Returns the number of rows of this rank, over all epochs."""
        if self.epochs is None:
            raise TypeError("A TokenStoreIterable with epochs=None has no length.")
        return len(self.rows) * self.epochs // self._world_size

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        import grain  # which imports JAX where it is installed

        order = grain.MapDataset.range(len(self.rows))
        order = order.shuffle(seed=self.seed) if self._shuffle else order
        order = order.repeat(self.epochs)
        worker, n_workers = _worker()
        n_rows = len(self) if self.epochs is not None else len(order) // self._world_size
        self._done, self._first = self._first, 0
        while (place := worker + self._done * n_workers) < n_rows:  # of this rank's rows
            self._done += 1
            yield self.rows[order[self._rank + place * self._world_size]]

    def state_dict(self) -> dict[str, Any]:
        """Returns how far this worker is, and what that depends on."""
        return {"done": self._done} | self._identity()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Sets how far this worker is; the next iteration continues there.

        Raises:
            InputError: the state is of another store, length, seed, or number of processes or workers, or damaged.
        """
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise InputError(
                    f"The state of a TokenStoreIterable has {name} = {state.get(name)!r}, and this one has {value!r}. "
                    "Resume with the same store, options, processes and workers."
                )
        done = state.get("done")
        if type(done) is not int or done < 0:
            raise InputError(f"The state of a TokenStoreIterable has done = {done!r}; a number of rows was expected.")
        self._done = self._first = done

    def _identity(self) -> dict[str, Any]:
        worker, n_workers = _worker()
        return {
            "store": self.rows.store.fingerprint,
            "seq_len": self.rows.seq_len,
            "seed": self.seed,
            "shuffle": self._shuffle,
            "rank": self._rank,
            "world_size": self._world_size,
            "worker": worker,
            "n_workers": n_workers,
        }


def _worker() -> tuple[int, int]:
    """Returns the number of this worker of a DataLoader, and their number; (0, 1) outside of workers."""
    info = torch_data.get_worker_info()
    return (info.id, info.num_workers) if info else (0, 1)
