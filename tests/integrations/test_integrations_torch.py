"""Token stores as data sets of PyTorch."""

import pickle

import numpy as np
import pytest

from compressed_lm import codecs
from compressed_lm.errors import InputError

torch = pytest.importorskip("torch")

from torch.utils.data import DataLoader  # noqa: E402

from compressed_lm.integrations.torch import TokenStoreDataset, TokenStoreIterable  # noqa: E402

LENGTH = 16


def rows_of(batches):
    """Returns the rows of batches or single items, as tuples."""
    return [tuple(row) for batch in batches for row in batch["input_ids"].reshape(-1, LENGTH).tolist()]


@pytest.fixture(scope="module")
def rows(store):
    """The rows of the store, in its order."""
    return [tuple(row.tolist()) for row in store.rows(LENGTH)]


def test_rows_by_index(store, rows):
    """Items are the rows of the store, as input ids and as labels; a copy from a pickle reads the same."""
    data = TokenStoreDataset(store.path, LENGTH)
    assert len(data) == len(rows) and rows_of(data[i] for i in range(len(data))) == rows
    assert data[-1]["labels"].tolist() == list(rows[-1]) and data[0]["input_ids"].dtype == torch.int64
    assert rows_of([pickle.loads(pickle.dumps(data))[3]]) == [rows[3]]
    with pytest.raises(IndexError, match=f"row {len(rows)} of {len(rows)}"):
        data[len(rows)]


def test_the_last_row_is_padded_without_a_loss(store, rows):
    """With drop_remainder=False the rest of the tokens is a row, whose padding has no loss and no attention."""
    data = TokenStoreDataset(store, LENGTH, drop_remainder=False)
    rest = (store.n_tokens + store.n_documents) % LENGTH
    last = data[len(data) - 1]
    assert rest and len(data) == len(rows) + 1
    assert last["attention_mask"].tolist() == [1] * rest + [0] * (LENGTH - rest)
    assert last["labels"].tolist() == [*last["input_ids"].tolist()[:rest], *[-100] * (LENGTH - rest)]
    assert (last["input_ids"][rest:] == store.eod_id).all()
    assert data[0]["attention_mask"].tolist() == [1] * LENGTH


@pytest.mark.slow("starts processes")
def test_workers_share_the_rows(store, rows):
    """With two workers, in both kinds of data set, each row is read once."""
    by_index = DataLoader(TokenStoreDataset(store, LENGTH), batch_size=4, num_workers=2, shuffle=True)
    assert sorted(rows_of(by_index)) == sorted(rows)
    streamed = DataLoader(TokenStoreIterable(store, LENGTH, epochs=2), batch_size=4, num_workers=2)
    assert sorted(rows_of(streamed)) == sorted([*rows, *rows])


