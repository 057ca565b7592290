"""The order of the data is a function of the step: every row once an epoch, the same after a restart."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from compressed_lm import training
from compressed_lm.errors import InputError
from compressed_lm.models.partitioning import BATCH
from compressed_lm.training.data import Batches


class Numbered:
    """A store whose row i holds the number i."""

    def __init__(self, n_rows):
        self.n_rows = n_rows

    def rows(self, seq_len):
        return np.repeat(np.arange(self.n_rows)[:, None], seq_len, axis=1)


def batches(n_rows, *, seed=0, batch_size=4, mesh_shape=(1, 1, 1)):
    sharding = jax.sharding.NamedSharding(training.make_mesh(mesh_shape), P(BATCH))
    return Batches(Numbered(n_rows), batch_size=batch_size, seq_len=3, seed=seed, sharding=sharding)


def row_ids(data, steps):
    return np.concatenate([np.asarray(data[i])[:, 0] for i in steps])


def test_each_epoch_has_every_row_once_in_an_order_of_its_own():
    """12 rows in batches of 4: three steps are one permutation, the next three another."""
    data = batches(12)
    first, second = row_ids(data, range(3)), row_ids(data, range(3, 6))
    assert sorted(first) == sorted(second) == list(range(12))
    assert list(first) != list(second) and list(first) != list(range(12))
    assert list(row_ids(batches(12, seed=1), range(3))) != list(first)


def test_prefetching_from_any_step_equals_random_access():
    """The state of the data is one integer: reading on from step 5 gives what an unbroken reader got there."""
    data = batches(10)
    from_five = [np.asarray(batch) for batch in batches(10).prefetch(5, 9)]
    assert len(from_five) == 4
    np.testing.assert_array_equal(from_five, [np.asarray(data[i]) for i in range(5, 9)])


def test_the_batch_is_split_over_devices_in_order():
    """On a mesh of 2 x 2 devices each holds a quarter of the rows, and together they are the batch of one device."""
    split = batches(12, mesh_shape=(2, 2, 1))[1]
    np.testing.assert_array_equal(split, batches(12)[1])
    assert [shard.data.shape for shard in split.addressable_shards] == [(1, 3)] * 4


def test_an_error_while_reading_reaches_the_caller():
    """A damaged store stops the run, not only the reading thread."""
    data = batches(12)
    data._order = {}
    with pytest.raises(KeyError):
        next(data.prefetch(0, 2))


def test_a_store_without_a_whole_row_is_refused():
    """Too little text for one row says so."""
    with pytest.raises(InputError, match="less than one row of seq_len=3"):
        batches(0)
