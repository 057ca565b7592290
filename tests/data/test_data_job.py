"""The compression job: complete, resumable and verified, and the same bytes however it is done."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressed_lm import codecs
from compressed_lm.codecs.bytes_codec import Bytes
from compressed_lm.data import encoding, shard_writer
from compressed_lm.data.engines.local import Local
from compressed_lm.data.job import compress
from compressed_lm.data.sources import open_corpus
from compressed_lm.data.store import TokenStore
from compressed_lm.errors import InputError
from tests.data.made_corpus import KilledInWorkers, MadeCorpus

DOCUMENTS = [f"Document {i}: " + "more words " * (i % 7) for i in range(100)]
TEXTS = [text.encode() for text in DOCUMENTS]
CONTENT = ("ids", "index", "sums", "names")


@pytest.fixture
def spec(tmp_path):
    (tmp_path / "docs.json").write_text("".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS))
    return f"json:{tmp_path}/docs.json"


def files(folder, *, content=False):
    """Returns the files of a folder; with `content` only those that do not describe the source."""
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.is_file() and (not content or path.suffix.removeprefix(".") in CONTENT)
    }


def quiet(_):
    pass


class Counting(Bytes):
    """Codec that counts the documents it encodes."""

    def __init__(self):
        self.batches = []

    def encode_batch(self, documents):
        self.batches.append(list(documents))
        return super().encode_batch(documents)


def decoded(store):
    return [Bytes().decode(record.ids) for record in store.documents()]


def test_store_holds_the_corpus(spec, tmp_path):
    """Every document is in the store once, in the order of the corpus, with the right counts; nothing else is left."""
    store = compress(open_corpus(spec), "train", Bytes(), tmp_path / "out", shard_bytes=1000)
    assert decoded(store) == TEXTS
    assert store.n_documents == 100 and store.n_bytes == store.n_tokens == sum(map(len, TEXTS))
    assert store.manifest["corpus"] == open_corpus(spec).describe("train")
    assert store.manifest["codec"]["fingerprint"] == Bytes.fingerprint
    assert store.manifest["units"] == [[[f"{tmp_path}/docs.json", 0, None]]]
    store.verify()
    suffixes = {path.suffix for path in (tmp_path / "out").iterdir()}
    assert suffixes == {".ids", ".index", ".sums", ".json"} and not (tmp_path / "out" / "job.json").exists()


def test_a_shard_ends_with_the_document_that_fills_it(tmp_path):
    """Each shard but the last is the fewest documents with at least `shard_bytes` bytes of ids."""
    store = compress(MadeCorpus(TEXTS), "train", Bytes(), tmp_path / "out", shard_bytes=300)
    expected, open_shard = [], 0
    for text in TEXTS:
        open_shard += len(text)
        if open_shard >= 300:
            expected.append(open_shard)
            open_shard = 0
    assert [entry["n_tokens"] for entry in store.manifest["shards"]] == [
        *expected,
        *([open_shard] if open_shard else []),
    ]


@pytest.mark.parametrize("n_shards", [1, 3, 7, 120])
def test_a_given_number_of_shards_is_made_of_equal_parts(tmp_path, n_shards):
    """There are as many shards as requested, also more than documents, of sizes that differ by one document."""
    store = compress(MadeCorpus(TEXTS), "train", Bytes(), tmp_path / "out", n_shards=n_shards)
    sizes = [entry["n_tokens"] + entry["n_documents"] for entry in store.manifest["shards"]]
    assert len(sizes) == n_shards and decoded(store) == TEXTS
    share, longest = sum(sizes) / n_shards, max(map(len, TEXTS)) + 1
    assert all(abs(sum(sizes[: i + 1]) - share * (i + 1)) <= longest for i in range(n_shards))


class Interrupted(Exception):
    pass


class Fragile(Bytes):
    """Codec that fails after some documents."""

    left = 1 << 60

    def encode_batch(self, documents):
        Fragile.left -= len(documents)
        if Fragile.left < 0:
            raise Interrupted
        return super().encode_batch(documents)


def divided(data, n, label):
    """Draws sizes that sum to n, some of them 0."""
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=6), label=label))
    return [b - a for a, b in zip([0, *cuts], [*cuts, n], strict=True)]


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_division_and_interruptions_do_not_change_the_store(tmp_path_factory, data):
    """Any division into units, blocks and batches, interrupted anywhere, gives the bytes of one uninterrupted run.

    Also after finished shards were deleted or damaged.
    """
    lengths = data.draw(st.lists(st.integers(0, 40), min_size=1, max_size=40), label="lengths")
    texts = [bytes(random.Random(i).randbytes(n)) for i, n in enumerate(lengths)]
    sharding = data.draw(
        st.sampled_from([{"shard_bytes": 1}, {"shard_bytes": 50}, {"shard_bytes": 1 << 20}, {"n_shards": 5}]), label="s"
    )
    most = data.draw(st.none() | st.integers(1, 800), label="max_bytes")
    options = dict(**sharding, max_bytes=most, log=quiet)
    folder = tmp_path_factory.mktemp("stores")
    whole = compress(MadeCorpus(texts, named=True), "train", Bytes(), folder / "whole", **options)
    kept = decoded(whole)
    assert kept == texts[: len(kept)] and list(whole.names()) == [f"name {i}" for i in range(len(kept))]
    assert most is None or sum(map(len, kept[:-1])) < most
    assert len(kept) == len(texts) or sum(map(len, kept)) >= (most or 1 << 60)

    corpus = MadeCorpus(texts, divided(data, len(texts), "units"), named=True)
    before = encoding.BLOCK_BYTES, encoding.BATCH_BYTES, encoding.BLOCK_SECONDS
    out, count = folder / "made", data.draw(st.integers(1, 3), label="processes")
    try:
        encoding.BATCH_BYTES = data.draw(st.sampled_from([1, 30, 1000]), label="batch")
        encoding.BLOCK_BYTES = data.draw(st.sampled_from([1, 60, 1000]), label="block")
        for n_documents in data.draw(st.lists(st.integers(0, 20), max_size=3), label="interruptions"):
            Fragile.left = n_documents
            index = data.draw(st.integers(0, count - 1), label="process")
            try:
                compress(corpus, "train", Fragile(), out, process_index=index, process_count=count, **options)
            except Interrupted:
                encoding.BATCH_BYTES = 7  # the next process need not write the same blocks
        Fragile.left = 1 << 60
        for index in range(count):
            store = compress(corpus, "train", Fragile(), out, process_index=index, process_count=count, **options)
        assert store and files(out, content=True) == files(folder / "whole", content=True)
        n_shards = len(store.manifest["shards"])
        for shard in data.draw(st.sets(st.integers(0, n_shards - 1)), label="damaged"):
            path = out / f"tokens-{shard:05d}.{data.draw(st.sampled_from(['ids', 'index', 'json']), label='file')}"
            path.unlink()
        compress(corpus, "train", Fragile(), out, **options)
        assert files(out, content=True) == files(folder / "whole", content=True)
        assert TokenStore.open(out).manifest == store.manifest
    finally:
        encoding.BLOCK_BYTES, encoding.BATCH_BYTES, encoding.BLOCK_SECONDS = before


def test_finished_documents_are_not_encoded_again(tmp_path):
    """A rerun encodes only the documents after the last block, and reports the finished shards."""
    out, codec, lines = tmp_path / "out", Counting(), []
    before = encoding.BLOCK_BYTES, encoding.BATCH_BYTES
    corpus = MadeCorpus(TEXTS, [60, 40])
    try:
        encoding.BLOCK_BYTES = encoding.BATCH_BYTES = 1
        Fragile.left = 75
        encode_stream = Fragile._encode_checked_stream
        Fragile._encode_checked_stream = lambda self, texts: (ids for t in texts for ids in self.encode_batch([t]))
        with pytest.raises(Interrupted):
            compress(corpus, "train", Fragile(), out, shard_bytes=1000, log=quiet)
    finally:
        encoding.BLOCK_BYTES, encoding.BATCH_BYTES = before
        Fragile._encode_checked_stream = encode_stream
    store = compress(corpus, "train", codec, out, shard_bytes=1000, log=lines.append)
    assert sum(codec.batches, []) == TEXTS[75:] and corpus.read_units[-1] == (1, 15)
    assert decoded(store) == TEXTS
    n = store.manifest["shards"][0]["n_documents"]
    assert lines[0] == f"tokens-00000: already finished, {n} documents kept"


def test_slow_codecs_write_by_the_clock(tmp_path, monkeypatch):
    """Documents are written after `BLOCK_SECONDS` even if they are few bytes, so a kill loses at most so much time."""
    monkeypatch.setattr(encoding, "BLOCK_SECONDS", -1.0)
    seen = []
    monkeypatch.setattr(encoding.blocks, "write", lambda folder, name, block, **_: seen.append(name))
    job = encoding.Job(MadeCorpus(TEXTS), "train", Bytes(), tmp_path, None, {"shard_bytes": 1})
    list(encoding.encode(job, iter([encoding.Task(encoding.Place(0, 0))])))
    assert len(seen) == 101 and [name.stop for name in seen[:3]] == [1, 2, 3] and seen[-1].last


_PROGRAM = """
import sys, time
from compressed_lm.codecs.bytes_codec import Bytes
from compressed_lm.data import encoding
from compressed_lm.data.engines.local import Local
from compressed_lm.data.job import compress
from compressed_lm.data.sources import open_corpus

