"""Token stores: format, random access, and damage."""

import hashlib
import json
import pickle
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import grain
import numpy as np
import pytest

from compressed_lm.data import manifest, ranges, shards
from compressed_lm.data.blocks import Block
from compressed_lm.data.shard_writer import ShardWriter
from compressed_lm.data.shards import id_dtype, shard_name
from compressed_lm.data.store import TokenStore
from compressed_lm.errors import InputError

VOCAB_SIZE = 1000
FINGERPRINT = "f" * 64


def block(documents, first=0, *, vocab_size=VOCAB_SIZE):
    """Returns a block of the given ids; document `i` has `first + i` bytes."""
    dtype = id_dtype(vocab_size)
    texts = [b"x" * (first + i) for i in range(len(documents))]
    return Block(
        np.concatenate([np.zeros(0, dtype), *(np.array(d, dtype) for d in documents)]),
        np.array([len(d) for d in documents], "<u8"),
        np.array([len(t) for t in texts], "<u8"),
        np.array([zlib.crc32(t) for t in texts], "<u4"),
    )


def write_store(folder, documents, *, n_shards=3):
    """Returns a store whose documents have the given ids; document `i` has `i` bytes."""
    folder.mkdir(exist_ok=True)
    entries = []
    bounds = [len(documents) * i // n_shards for i in range(n_shards + 1)]
    for shard, (first, stop) in enumerate(zip(bounds, bounds[1:], strict=False)):
        with ShardWriter(folder, shard, dtype=id_dtype(VOCAB_SIZE)) as writer:
            for index in range(first, stop):
                writer.add(block(documents[index : index + 1], index))
            entries.append(writer.commit())
    totals = {key: sum(entry[key] for entry in entries) for key in ("n_documents", "n_tokens", "n_bytes")}
    job = {
        "codec": {"name": "test", "spec": "test", "fingerprint": FINGERPRINT, "vocab_size": VOCAB_SIZE},
        "corpus": {"spec": "text:test", "split": "train", "fingerprint": "c"},
        "max_bytes": None,
        "sharding": {"n_shards": n_shards},
    }
    more = {"units": [], "shards": entries, "versions": {"numpy": "2"}}
    manifest.write(folder, {"format_version": 2, **job, **more, **totals})
    return folder


@pytest.fixture
def documents():
    rng = np.random.default_rng(0)
    return [rng.integers(0, VOCAB_SIZE, length).tolist() for length in (3, 0, 40, 1, 0, 7, 300, 2, 5, 0, 11)]


@pytest.fixture
def folder(tmp_path, documents):
    return write_store(tmp_path / "store", documents)


@pytest.mark.parametrize("vocab_size, n_bytes_per_id", [(256, 1), (257, 2), (65536, 2), (65537, 4)])
def test_ids_use_the_smallest_type(vocab_size, n_bytes_per_id):
    """Ids are stored in the smallest unsigned type that holds V - 1."""
    assert id_dtype(vocab_size).itemsize == n_bytes_per_id and id_dtype(vocab_size).str[0] in "<|"


def test_files_are_as_documented(tmp_path):
    """The files have the documented bytes, so that other programs can read a store."""
    with ShardWriter(tmp_path, 0, dtype=id_dtype(300)) as writer:
        writer.add(block([[1, 258], []], 5, vocab_size=300))
        entry = writer.commit()
    index = np.array([3, 4, 5, 6], "<u8").tobytes() + struct.pack("<II", zlib.crc32(b"x" * 5), zlib.crc32(b"x" * 6))
    ids = b"\x01\0\x02\x01"
    assert (tmp_path / "tokens-00000.ids").read_bytes() == ids
    assert (tmp_path / "tokens-00000.index").read_bytes() == index
    assert (tmp_path / "tokens-00000.sums").read_bytes() == struct.pack("<II", zlib.crc32(ids), zlib.crc32(index))
    assert entry["sha256"]["ids"] == hashlib.sha256(ids).hexdigest()
    assert (entry["n_documents"], entry["n_tokens"], entry["n_bytes"]) == (2, 2, 11)


def test_equal_documents_give_equal_bytes(tmp_path, documents):
    """Two stores of the same documents are the same files."""
    first, second = write_store(tmp_path / "a", documents), write_store(tmp_path / "b", documents)
    names = sorted(path.name for path in first.iterdir())
    assert len(names) == 3 * 4 + 1
    assert [(first / name).read_bytes() for name in names] == [(second / name).read_bytes() for name in names]


def test_documents_are_read_back(folder, documents):
    """Single, sequential and partial reads give the written ids, lengths and order."""
    store = TokenStore.open(folder)
    expected = documents
    assert len(store) == len(documents) and store.eod_id == VOCAB_SIZE
    assert [store.document(index).ids.tolist() for index in range(len(store))] == expected
    assert [record.ids.tolist() for record in store.documents()] == expected
    assert [record.ids.tolist() for record in store.documents(2, 9, batch=2)] == expected[2:9]
    assert (store.document(3).n_bytes, store.document(3).crc32) == (3, zlib.crc32(b"xxx"))
    with pytest.raises(IndexError):
        store.document(len(documents))


@pytest.mark.parametrize("seq_len", [1, 4, 64, 1000])
def test_rows_cut_the_stream(folder, documents, seq_len):
    """Row i is tokens i L to (i + 1) L of doc0 EOD doc1 EOD ..., across documents and shards."""
    stream = [token for document in documents for token in [*document, VOCAB_SIZE]]
    store = TokenStore.open(folder)
    rows = store.rows(seq_len)
    assert len(rows) == len(stream) // seq_len
    for index in range(len(rows)):
        assert rows[index].dtype == np.int32
        assert rows[index].tolist() == stream[index * seq_len : (index + 1) * seq_len]
    padded = store.rows(seq_len, drop_remainder=False)
    whole = np.concatenate([padded[index] for index in range(len(padded))])
    assert whole.tolist() == stream + [-1] * (-len(stream) % seq_len)


def test_rows_feed_grain(folder):
    """Rows are a grain source: pickled, shuffled and read by threads they are the same."""
    rows = TokenStore.open(folder).rows(8)
    copy = pickle.loads(pickle.dumps(rows))
    with ThreadPoolExecutor(8) as pool:
        assert all(
            np.array_equal(a, rows[i])
            for i, a in zip(
                list(range(len(rows))) * 20, pool.map(copy.__getitem__, list(range(len(rows))) * 20), strict=True
            )
        )
    dataset = grain.MapDataset.source(copy).shuffle(seed=1)
    assert sorted(row.tolist() for row in dataset) == sorted(rows[index].tolist() for index in range(len(rows)))


def test_fingerprint_is_of_the_content(folder, tmp_path, documents):
    """Other package versions do not change the fingerprint; other tokens do."""
    fingerprint = TokenStore.open(folder).fingerprint
    found = json.loads((folder / "manifest.json").read_text())
    manifest.write(folder, found | {"versions": {"numpy": "3"}})
    assert TokenStore.open(folder).fingerprint == fingerprint
    documents[0][0] += 1
    assert TokenStore.open(write_store(tmp_path / "other", documents)).fingerprint != fingerprint


def test_unfinished_store_is_refused(folder):
    """Without a manifest, the error says that the job was not finished and how to finish it."""
    (folder / "manifest.json").unlink()
    with pytest.raises(
        InputError,
        match=r"has 3 finished shards but no manifest.json: the compression job was not finished. Run the same",
    ):
        TokenStore.open(folder)
    with pytest.raises(InputError, match="was not finished"):
        TokenStore.open(folder / "nowhere")


def test_another_codec_is_refused(folder):
    """A store cannot be opened for another codec than its own."""
    assert TokenStore.open(folder, fingerprint=FINGERPRINT).codec_fingerprint == FINGERPRINT
    with pytest.raises(
        InputError,
        match=r"made by codec test with fingerprint ffffffffffffffff, but the codec in use has 0{16}",
    ):
        TokenStore.open(folder, fingerprint="0" * 64)


def test_another_format_is_refused(folder):
    """A store of a later format raises an error with its version."""
    found = json.loads((folder / "manifest.json").read_text())
    manifest.write(folder, found | {"format_version": 3})
    with pytest.raises(InputError, match="has format version 3; this package reads versions 1 and 2"):
        TokenStore.open(folder)


def test_damaged_shards_are_named(folder):
    """A truncated shard is refused immediately, a changed one by `verify`, a missing one with its name."""
    path = folder / "tokens-00001.ids"
    good = path.read_bytes()
    path.write_bytes(good[:-1])
    with pytest.raises(
        InputError, match=rf"tokens-00001 is damaged: tokens-00001.ids: it has {len(good) - 1:,} bytes instead of"
    ):
        TokenStore.open(folder)
    changed = bytearray(good)
    changed[10] ^= 1
    path.write_bytes(changed)
    with pytest.raises(InputError, match="tokens-00001.ids: the checksum is not the recorded one"):
        TokenStore.open(folder).verify()
    path.unlink()
    with pytest.raises(InputError, match="the file is missing.*run the same `compressed-lm compress`"):
        TokenStore.open(folder)
    path.write_bytes(good)
    TokenStore.open(folder).verify()


@pytest.mark.parametrize("suffix", ["ids", "index", "sums"])
def test_changed_bytes_are_not_read(folder, suffix):
    """Any flipped bit raises an error when the row or document in which it lies is read."""
    rows = TokenStore.open(folder).rows(8)
    right = [row.tolist() for row in map(rows.__getitem__, range(len(rows)))]
    path = folder / f"tokens-00001.{suffix}"
    good = path.read_bytes()
    for place in range(0, len(good), 7):
        changed = bytearray(good)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        store = TokenStore.open(folder)
        with pytest.raises(InputError, match="tokens-00001 is damaged"):
            [store.rows(8)[i] for i in range(len(right))]
            list(store.documents())
    path.write_bytes(good)
    assert [row.tolist() for row in map(TokenStore.open(folder).rows(8).__getitem__, range(len(right)))] == right


@pytest.mark.parametrize("stride, sum_bytes", [(1, 4), (2, 16), (3, 8), (512, 4096)])
def test_rows_do_not_depend_on_the_directory(tmp_path, monkeypatch, stride, sum_bytes):
    """Rows, documents and checks are right with any stride of the directory and any size of checked parts."""
    monkeypatch.setattr(shards, "_STRIDE", stride)
    for module in ("shards", "shard_writer"):
        monkeypatch.setattr(f"compressed_lm.data.{module}.SUM_BYTES", sum_bytes)
    rng = np.random.default_rng(stride)
    documents = [rng.integers(0, VOCAB_SIZE, rng.choice([0, 0, 1, 2, 30, 200])).tolist() for _ in range(60)]
    store = TokenStore.open(write_store(tmp_path / "store", documents, n_shards=4))
    stream = [token for document in documents for token in [*document, VOCAB_SIZE]]
    for start, stop in rng.integers(0, len(stream) + 1, (200, 2)):
        start, stop = min(start, stop), max(start, stop)
        assert store.tokens(start, stop).tolist() == stream[start:stop]
        first, last = sorted(rng.integers(0, len(documents) + 1, 2).tolist())
        assert [r.ids.tolist() for r in store.documents(first, last, batch=7)] == documents[first:last]


def test_a_store_may_have_more_files_than_may_be_open(folder, documents, monkeypatch):
    """Files are closed and opened again as needed, also while threads read."""
    monkeypatch.setattr(ranges, "OPEN_FILES", 1)
    rows = TokenStore.open(folder).rows(8)
    expected = [rows[i].tolist() for i in range(len(rows))]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: rows[i % len(expected)].tolist(), range(40 * len(expected))))
    assert found == expected * 40
    assert len(ranges._recent) == 1