def test_each_epoch_has_every_row_in_another_order(store, rows):
    """The order depends on the seed and on the epoch; each epoch has every row once."""
    once, twice = TokenStoreIterable(store, LENGTH, seed=3), TokenStoreIterable(store, LENGTH, seed=3, epochs=2)
    first, n = rows_of(once), len(rows)
    assert first != rows and sorted(first) == sorted(rows)
    assert rows_of(twice)[:n] == first == rows_of(once)
    second = rows_of(twice)[n:]
    assert second != first and sorted(second) == sorted(rows)
    assert rows_of(TokenStoreIterable(store, LENGTH, seed=4)) != first
    assert rows_of(TokenStoreIterable(store, LENGTH, shuffle=False)) == rows
    endless = iter(TokenStoreIterable(store, LENGTH, seed=3, epochs=None))
    assert rows_of(next(endless) for _ in range(2 * n)) == rows_of(twice)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_rows(store, rows, world_size):
    """Ranks have equally many different rows."""
    parts = [rows_of(TokenStoreIterable(store, LENGTH, rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert {len(part) for part in parts} == {len(rows) // world_size}
    together = sum(parts, [])
    whole = rows_of(TokenStoreIterable(store, LENGTH))
    assert sorted(together) == sorted(whole[: len(together)])


def test_a_stream_resumes_where_it_was(store):
    """A state taken between rows continues with the next row, also in a new object, and the pass after it is whole."""
    data = TokenStoreIterable(store, LENGTH, seed=5, epochs=2)
    whole = rows_of(data)
    stream = iter(data)
    begun = rows_of(next(stream) for _ in range(7))
    state = pickle.loads(pickle.dumps(data.state_dict()))
    new = TokenStoreIterable(store.path, LENGTH, seed=5, epochs=2)
    new.load_state_dict(state)
    assert new.state_dict() == state
    assert begun + rows_of(new) == whole == rows_of(new)


@pytest.mark.slow("starts processes")
def test_stateful_data_loader_resumes(store):
    """torchdata's StatefulDataLoader resumes in the middle of an epoch, with workers and without."""
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    for workers in (0, 2):
        loaders = [stateful(TokenStoreIterable(store, LENGTH), batch_size=3, num_workers=workers) for _ in range(2)]
        whole = rows_of(loaders[0])
        batches = iter(loaders[0])
        begun = rows_of(next(batches) for _ in range(5))
        loaders[1].load_state_dict(loaders[0].state_dict())
        assert begun + rows_of(loaders[1]) == whole


def test_a_state_of_something_else_is_refused(store, other_store):
    """A state of another store, length, seed or number of processes raises an error that names the difference."""
    state = TokenStoreIterable(store, LENGTH).state_dict()
    for other, name in (
        (TokenStoreIterable(other_store, LENGTH), "store"),
        (TokenStoreIterable(store, 8), "seq_len"),
        (TokenStoreIterable(store, LENGTH, seed=1), "seed"),
        (TokenStoreIterable(store, LENGTH, rank=1, world_size=2), "rank"),
    ):
        with pytest.raises(InputError, match=rf"has {name} = .* Resume with the same store, options, processes"):
            other.load_state_dict(state)
    for done in (-1, 2.5, None):
        with pytest.raises(InputError, match=rf"has done = {done}; a number of rows was expected"):
            TokenStoreIterable(store, LENGTH).load_state_dict(state | {"done": done})


def test_wrong_arguments_are_refused(store):
    """Another codec, too many processes, a wrong rank, epoch count or seed are errors."""
    with pytest.raises(InputError, match="store of another codec than eiw"):
        TokenStoreDataset(store, LENGTH, codec=codecs.load("eiw16-en"))
    assert len(TokenStoreDataset(store, LENGTH, codec=codecs.Bytes()))
    for options, message in (
        (dict(rank=2, world_size=2), "rank=2 of world_size=2"),
        (dict(rank=1), "rank=1 of world_size=None"),
        (dict(rank=0, world_size=1 << 20), "one row for each was expected"),
        (dict(epochs=0), "epochs=0 was given"),
        (dict(seed=-1), "seed=-1 was given"),
    ):
        with pytest.raises(InputError, match=message):
            TokenStoreIterable(store, LENGTH, **options)
    with pytest.raises(InputError, match="Rows of 0 tokens"):
        TokenStoreIterable(store, 0)
    for length in (2.5, True, "8"):
        with pytest.raises(InputError, match=rf"seq_len={length!r} was given; a whole number"):
            TokenStoreDataset(store, length)
    assert len(TokenStoreDataset(store, np.int64(LENGTH))) == len(TokenStoreDataset(store, LENGTH))
    with pytest.raises(TypeError, match="has no length"):
        len(TokenStoreIterable(store, LENGTH, epochs=None))


def test_rows_are_those_of_training(store):
    """Rows have the tokens that the JAX training reads, with end-of-document after each document."""
    stream = np.concatenate([[*record.ids, store.eod_id] for record in store.documents()])
    data = TokenStoreDataset(store, LENGTH)
    assert np.concatenate([data[i]["input_ids"].numpy() for i in range(len(data))]).tolist() == (
        stream[: len(data) * LENGTH].tolist()
    )
