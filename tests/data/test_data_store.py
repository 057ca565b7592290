"""Token stores: format, random access, and damage."""

import json
import pickle
import zlib
from concurrent.futures import ThreadPoolExecutor

import grain
import numpy as np
import pytest

from compressed_lm.data.shards import ShardWriter, pack, shard_name, unpack
from compressed_lm.data.store import TokenStore, write_manifest
from compressed_lm.errors import InputError

VOCAB_SIZE = 1000
FINGERPRINT = "f" * 64


def write_store(folder, documents, *, n_shards=3):
    """Returns a store whose documents have the given ids; document `i` has `i` bytes."""
    folder.mkdir(exist_ok=True)
    entries = []
    for shard in range(n_shards):
        with ShardWriter(folder, shard_name(shard, n_shards), vocab_size=VOCAB_SIZE) as writer:
            for index in range(shard, len(documents), n_shards):
                writer.add(np.array(documents[index], np.int32), b"x" * index)
            writer.close()
            entries.append(writer.commit())
    totals = {key: sum(entry[key] for entry in entries) for key in ("n_documents", "n_tokens", "n_bytes")}
    job = {
        "codec": {"name": "test", "spec": "test", "fingerprint": FINGERPRINT, "vocab_size": VOCAB_SIZE},
        "corpus": {"spec": "text:test", "split": "train", "fingerprint": "c"},
        "max_bytes": None,
        "n_shards": n_shards,
    }
    write_manifest(folder, {"format_version": 1, **job, "shards": entries, "versions": {"numpy": "2"}, **totals})
    return folder


@pytest.fixture
def documents():
    rng = np.random.default_rng(0)
    return [rng.integers(0, VOCAB_SIZE, length).tolist() for length in (3, 0, 40, 1, 0, 7, 300, 2, 5, 0, 11)]


@pytest.fixture
def folder(tmp_path, documents):
    return write_store(tmp_path / "store", documents)


def in_store_order(documents, n_shards=3):
    return [document for shard in range(n_shards) for document in documents[shard::n_shards]]


@pytest.mark.parametrize("vocab_size, n_bytes_per_id", [(256, 1), (257, 2), (65536, 2), (65537, 4)])
def test_records_use_the_smallest_type(vocab_size, n_bytes_per_id):
    """A record is 8 bytes of header and the ids in the smallest unsigned type that holds V - 1."""
    ids = np.array([0, 7, vocab_size - 1], np.int32)
    record = pack(ids, b"hello", vocab_size=vocab_size)
    assert len(record) == 8 + 3 * n_bytes_per_id
    restored = unpack(record, vocab_size=vocab_size)
    assert restored.ids.dtype == np.int32 and restored.ids.tolist() == ids.tolist()
    assert (restored.n_bytes, restored.crc32) == (5, zlib.crc32(b"hello"))


def test_record_bytes_are_as_documented():
    """The header is little-endian u32 length and crc32, so that other programs can read a store."""
    assert (
        pack(np.array([1, 258]), b"a", vocab_size=300)
        == b"\x01\0\0\0" + zlib.crc32(b"a").to_bytes(4, "little") + b"\x01\0\x02\x01"
    )


def test_ids_outside_the_vocabulary_are_not_written():
    """Ids outside the vocabulary raise an error before they are truncated to the stored type."""
    with pytest.raises(ValueError, match="outside its vocabulary 0 to 255"):
        pack(np.array([256]), b"", vocab_size=256)


def test_equal_documents_give_equal_bytes(tmp_path, documents):
    """Two stores of the same documents are the same files."""
    first, second = write_store(tmp_path / "a", documents), write_store(tmp_path / "b", documents)
    names = sorted(path.name for path in first.iterdir())
    assert len(names) == 3 * 3 + 1
    assert [(first / name).read_bytes() for name in names] == [(second / name).read_bytes() for name in names]