def test_uncommitted_shard_leaves_nothing(tmp_path):
    """A writer that is interrupted by an error removes its temporary files."""
    with pytest.raises(ZeroDivisionError):
        with ShardWriter(tmp_path, 0, dtype=id_dtype(256)) as writer:
            writer.add(block([[1, 2]], vocab_size=256))
            raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_a_shard_do_not_meet(tmp_path):
    """Two writers of the same shard at the same time both succeed."""
    writers = [ShardWriter(tmp_path, 0, dtype=id_dtype(256)) for _ in range(2)]
    for documents in ([[1, 2]], [[3]]):
        for writer in writers:
            writer.add(block(documents, vocab_size=256))
    entries = []
    for writer in writers:
        with writer:
            entries.append(writer.commit())
    assert entries[0] == entries[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"tokens-00000.{suffix}" for suffix in ("ids", "index", "json", "sums")
    ]


WRONG = [None, True, -1, 0.5, 1 << 70, "", "../x", "/etc/passwd", [], {}]


def edits(value, path=()):
    """Yields (path, value) of every change of one manifest value to a wrong one, and of every removal."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*path, key), ...
        for wrong in WRONG:
            if wrong != value[key] or isinstance(wrong, bool):
                yield (*path, key), wrong
        yield from edits(value[key], (*path, key))


def test_edited_manifests_are_refused_or_mean_the_same(folder):
    """An edited manifest with a correct checksum raises InputError, or has no effect.

    Fields are missing, or of another type or range; no other error is raised.
    """
    original = json.loads((folder / "manifest.json").read_text())
    del original["checksum"]
    read = lambda store: [r.ids.tolist() for r in store.documents()] + [r.tolist() for r in store.rows(8)]  # noqa: E731
    right, refused, same = read(TokenStore.open(folder)), 0, 0
    for path, wrong in edits(original):
        edited = json.loads(json.dumps(original))
        place = edited
        for key in path[:-1]:
            place = place[key]
        if wrong is ...:
            del place[path[-1]]
        else:
            place[path[-1]] = wrong
        manifest.write(folder, edited)
        try:
            store = TokenStore.open(folder)
            store.verify()
            assert read(store) == right or path[0] == "codec", (path, wrong)
            same += 1
        except InputError:
            refused += 1
    assert refused > 300 and same < 80


def test_a_shard_of_another_job_is_found(folder):
    """A store with shards of different codecs of the same spec does not pass `verify`."""
    found = json.loads((folder / "manifest.json").read_text())
    job = manifest.job_of(found)
    for shard, fingerprint in enumerate(("f" * 64, "e" * 64)):
        path = folder / f"{shard_name(shard)}.json"
        entry = json.loads(path.read_text())
        path.write_text(json.dumps(entry | {"job": job | {"codec": job["codec"] | {"fingerprint": fingerprint}}}))
    with pytest.raises(InputError, match=r"tokens-00001.* was made by another job .*codec differ"):
        TokenStore.open(folder).verify()


def test_ids_outside_the_vocabulary_are_damage(folder):
    """A manifest with a smaller vocabulary than the records' ids is detected when they are read."""
    found = json.loads((folder / "manifest.json").read_text())
    del found["checksum"]
    manifest.write(folder, found | {"codec": found["codec"] | {"vocab_size": VOCAB_SIZE // 2}})
    with pytest.raises(InputError, match="is outside the vocabulary"):
        list(TokenStore.open(folder).documents())
