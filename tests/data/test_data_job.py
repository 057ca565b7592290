"""The compression job: complete, resumable and verified."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from compressed_lm.codecs.bytes_codec import Bytes
from compressed_lm.data import shards
from compressed_lm.data.job import compress
from compressed_lm.data.sources import open_corpus
from compressed_lm.data.store import TokenStore
from compressed_lm.errors import InputError

DOCUMENTS = [f"Document {i}: " + "more words " * (i % 7) for i in range(100)]


@pytest.fixture
def spec(tmp_path):
    (tmp_path / "docs.json").write_text("".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS))
    return f"json:{tmp_path}/docs.json"


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def quiet(_):
    pass


class Counting(Bytes):
    """Codec that counts the documents it encodes."""

    def __init__(self):
        self.batches = []

    def encode_batch(self, documents):
        self.batches.append(list(documents))
        return super().encode_batch(documents)


def test_store_holds_the_corpus(spec, tmp_path):
    """Every document is in the store once, in the order of its shards, with the right counts."""
    store = compress(open_corpus(spec), "train", Bytes(), tmp_path / "out", n_shards=3)
    expected = [text.encode() for shard in range(3) for text in DOCUMENTS[shard::3]]
    assert [Bytes().decode(record.ids) for record in store.documents()] == expected
    assert store.n_documents == 100 and store.n_bytes == store.n_tokens == sum(map(len, expected))
    assert store.manifest["corpus"] == open_corpus(spec).describe("train")
    assert store.manifest["codec"]["fingerprint"] == Bytes.fingerprint
    store.verify()


def test_more_shards_than_documents(tmp_path):
    """Empty shards are written, read and skipped."""
    (tmp_path / "docs.json").write_text('{"text": "one"}\n{"text": "two"}\n')
    store = compress(open_corpus(f"json:{tmp_path}/docs.json"), "train", Bytes(), tmp_path / "out", n_shards=5)
    assert [Bytes().decode(record.ids) for record in store.documents()] == [b"one", b"two"]
    assert store.rows(4)[1].tolist() == [*b"two", 256]


def test_documents_reach_the_codec_in_bounded_batches(spec, tmp_path):
    """A batch ends at the first document that fills it, and its size does not change the store."""
    codec = Counting()
    compress(open_corpus(spec), "train", codec, tmp_path / "small", n_shards=2, batch_bytes=200)
    assert len(codec.batches) > 10
    assert all(sum(map(len, batch[:-1])) < 200 for batch in codec.batches)
    compress(open_corpus(spec), "train", Bytes(), tmp_path / "large", n_shards=2)
    assert files(tmp_path / "small") == files(tmp_path / "large")


def test_max_bytes_takes_a_share_of_each_shard(spec, tmp_path):
    """The limit counts whole documents; a shard exceeds its share by less than its last document."""
    store = compress(open_corpus(spec), "train", Bytes(), tmp_path / "out", n_shards=4, max_bytes=1000)
    for shard, entry in enumerate(store.manifest["shards"]):
        sizes = np.cumsum([len(text) for text in DOCUMENTS[shard::4]])
        assert entry["n_bytes"] == sizes[np.searchsorted(sizes, 250)]
    assert 1000 <= store.n_bytes < 1000 + 4 * max(map(len, DOCUMENTS))


def test_finished_shards_are_kept(spec, tmp_path):
    """A rerun encodes and reports only the missing shards, and gives the same bytes."""
    out = tmp_path / "out"
    compress(open_corpus(spec), "train", Bytes(), out, n_shards=3)
    before = files(out)
    for name in ("manifest.json", "tokens-00001-of-00003.json", "tokens-00001-of-00003.array_record"):
        (out / name).unlink()
    codec, lines = Counting(), []
    compress(open_corpus(spec), "train", codec, out, n_shards=3, log=lines.append)
    assert sum(codec.batches, []) == [text.encode() for text in DOCUMENTS[1::3]]
    assert lines == [
        "tokens-00000-of-00003: already finished, 34 documents kept",
        "tokens-00002-of-00003: already finished, 33 documents kept",
    ]
    assert files(out) == before


def test_damaged_shard_is_made_again(spec, tmp_path):
    """A finished shard with changed bytes is encoded again."""
    out = tmp_path / "out"
    compress(open_corpus(spec), "train", Bytes(), out, n_shards=2)
    before = files(out)
    path = out / "tokens-00001-of-00002.array_record"
    data = bytearray(path.read_bytes())
    data[80] ^= 1
    path.write_bytes(data)
    lines = []
    compress(open_corpus(spec), "train", Bytes(), out, n_shards=2, log=lines.append)
    assert (
        "tokens-00001-of-00002: tokens-00001-of-00002.array_record is damaged or missing; the shard is encoded again"
        in lines
    )
    assert files(out) == before


_PROGRAM = """
import sys, time
from compressed_lm.codecs.bytes_codec import Bytes
from compressed_lm.data.job import compress
from compressed_lm.data.sources import open_corpus

