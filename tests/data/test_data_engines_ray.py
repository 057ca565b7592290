"""The Ray engine: the store of one process, also when a node dies in the middle."""

import signal
import threading
import time

import pytest

from compressed_lm.codecs.bytes_codec import Bytes
from compressed_lm.data.job import compress
from compressed_lm.errors import InputError
from tests.data.made_corpus import MadeCorpus

ray = pytest.importorskip("ray")
from ray.cluster_utils import Cluster  # noqa: E402

from compressed_lm.data.engines.ray import Ray  # noqa: E402

TEXTS = [b"Document %d: " % i + b"more words " * (i % 7) for i in range(400)]


class Slow(Bytes):
    """Codec that takes a while for each document."""

    def _decode_sequences(self, sequences):
        time.sleep(0.004 * len(sequences))
        return super()._decode_sequences(sequences)


class WithModel(Slow):
    """Codec that is treated as one that runs M1: it gets actors."""

    flops_per_byte = 1.0


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_cluster_that_is_not_there_is_one_paragraph(tmp_path):
    """An address without a Ray cluster raises an error that says how to start one."""
    ray.shutdown()  # a test of another file may have joined one
    with pytest.raises(InputError, match=r"The Ray cluster auto could not be joined .*ray start --head"):
        compress(MadeCorpus(TEXTS), "train", Bytes(), tmp_path / "out", engine=Ray(address="auto"))


@pytest.fixture(scope="module")
def cluster():
    """Returns a Ray cluster with one raylet of one CPU."""
    handler = signal.getsignal(signal.SIGTERM)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    signal.signal(signal.SIGTERM, handler)  # that of Ray would stay


@pytest.mark.slow("starts a Ray cluster")
@pytest.mark.parametrize("codec", [Slow(), WithModel()], ids=["tasks", "actors"])
def test_a_node_that_dies_does_not_change_the_store(cluster, tmp_path, codec):
    """With one of two raylets killed in the middle, the store is that of one process, byte for byte."""
    node = cluster.add_node(num_cpus=1)
    corpus = MadeCorpus(TEXTS, [40] * 10)
    deaths = []

    def kill():
        deadline = time.monotonic() + 60
        while not (tmp_path / "ray" / "tokens-00000.json").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        cluster.remove_node(node, allow_graceful=False)
        deaths.append(time.monotonic())

    killer = threading.Thread(target=kill)
    killer.start()
    store = compress(corpus, "train", codec, tmp_path / "ray", shard_bytes=2000, engine=Ray())
    finished = time.monotonic()
    killer.join()
    compress(corpus, "train", codec, tmp_path / "one", shard_bytes=2000)
    assert deaths[0] < finished, "the node died after the job"
    assert store.n_documents == 400 and files(tmp_path / "ray") == files(tmp_path / "one")


@pytest.mark.slow("starts a Ray cluster")
def test_a_cluster_makes_the_same_store_twice(cluster, tmp_path):
    """Workers that have done a job do the same job for another folder."""
    for name in ("one", "two"):
        compress(MadeCorpus(TEXTS, [200, 200]), "train", Bytes(), tmp_path / name, engine=Ray())
    assert files(tmp_path / "one") == files(tmp_path / "two")


@pytest.mark.slow("starts a Ray cluster")
def test_errors_of_workers_are_the_users_errors(cluster, tmp_path):
    """A document that cannot be read is one InputError, and is not tried again."""

    class Damaged(MadeCorpus):
        def _read(self, split, unit, skip):
            if self.units().index(unit) == 3:
                raise InputError("line 7 is damaged")
            return super()._read(split, unit, skip)

    with pytest.raises(InputError, match="line 7 is damaged"):
        compress(Damaged(TEXTS, [40] * 10), "train", Bytes(), tmp_path / "out", engine=Ray())
