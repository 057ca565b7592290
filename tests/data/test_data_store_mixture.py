"""Mixtures of finished stores in training: rates, order, and what is refused."""

import collections

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from compressed_lm import codecs
from compressed_lm.codecs.bytes_codec import Bytes
from compressed_lm.data.job import compress
from compressed_lm.data.store import TokenStore
from compressed_lm.data.store_mixture import open_store
from compressed_lm.errors import InputError
from compressed_lm.training.data import Batches
from tests.data.made_corpus import MadeCorpus

SEQ_LEN = 7


@pytest.fixture
def folders(tmp_path):
    """Returns the folders of three stores, of rows of the letters a, b and c; the second has a comma in its name."""
    names = ("a", "b,1", "c")
    for letter, name, n_rows in zip(b"abc", names, (300, 100, 40), strict=True):
        documents = [bytes([letter]) * (SEQ_LEN - 1)] * n_rows
        compress(MadeCorpus(documents), "train", Bytes(), tmp_path / name, log=lambda line: None)
    return [str(tmp_path / name) for name in names]


def batches(store, *, seed=0, batch_size=10):
    sharding = NamedSharding(jax.make_mesh((1,), ("data",)), PartitionSpec("data"))
    return Batches(store, batch_size=batch_size, seq_len=SEQ_LEN, seed=seed, sharding=sharding)


def test_each_step_has_the_rates(folders):
    """Any stretch of the order has rows at the rates, also after stores were repeated; each store in its own epochs."""
    a, b, c = (folder.replace(",", "\\,") for folder in folders)
    found = batches(open_store(f"mix:0.5*{a},0.3*{b},0.2*{c}"), batch_size=100)
    for step in (0, 1, 7, 1_000_000):
        letters = collections.Counter(np.asarray(found[step])[:, 0].tolist())
        assert letters == {ord("a"): 50, ord("b"): 30, ord("c"): 20}
    assert found.rows_per_epoch == 200  # then all of c was read once


def test_a_mixture_of_one_is_the_store(folders):
    """A mixture with one part has the batches of its store."""
    alone, mixed = batches(TokenStore.open(folders[0])), batches(open_store(f"mix:2*{folders[0]}"))
    assert all(np.array_equal(alone[step], mixed[step]) for step in range(70))


def test_the_order_is_a_function_of_the_seed_and_the_step(folders):
    """Two readers agree at any step, so a run resumes exactly; another seed gives another order."""
    spec = f"mix:0.5*{folders[0]},0.5*{folders[2]}"
    orders = [batches(open_store(spec), seed=seed)._order for seed in (0, 0, 1)]
    assert all(orders[0][i] == orders[1][i] for i in (0, 5, 12345, 10**9))
    assert [orders[0][i] for i in range(50)] != [orders[2][i] for i in range(50)]
    rows = [orders[0][2 * i] for i in range(300)]
    assert sorted(rows) == list(range(300))  # each epoch of a store has all of its rows


def test_fingerprints_tell_mixtures_apart(folders):
    """Other rates are other data for a run; totals are those of the stores."""
    one, two = (open_store(f"mix:{rate}*{folders[0]},1*{folders[2]}") for rate in (1, 2))
    assert one.fingerprint != two.fingerprint and one.rates == (0.5, 0.5)
    assert (one.n_documents, one.n_tokens) == (340, 340 * (SEQ_LEN - 1))


@pytest.mark.parametrize("spec", ["mix:", "mix:0*{a}", "mix:{a},{c}", "mix:0.5*", "mix:-1*{a}"])
def test_wrong_mixtures_are_refused(folders, spec):
    """A mixture without a rate for each store raises an error that shows the form."""
    with pytest.raises(InputError, match=r"expected a rate above 0 and a folder for each store, such as mix:0.7\*"):
        open_store(spec.format(a=folders[0], c=folders[2]))


def test_stores_of_two_codecs_are_refused(folders, tmp_path):
    """Stores with different codecs do not mix, and both specs are named."""
    compress(MadeCorpus([b"text"] * 20), "train", codecs.load("pieces16-en"), tmp_path / "p", log=lambda line: None)
    with pytest.raises(InputError, match=r"their codecs differ: bytes and pieces\("):
        open_store(f"mix:1*{folders[0]},1*{tmp_path}/p")