class Slow(Bytes):
    def encode_batch(self, documents):
        time.sleep(0.02)
        return super().encode_batch(documents)

compress(open_corpus(sys.argv[1]), "train", Slow(), sys.argv[2], n_shards=4, batch_bytes=100)
"""


def test_killed_job_continues_to_the_same_bytes(spec, tmp_path):
    """After a kill -9 in the middle of a shard, the next run gives the files of an uninterrupted run."""
    out = tmp_path / "killed"
    job = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, spec, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not (list(out.glob("tokens-*.json")) and list(out.glob("*.partial"))):
        assert job.poll() is None and time.monotonic() < deadline, "the job ended before it could be killed"
        time.sleep(0.002)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    assert not (out / "manifest.json").exists()
    with pytest.raises(InputError, match="the compression job was not finished"):
        TokenStore.open(out)
    compress(open_corpus(spec), "train", Bytes(), out, n_shards=4, batch_bytes=100, log=quiet)
    compress(open_corpus(spec), "train", Bytes(), tmp_path / "whole", n_shards=4)
    assert files(out) == files(tmp_path / "whole")


def test_processes_share_the_shards(spec, tmp_path):
    """Each process writes its own shards, the last one the manifest; the store is that of one process."""
    out = tmp_path / "out"
    assert compress(open_corpus(spec), "train", Bytes(), out, n_shards=5, process_index=1, process_count=2) is None
    assert sorted(path.name for path in out.glob("*.json")) == [
        "tokens-00001-of-00005.json",
        "tokens-00003-of-00005.json",
    ]
    assert (
        compress(open_corpus(spec), "train", Bytes(), out, n_shards=5, process_index=0, process_count=2).n_documents
        == 100
    )
    compress(open_corpus(spec), "train", Bytes(), tmp_path / "one", n_shards=5)
    assert files(out) == files(tmp_path / "one")


class Other(Bytes):
    """Codec with another fingerprint."""

    spec = "other"
    fingerprint = "0" * 64


@pytest.mark.parametrize(
    "codec, options, message",
    [
        (
            Other(),
            {},
            r"started with {'codec': 'bytes 6e6e967a'}, and now {'codec': 'other 00000000'} was given",
        ),
        (Bytes(), {"max_bytes": 100}, r"{'max_bytes': None}, and now {'max_bytes': 100} was given"),
        (Bytes(), {"n_shards": 3}, r"{'n_shards': 2}, and now {'n_shards': 3} was given"),
    ],
)
def test_another_job_does_not_continue_a_folder(spec, tmp_path, codec, options, message):
    """A folder of another codec or other options is refused and not changed."""
    out = tmp_path / "out"
    compress(open_corpus(spec), "train", Bytes(), out, n_shards=2)
    before = files(out)
    with pytest.raises(InputError, match=message):
        compress(open_corpus(spec), "train", codec, out, **{"n_shards": 2, **options})
    assert files(out) == before


def test_changed_corpus_does_not_continue_a_folder(spec, tmp_path):
    """A corpus with changed files is another corpus, even under the same name."""
    compress(open_corpus(spec), "train", Bytes(), tmp_path / "out", n_shards=2)
    with open(tmp_path / "docs.json", "a") as file:
        file.write('{"text": "one more"}\n')
    with pytest.raises(InputError, match="has shards of another job: it was started with {'corpus': 'json:"):
        compress(open_corpus(spec), "train", Bytes(), tmp_path / "out", n_shards=2)


def test_lossy_codec_is_caught(spec, tmp_path):
    """A shard whose documents do not decode to themselves is refused, with document and byte."""

    class Lossy(Bytes):
        def _decode_sequences(self, sequences):
            return [document.replace(b"more", b"mOre") for document in super()._decode_sequences(sequences)]

    with pytest.raises(
        InputError,
        match=r"Document \d+ of tokens-00000-of-00002 does not decode to itself.* byte 13 is the first .* \(b'ore",
    ):
        compress(open_corpus(spec), "train", Lossy(), tmp_path / "out", n_shards=2)
    assert files(tmp_path / "out") == {}


def test_damaged_input_keeps_finished_shards(tmp_path):
    """An invalid line in the second file stops the job and keeps the first shard.

    The corrected corpus must start from the beginning.
    """
    (tmp_path / "a.json").write_text('{"text": "good"}\n')
    (tmp_path / "b.json").write_text('{"text": "good"}\n{"no": 1}\n')
    out = tmp_path / "out"
    with pytest.raises(InputError, match="b.json:2"):
        compress(open_corpus(f"json:{tmp_path}/*.json"), "train", Bytes(), out, n_shards=2)
    assert sorted(files(out)) == [
        f"tokens-00000-of-00002{suffix}" for suffix in (".array_record", ".json", ".lengths.npy")
    ]


def test_finished_store_is_opened_without_reading_the_corpus(spec, tmp_path):
    """A finished job only checks the store; neither corpus nor codec is used."""
    compress(open_corpus(spec), "train", Bytes(), tmp_path / "out", n_shards=2)
    corpus, codec = open_corpus(spec), Counting()
    corpus._documents = corpus.estimated_bytes = None
    assert compress(corpus, "train", codec, tmp_path / "out", n_shards=2, log=quiet).n_documents == 100
    assert codec.batches == []


def test_real_c4_round_trips(data_dir, tmp_path):
    """Every page of the C4 sample is in the store and round-trips, with the counts of its README."""
    corpus = open_corpus(f"json:{data_dir}/corpora/c4_en/c4-train*.gz")
    store = compress(corpus, "train", Bytes(), tmp_path / "out")
    assert (store.n_documents, store.n_bytes) == (2820, 6_087_024)
    pages = [page for shard in range(4) for page in corpus.documents(shard=shard, n_shards=4)]
    assert all(record.ids.astype("u1").tobytes() == page for record, page in zip(store.documents(), pages, strict=True))


def test_empty_corpus_makes_no_store(tmp_path):
    """A corpus without documents raises an error and writes no manifest."""
    (tmp_path / "a.json").write_text("\n")
    with pytest.raises(InputError, match="has no document in its split 'train'"):
        compress(open_corpus(f"json:{tmp_path}/a.json"), "train", Bytes(), tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_full_disk_is_one_paragraph(spec, tmp_path, monkeypatch):
    """On a full disk the first shard is kept, the partial file is removed, and the message says what to do."""
    out = tmp_path / "out"
    writer_class = shards.ArrayRecordWriter

    class Full:
        """Writer that fails on closing the second shard, with the real writer's message."""

        def __init__(self, path, options):
            self._writer, self._full = writer_class(path, options), "00001-of" in path

        def __getattr__(self, name):
            return getattr(self._writer, name)

        def close(self):
            self._writer.close()
            if self._full:
                raise RuntimeError(
                    "write() failed: No space left on device; writing x; at byte 1048576; Failed to close chunk_writer"
                )

    monkeypatch.setattr(shards, "ArrayRecordWriter", Full)
    with pytest.raises(
        InputError,
        match="No space is left for the token store .*Its 1 finished shards are kept.*run the same command again",
    ):
        compress(open_corpus(spec), "train", Bytes(), out, n_shards=3)
    assert sorted(files(out)) == [
        f"tokens-00000-of-00003{suffix}" for suffix in (".array_record", ".json", ".lengths.npy")
    ]
    monkeypatch.undo()
    compress(open_corpus(spec), "train", Bytes(), out, n_shards=3, log=quiet)
    compress(open_corpus(spec), "train", Bytes(), tmp_path / "whole", n_shards=3)
    assert files(out) == files(tmp_path / "whole")