def test_documents_are_read_back(folder, documents):
    """Single, sequential and partial reads give the written ids, lengths and order."""
    store = TokenStore.open(folder)
    expected = in_store_order(documents)
    assert len(store) == len(documents) and store.eod_id == VOCAB_SIZE
    assert [store.document(index).ids.tolist() for index in range(len(store))] == expected
    assert [record.ids.tolist() for record in store.documents()] == expected
    assert [record.ids.tolist() for record in store.documents(2, 9, batch=2)] == expected[2:9]
    assert store.document(1).n_bytes == 3
    with pytest.raises(IndexError):
        store.document(len(documents))


@pytest.mark.parametrize("seq_len", [1, 4, 64, 1000])
def test_rows_cut_the_stream(folder, documents, seq_len):
    """Row i is tokens i L to (i + 1) L of doc0 EOD doc1 EOD ..., across documents and shards."""
    stream = [token for document in in_store_order(documents) for token in [*document, VOCAB_SIZE]]
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
    manifest = json.loads((folder / "manifest.json").read_text())
    write_manifest(folder, manifest | {"versions": {"numpy": "3"}})
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
    manifest = json.loads((folder / "manifest.json").read_text())
    write_manifest(folder, manifest | {"format_version": 2})
    with pytest.raises(InputError, match="has format version 2; this package reads version 1"):
        TokenStore.open(folder)


def test_damaged_shards_are_named(folder):
    """A truncated shard is refused immediately, a changed one by `verify`, a missing one with its name."""
    path = folder / "tokens-00001-of-00003.array_record"
    good = path.read_bytes()
    path.write_bytes(good[:-1])
    with pytest.raises(
        InputError, match=rf"tokens-00001-of-00003.array_record is damaged: it has {len(good) - 1:,} bytes instead of"
    ):
        TokenStore.open(folder)
    changed = bytearray(good)
    changed[100] ^= 1
    path.write_bytes(changed)
    with pytest.raises(InputError, match="the checksum of tokens-00001-of-00003.array_record is not the recorded one"):
        TokenStore.open(folder).verify()
    path.unlink()
    with pytest.raises(InputError, match="the file is missing.*run the same `compressed-lm compress`"):
        TokenStore.open(folder)
    path.write_bytes(good)
    TokenStore.open(folder).verify()


def test_damage_inside_a_record_is_not_read(folder, documents):
    """A flipped bit in the tokens raises an error on reading."""
    store = TokenStore.open(folder)
    path = folder / "tokens-00000-of-00003.array_record"
    data = bytearray(path.read_bytes())
    position = data.index(np.array(documents[6][:20], "<u2").tobytes())
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="reading documents 2 to 2 failed"):
        store.document(2)


def test_uncommitted_shard_leaves_nothing(tmp_path):
    """A writer that is interrupted by an error removes its temporary file."""
    with pytest.raises(ZeroDivisionError):
        with ShardWriter(tmp_path, "tokens-00000-of-00001", vocab_size=256) as writer:
            writer.add(np.arange(3), b"abc")
            raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


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
        manifest = json.loads(json.dumps(original))
        place = manifest
        for key in path[:-1]:
            place = place[key]
        if wrong is ...:
            del place[path[-1]]
        else:
            place[path[-1]] = wrong
        write_manifest(folder, manifest)
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
    manifest = json.loads((folder / "manifest.json").read_text())
    job = {key: manifest[key] for key in ("codec", "corpus", "max_bytes", "n_shards")}
    for shard, fingerprint in enumerate(("f" * 64, "e" * 64)):
        path = folder / f"{shard_name(shard, 3)}.json"
        entry = json.loads(path.read_text())
        path.write_text(json.dumps(entry | {"job": job | {"codec": job["codec"] | {"fingerprint": fingerprint}}}))
    with pytest.raises(InputError, match=r"00001-of-00003.* was made by another job .*codec differ"):
        TokenStore.open(folder).verify()


def test_ids_outside_the_vocabulary_are_damage(folder):
    """A manifest with a smaller vocabulary than the records' ids is detected when they are read."""
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["checksum"]
    write_manifest(folder, manifest | {"codec": manifest["codec"] | {"vocab_size": VOCAB_SIZE // 2}})
    with pytest.raises(InputError, match="is outside the vocabulary"):
        list(TokenStore.open(folder).documents())
