"""Corpora and token stores in object stores, on real servers: the bytes of local ones."""

import gzip
import json
import random

import pytest

from compressed_lm import io
from compressed_lm.codecs.bytes_codec import Bytes
from compressed_lm.data import encoding
from compressed_lm.data.engines.local import Local
from compressed_lm.data.job import compress
from compressed_lm.data.sources import open_corpus
from compressed_lm.data.store import TokenStore
from compressed_lm.errors import InputError
from compressed_lm.io import store_errors
from tests.data.made_corpus import MadeCorpus

TEXTS = [b"Document %d: " % i + b"more words " * (i % 7) for i in range(100)]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(store_errors, "PATIENCE_SECONDS", 5.0)


def remote_files(url):
    return {name: io.read_bytes(f"{url}/{name}") for name in io.remote.sizes(url)}


def local_files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def quiet(_):
    pass


def test_a_store_in_a_bucket_is_the_local_one(bucket_url, tmp_path):
    """A corpus and a store in a bucket give the shards of local ones; rows and documents are read by ranges."""
    for number in range(3):
        lines = "".join(json.dumps({"text": text.decode()}) + "\n" for text in TEXTS[number::3])
        for folder in (bucket_url, tmp_path):
            io.write_atomic(f"{folder}/in/{number}.json.gz", gzip.compress(lines.encode(), mtime=0))
    made = {
        folder: compress(open_corpus(f"json:{folder}/in/*.gz"), "train", Bytes(), f"{folder}/out", shard_bytes=900)
        for folder in (bucket_url, str(tmp_path))
    }
    remote, local = remote_files(f"{bucket_url}/out"), local_files(tmp_path / "out")
    content = [name for name in local if not name.endswith(".json")]
    assert {k: remote[k] for k in content} == {k: local[k] for k in content} and sorted(remote) == sorted(local)
    store = TokenStore.open(f"{bucket_url}/out")
    store.verify()
    assert [r.ids.tolist() for r in store.documents()] == [r.ids.tolist() for r in made[str(tmp_path)].documents()]
    ours, theirs = store.rows(16), made[str(tmp_path)].rows(16)
    assert len(ours) == len(theirs) and all((ours[i] == theirs[i]).all() for i in range(0, len(ours), 17))


@pytest.mark.slow("starts worker processes")
def test_interruptions_do_not_change_a_store_in_a_bucket(bucket_url, tmp_path, monkeypatch):
    """Processes and worker processes that share a bucket, one of them interrupted, give the bytes of one local run."""
    corpus, options = MadeCorpus(TEXTS, [40, 30, 30]), dict(shard_bytes=900, log=quiet)
    compress(corpus, "train", Bytes(), tmp_path / "one", **options)

    class Fails(Bytes):
        left = 2

        def _decode_sequences(self, sequences):
            Fails.left -= 1
            if not Fails.left:
                raise KeyboardInterrupt
            return super()._decode_sequences(sequences)

    monkeypatch.setattr(encoding, "BATCH_BYTES", 1)
    monkeypatch.setattr(encoding, "BLOCK_BYTES", 500)
    with pytest.raises(KeyboardInterrupt):
        Fails.left = 60
        compress(corpus, "train", Fails(), f"{bucket_url}/x", process_index=0, process_count=2, **options)
    assert compress(corpus, "train", Bytes(), f"{bucket_url}/x", process_index=1, process_count=2, **options) is None
    assert compress(corpus, "train", Bytes(), f"{bucket_url}/x", process_index=0, process_count=2, **options)
    assert remote_files(f"{bucket_url}/x") == local_files(tmp_path / "one")
    compress(corpus, "train", Bytes(), f"{bucket_url}/y", engine=Local(2), **options)
    assert remote_files(f"{bucket_url}/y") == local_files(tmp_path / "one")


@pytest.mark.slow("clients wait before they try again")
def test_broken_answers_do_not_change_a_store(bucket_url, tmp_path, proxy):
    """With answers that fail or end early at random, the store is the local one."""
    draw = random.Random(0)
    proxy.broken += [draw.choice([None, None, None, 503, "cut"]) for _ in range(60)]
    corpus, options = MadeCorpus(TEXTS, [50, 50]), dict(shard_bytes=2000, log=quiet)
    compress(corpus, "train", Bytes(), f"{bucket_url}/x", **options)
    compress(corpus, "train", Bytes(), tmp_path / "one", **options)
    assert not proxy.broken and remote_files(f"{bucket_url}/x") == local_files(tmp_path / "one")


def test_a_bucket_that_vanishes_is_one_paragraph(stores):
    """If the bucket is gone in the middle of a job, the error names it and says what to do."""
    bucket_url = stores("s3")  # the server of gs:// keeps buckets in which something was

    class Deletes(Bytes):
        def _decode_sequences(self, sequences):
            for url in (bucket_url, f"{bucket_url}/x"):
                for name in io.remote.sizes(url):
                    io.remote.delete(f"{url}/{name}")
            client = io.object_stores.client("s3")
            client.call_s3("delete_bucket", Bucket=bucket_url.partition("://")[2])
            return super()._decode_sequences(sequences)

    with pytest.raises(InputError, match=bucket_url.partition("://")[2]) as error:
        compress(MadeCorpus(TEXTS), "train", Deletes(), f"{bucket_url}/x", log=quiet)
    assert "\n" not in str(error.value)


def test_a_bucket_that_is_not_there_is_refused_before_work(bucket_url):
    """A store in a bucket that does not exist is refused before a document is read."""
    corpus = MadeCorpus(TEXTS)
    with pytest.raises(InputError, match="no-such-bucket-7"):
        compress(corpus, "train", Bytes(), f"{io.scheme(bucket_url)}://no-such-bucket-7/x")
    assert corpus.read_units == []