class Slow(Bytes):
    def _decode_sequences(self, sequences):
        time.sleep(0.002)
        return super()._decode_sequences(sequences)

if __name__ == "__main__":
    encoding.BATCH_BYTES = encoding.BLOCK_BYTES = 1
    compress(open_corpus(sys.argv[1]), "train", Slow(), sys.argv[2], shard_bytes=500, engine=Local(int(sys.argv[3])))
"""


_SLOW = pytest.mark.slow("starts 20 jobs")


@pytest.mark.parametrize("workers, kills", [(1, 3), pytest.param(1, 20, marks=_SLOW), pytest.param(2, 20, marks=_SLOW)])
def test_killed_jobs_continue_to_the_same_bytes(spec, tmp_path, workers, kills):
    """After kills (-9) at random times, the store has the files of an uninterrupted run."""
    (tmp_path / "job.py").write_text(_PROGRAM)
    draw = random.Random(workers)
    out, deaths = tmp_path / "killed", 0
    for _ in range(kills):
        command = [sys.executable, str(tmp_path / "job.py"), spec, str(out), str(workers)]
        job = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        begun = len(list(out.glob("*"))) + len(list(out.glob("blocks/*"))) if out.exists() else 0
        deadline = time.monotonic() + 60
        while job.poll() is None and time.monotonic() < deadline:
            if out.exists() and len(list(out.glob("*"))) + len(list(out.glob("blocks/*"))) != begun:
                break
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.03))
        if job.poll() is None:
            os.kill(job.pid, signal.SIGKILL)
            deaths += 1
        job.wait()
        if (out / "manifest.json").exists():
            break
    assert deaths >= min(kills, 3) - 1, "the jobs ended before they could be killed"
    compress(open_corpus(spec), "train", Bytes(), out, shard_bytes=500, log=quiet)
    compress(open_corpus(spec), "train", Bytes(), tmp_path / "whole", shard_bytes=500)
    assert files(out) == files(tmp_path / "whole")


def test_workers_give_the_same_bytes(tmp_path, data_dir):
    """One and two worker processes write the same store of real text, with a codec that has tables in memory."""
    corpus = open_corpus(f"json:{data_dir}/corpora/*/*validation*.gz")
    codec, options = codecs.load("pieces16-en"), dict(shard_bytes=200_000)
    one = compress(corpus, "train", codec, tmp_path / "one", **options)
    compress(corpus, "train", codec, tmp_path / "two", engine=Local(2), **options)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert len(one.manifest["shards"]) > 3 and one.n_documents == 726


def test_processes_share_the_units(tmp_path):
    """Each process encodes its own units, the last one writes the shards; the store is that of one process."""
    corpus, out = MadeCorpus(TEXTS, [20] * 5), tmp_path / "out"
    codec = Counting()
    assert compress(corpus, "train", codec, out, shard_bytes=500, process_index=1, process_count=2) is None
    assert sum(codec.batches, []) == TEXTS[20:40] + TEXTS[60:80]
    store = compress(corpus, "train", Bytes(), out, shard_bytes=500, process_index=0, process_count=2)
    assert store.n_documents == 100
    compress(corpus, "train", Bytes(), tmp_path / "one", shard_bytes=500)
    assert files(out) == files(tmp_path / "one")


def test_two_processes_of_the_same_number_both_succeed(tmp_path):
    """A process and its replacement that encode the same units at the same time both end well."""
    corpus, out = MadeCorpus(TEXTS, [50, 50]), tmp_path / "out"
    options = dict(shard_bytes=500, process_index=0, process_count=2, log=quiet)

    class Twice(Bytes):
        """Codec during whose work another process of the same number does all of it."""

        done = False

        def encode_batch(self, documents):
            if not Twice.done:
                Twice.done = True
                assert compress(corpus, "train", Bytes(), out, **options) is None
            return super().encode_batch(documents)

    assert compress(corpus, "train", Twice(), out, **options) is None
    compress(corpus, "train", Bytes(), out, **options | {"process_index": 1})
    compress(corpus, "train", Bytes(), tmp_path / "one", shard_bytes=500)
    assert files(out) == files(tmp_path / "one")


def test_processes_reach_a_limit_that_sizes_did_not_tell(tmp_path):
    """With --max_bytes and units smaller than estimated, the process that finishes last encodes what is missing."""

    class Large(MadeCorpus):
        def _units(self, split):
            return tuple(type(u)(u.spans, u.n_bytes * 10) for u in super()._units(split))

    most = sum(map(len, TEXTS)) * 3 // 4
    corpus, options = Large(TEXTS, [10] * 10), dict(shard_bytes=500, max_bytes=most, log=quiet)
    assert compress(corpus, "train", Bytes(), tmp_path / "out", process_index=1, process_count=2, **options) is None
    store = compress(corpus, "train", Bytes(), tmp_path / "out", process_index=0, process_count=2, **options)
    assert store.n_bytes >= most and decoded(store) == TEXTS[: len(store)]


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
        (Bytes(), {"n_shards": 3}, r"{'sharding': {'n_shards': 2}}, and now {'sharding': {'n_shards': 3}} was given"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_another_job_does_not_continue_a_folder(spec, tmp_path, codec, options, message, finished):
    """A folder of another codec or other options is refused and not changed."""
    out = tmp_path / "out"
    count = 1 if finished else 2
    corpus = MadeCorpus(TEXTS, [50, 50])
    compress(corpus, "train", Bytes(), out, n_shards=2, process_count=count)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=message):
        compress(corpus, "train", codec, out, **{"n_shards": 2, **options})
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_changed_corpus_does_not_continue_a_folder(spec, tmp_path):
    """A corpus with changed files is another corpus, even under the same name."""
    compress(open_corpus(spec), "train", Bytes(), tmp_path / "out", n_shards=2)
    with open(tmp_path / "docs.json", "a") as file:
        file.write('{"text": "one more"}\n')
    with pytest.raises(InputError, match="has shards of another job: it was started with {'corpus': 'json:"):
        compress(open_corpus(spec), "train", Bytes(), tmp_path / "out", n_shards=2)


def test_every_document_is_decoded(tmp_path):
    """Any single document that does not round-trip stops the job, with document and byte: all are compared."""

    class LosesOne(Bytes):
        def _decode_sequences(self, sequences):
            return [d.replace(b"Document 57:", b"Document 58:") for d in super()._decode_sequences(sequences)]

    with pytest.raises(
        InputError, match=r"Document 57 of unit 0 \(made\) does not decode to itself.* byte 10 is the first .* \(b'7: "
    ):
        compress(MadeCorpus(TEXTS), "train", LosesOne(), tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists() and not list((tmp_path / "out").glob("blocks/*"))


def test_an_error_in_a_worker_process_is_the_users_error(tmp_path):
    """A damaged line in one of several files is one InputError, also from worker processes, and keeps what is done."""
    (tmp_path / "a.json").write_text('{"text": "good"}\n' * 100)
    (tmp_path / "b.json").write_text('{"text": "good"}\n{"no": 1}\n')
    for workers in (1, 2):
        out = tmp_path / f"out{workers}"
        with pytest.raises(InputError, match="b.json:2"):
            compress(
                open_corpus(f"mix:json:{tmp_path}/a.json,json:{tmp_path}/b.json"),
                "train",
                Bytes(),
                out,
                engine=Local(workers),
            )
        assert not (out / "manifest.json").exists()
        assert {path.name for path in out.glob("blocks/*")} >= {
            "unit-000000-0000000000-0000000100-t400-b400-last.block",
            "unit-000001-0000000000-0000000001-t4-b4.block",
        }


def test_a_worker_that_the_system_ends_is_one_paragraph(tmp_path):
    """A worker out of memory is an error that says what to do; a rerun with fewer workers finishes."""
    corpus, codec = MadeCorpus(TEXTS, [50, 50]), KilledInWorkers()
    with pytest.raises(InputError, match="ended by the system, most likely because memory is short: 2 workers"):
        compress(corpus, "train", codec, tmp_path / "out", engine=Local(2))
    assert compress(corpus, "train", codec, tmp_path / "out").n_documents == 100


def test_finished_store_is_opened_without_reading_the_corpus(tmp_path):
    """A finished job only checks the store; the codec is not used and no unit is read."""
    corpus = MadeCorpus(TEXTS)
    compress(corpus, "train", Bytes(), tmp_path / "out", n_shards=2)
    corpus.read_units.clear()
    codec = Counting()
    assert compress(corpus, "train", codec, tmp_path / "out", n_shards=2, log=quiet).n_documents == 100
    assert codec.batches == corpus.read_units == []


def test_the_shares_of_a_mixture_are_recorded(tmp_path):
    """The store of a mixture has the bytes of each part, which sum to all."""
    for name, n in (("a", 300), ("b", 100)):
        (tmp_path / f"{name}.json").write_text('{"text": "%s"}\n' % (name * 10) * n)
    specs = [f"json:{tmp_path}/{name}.json" for name in "ab"]
    for mixture, expected in ((f"3*{specs[0]},1*{specs[1]}", [0.9, 0.1]), (f"{specs[0]},{specs[1]}", [0.75, 0.25])):
        out = tmp_path / mixture[:1]
        store = compress(open_corpus(f"mix:{mixture}"), "train", Bytes(), out, shard_bytes=700)
        assert store.shares() == dict(zip(specs, expected, strict=True))
    assert compress(open_corpus(specs[0]), "train", Bytes(), tmp_path / "one").shares() == {}


def test_real_c4_round_trips(data_dir, tmp_path):
    """Every page of the C4 sample is in the store and round-trips, with the counts of its README."""
    corpus = open_corpus(f"json:{data_dir}/corpora/c4_en/c4-train*.gz")
    store = compress(corpus, "train", Bytes(), tmp_path / "out", shard_bytes=1 << 20)
    assert (store.n_documents, store.n_bytes) == (2820, 6_087_024)
    assert decoded(store) == list(corpus.documents())


def test_empty_corpus_makes_no_store(tmp_path):
    """A corpus without documents raises an error and writes nothing."""
    (tmp_path / "a.json").write_text("\n")
    with pytest.raises(InputError, match="has no document in its split 'train'"):
        compress(open_corpus(f"json:{tmp_path}/a.json"), "train", Bytes(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_full_disk_is_one_paragraph(tmp_path, monkeypatch):
    """On a full disk finished shards and blocks are kept, temporary files are removed; the message says what to do."""
    out = tmp_path / "out"
    hashed = shard_writer._Hashed

    class Full(hashed):
        def write(self, data):
            if "tokens-00001" in str(self.path):
                raise OSError(28, os.strerror(28), str(self.path))
            super().write(data)

    monkeypatch.setattr(shard_writer, "_Hashed", Full)
    with pytest.raises(InputError, match="No space is left for the token store .*is kept.*run the same command again"):
        compress(MadeCorpus(TEXTS), "train", Bytes(), out, shard_bytes=1000)
    names = sorted(path.name for path in out.iterdir())
    assert names == ["blocks", "job.json", *(f"tokens-00000.{suffix}" for suffix in ("ids", "index", "json", "sums"))]
    monkeypatch.undo()
    codec = Counting()
    compress(MadeCorpus(TEXTS), "train", codec, out, shard_bytes=1000, log=quiet)
    assert codec.batches == []
    compress(MadeCorpus(TEXTS), "train", Bytes(), tmp_path / "whole", shard_bytes=1000)
    assert files(out) == files(tmp_path / "whole")


def test_damaged_blocks_are_encoded_again(tmp_path, monkeypatch):
    """Blocks that a loss of power left empty, truncated or changed are encoded again, also for a number of shards."""
    monkeypatch.setattr(encoding, "BLOCK_BYTES", 500)
    monkeypatch.setattr(encoding, "BATCH_BYTES", 1)
    corpus, out = MadeCorpus(TEXTS, [50, 50]), tmp_path / "out"
    compress(corpus, "train", Bytes(), tmp_path / "one", n_shards=3)
    assert compress(corpus, "train", Bytes(), out, n_shards=3, process_count=2) is None
    paths = sorted(out.glob("blocks/*"))
    for path, content in zip(paths, (b"", paths[1].read_bytes()[:-1], b"x" + paths[2].read_bytes()[1:]), strict=False):
        path.write_bytes(content)
    compress(corpus, "train", Bytes(), out, n_shards=3, log=quiet)
    assert files(out) == files(tmp_path / "one")


def test_workers_that_cannot_reach_the_folder_are_one_paragraph(tmp_path):
    """An engine whose workers write elsewhere is an error that says what is needed, not an endless job."""

    class Elsewhere:
        def run(self, job, tasks):
            yield encoding.Progress(len(list(tasks)))

    with pytest.raises(InputError, match="must reach this folder under the same path: give one on a shared file sys"):
        compress(MadeCorpus(TEXTS), "train", Bytes(), tmp_path / "out", engine=Elsewhere())


def test_a_disk_that_is_too_small_is_refused_before_work(tmp_path):
    """A store that cannot fit is refused before a document is encoded, with both sizes."""

    class Huge(MadeCorpus):
        def estimated_bytes(self, split):
            return 10**18

    codec = Counting()
    with pytest.raises(InputError, match=r"needs at least 1,000,000,000.0 GB more, and its disk has [\d,.]+ GB free"):
        compress(Huge(TEXTS), "train", codec, tmp_path / "out")
    assert codec.batches == []


def test_shards_of_two_codecs_make_no_store(tmp_path):
    """Processes with different codecs of the same spec raise an error instead of making a mixed store."""

    class Twin(Bytes):
        fingerprint = "1" * 64

    out, options = tmp_path / "out", {"n_shards": 2, "process_count": 2}
    corpus = MadeCorpus(TEXTS, [50, 50])
    assert compress(corpus, "train", Twin(), out, process_index=1, **options) is None
    with pytest.raises(InputError, match="has shards of another job: it was started with {'codec': 'bytes 11111111'}"):
        compress(corpus, "train", Bytes(), out, process_index=0, **options)
    (out / "job.json").unlink()  # as when both begin at once
    with pytest.raises(InputError, match="belongs to another job"):
        compress(corpus, "train", Bytes(), out, process_index=0, **options)
    assert not (out / "manifest.json").exists()


@pytest.mark.parametrize("bad", [{"process_index": 2, "process_count": 2}, {"n_shards": 0}, {"shard_bytes": 0}])
def test_wrong_numbers_are_refused(tmp_path, bad):
    """Numbers that describe no work raise an error that names them."""
    with pytest.raises(InputError, match="processes are numbered from 0, and there must be at least one shard"):
        compress(MadeCorpus(TEXTS), "train", Bytes(), tmp_path / "out", **bad)


def test_large_ids_are_counted(tmp_path):
    """Ids above 65,535 take four bytes each, which count for the size of a shard."""

    class Wide(Bytes):
        vocab_size = 70_000
        fingerprint = "2" * 64

        def _encode_documents(self, documents):
            return [ids + np.int32(69_000) for ids in super()._encode_documents(documents)]

        def _decode_sequences(self, sequences):
            return super()._decode_sequences([ids - 69_000 for ids in sequences])

    store = compress(MadeCorpus(TEXTS), "train", Wide(), tmp_path / "out", shard_bytes=400)
    assert all(entry["n_tokens"] >= 100 for entry in store.manifest["shards"][:-1])
    assert store.document(0).ids.tolist() == [69_000 + b for b in TEXTS[0]]
    assert TokenStore.open(tmp_path / "out").rows(8)[0].tolist() == [69_000 + b for b in TEXTS[0][:8]]