def test_every_document_is_decoded(spec, tmp_path):
    """Any single document that does not round-trip stops the job: all are compared."""

    class LosesOne(Bytes):
        def _decode_sequences(self, sequences):
            return [d.replace(b"Document 57:", b"Document 58:") for d in super()._decode_sequences(sequences)]

    with pytest.raises(InputError, match=r"Document \d+ of tokens-0000\d-of-00002 does not decode to itself"):
        compress(open_corpus(spec), "train", LosesOne(), tmp_path / "out", n_shards=2)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_shards_of_two_codecs_make_no_store(spec, tmp_path):
    """Processes with different codecs of the same spec raise an error instead of making a mixed store."""

    class Twin(Bytes):
        fingerprint = "1" * 64

    out, options = tmp_path / "out", {"n_shards": 2, "process_count": 2}
    assert compress(open_corpus(spec), "train", Twin(), out, process_index=1, **options) is None
    (out / "tokens-00001-of-00002.json").rename(tmp_path / "hidden")  # as when both begin at once

    class Shows(Bytes):
        def encode_batch(self, documents):
            if (tmp_path / "hidden").exists():
                (tmp_path / "hidden").rename(out / "tokens-00001-of-00002.json")
            return super().encode_batch(documents)

    with pytest.raises(InputError, match="has shards of another job: it was started with {'codec': 'bytes 11111111'}"):
        compress(open_corpus(spec), "train", Shows(), out, process_index=0, **options)
    assert not (out / "manifest.json").exists()
