"""Damaged files, codecs and token stores raise errors or have no effect.

Damage is a flipped bit or a truncation; decoders also get ids that no encoder wrote.
"""

import collections
import functools
import hashlib
import inspect
import json
import struct
import zlib

import numpy as np
import pytest

from compressed_lm import codecs
from compressed_lm.codecs import arithmetic, encoded_file
from compressed_lm.coding.range_coder import CorruptStream
from compressed_lm.data import manifest
from compressed_lm.data.blocks import Block
from compressed_lm.data.shard_writer import ShardWriter
from compressed_lm.data.store import TokenStore
from compressed_lm.errors import InputError

SPECS = [
    "bytes",
    "sentencepiece(v=512)",
    "pieces(v=512)",
    "gzip(v=4096)",
    "static_ac(v=256)",
    "ac(v=256)",
    "eiw(b=16,v=256)",
    "eiw(b=24,v=256)",
]
DOCUMENT = b"It was a dark and stormy night; the rain fell in torrents. " * 15 + bytes(range(256))
SHORT = b"It was a dark and stormy night."


@pytest.fixture(scope="module")
def built(m1):
    """Returns a dictionary of codecs by spec, built at the first use."""
    text = [paragraph.encode() for paragraph in inspect.getsource(inspect).split("\n\n")]
    return functools.cache(lambda spec: codecs.create(spec, m1=m1, documents=lambda: text))


def damages(good: bytes, *, n_flips: int | None = None, n_cuts: int | None = None):
    """Yields all contents that differ from `good` in one bit or are truncated; or only some of them, spread evenly."""
    for number in np.unique(np.linspace(0, 8 * len(good) - 1, n_flips or 8 * len(good)).astype(int)).tolist():
        damaged = bytearray(good)
        damaged[number // 8] ^= 1 << number % 8
        yield bytes(damaged)
    for length in np.unique(np.linspace(0, len(good) - 1, n_cuts or len(good)).astype(int)).tolist():
        yield good[:length]


def outcome(read, wanted) -> str:
    """Returns "detected" if `read` raises a clear error, "harmless" if it returns `wanted`, else "WRONG".

    Other exceptions are not caught.
    """
    try:
        return "harmless" if read() == wanted else "WRONG"
    except (InputError, CorruptStream) as error:
        assert len(str(error)) > 40, error
        return "detected"


def damaged_files(codec) -> collections.Counter:
    """Returns the outcomes of all damages of an encoded file, in memory."""
    content = encoded_file.encode_file(DOCUMENT, codec)
    return collections.Counter(
        outcome(lambda damaged=damaged: encoded_file.decode_file(damaged, codec), DOCUMENT)
        for damaged in damages(content)
    )


def on_disk(path, read, wanted, **numbers) -> collections.Counter:
    """Returns the outcomes of damages of one file on disk, with the other files intact."""
    good, found = path.read_bytes(), collections.Counter()
    for damaged in damages(good, **numbers):
        path.write_bytes(damaged)
        found[outcome(read, wanted)] += 1
    path.write_bytes(good)
    return found


def damaged_codec(codec, folder) -> collections.Counter:
    """Returns the outcomes of damages of a saved codec's files; if it loads, it must be the same codec."""
    codecs.save(codec, folder)
    describe = lambda c: (c.spec, c.fingerprint, c.vocab_size)  # noqa: E731
    found = collections.Counter()
    for path in sorted(folder.iterdir()):
        numbers = {"n_flips": 500, "n_cuts": 50} if path.name == "codec.json" else {"n_flips": 100, "n_cuts": 20}
        found += on_disk(path, lambda: describe(codecs.load(folder)), describe(codec), **numbers)
    return found


def write_store(folder):
    """Writes a store of two shards with documents of several lengths, including empty ones."""
    rng, entries = np.random.default_rng(0), []
    folder.mkdir()
    for shard in range(2):
        lengths = np.array((3, 0, 40, 1, 200)[shard:], "<u8")
        texts = [zlib.crc32(b"x" * n) for n in lengths.tolist()]
        ids = rng.integers(0, 1000, int(lengths.sum())).astype("<u2")
        with ShardWriter(folder, shard, dtype=ids.dtype) as writer:
            writer.add(Block(ids, lengths, lengths, np.array(texts, "<u4")))
            entries.append(writer.commit())
    totals = {key: sum(entry[key] for entry in entries) for key in ("n_documents", "n_tokens", "n_bytes")}
    job = {
        "codec": {"name": "test", "spec": "test", "fingerprint": "f" * 64, "vocab_size": 1000},
        "corpus": {"spec": "text:test", "split": "train", "fingerprint": "c"},
        "max_bytes": None,
        "sharding": {"n_shards": 2},
    }
    more = {"units": [], "shards": entries, "versions": {}}
    manifest.write(folder, {"format_version": 2, **job, **more, **totals})


def read_store(folder):
    """Returns everything that a reader of a store sees: documents, rows, counts."""
    store = TokenStore.open(folder)
    documents = [(record.ids.tolist(), record.n_bytes, record.crc32) for record in store.documents()]
    rows = store.rows(32, drop_remainder=False)
    about = (store.codec_spec, store.codec_fingerprint, store.vocab_size, store.n_tokens, store.n_bytes)
    return documents, [rows[i].tolist() for i in range(len(rows))], about, store.fingerprint


def damaged_store(folder) -> dict[str, collections.Counter]:
    """Returns the outcomes of damages of a store's files, read as in training, and also verified."""
    write_store(folder)
    read, wanted = lambda: read_store(folder), read_store(folder)

    def verified():
        TokenStore.open(folder).verify()
        return read()

    found = collections.defaultdict(collections.Counter)
    for path in sorted(folder.iterdir()):
        kind = "store " + (path.name if path.name == "manifest.json" else path.name.partition(".")[2])
        found[kind] += on_disk(path, read, wanted, n_flips=1500, n_cuts=100)
        found[kind + ", verified"] += on_disk(path, verified, wanted, n_flips=100, n_cuts=10)
    return dict(found)


@pytest.mark.slow("decodes thousands of damaged streams")
def test_a_hundred_thousand_flips_and_cuts(built, tmp_path, capsys):
    """Each of 100,000 flips and truncations is detected with a clear error, or has no effect.

    The files are encoded files, codec directories and token stores. None crashes, and all damages of encoded files are
    detected.
    """
    made = {spec: built(spec) for spec in SPECS}
    found = {f"file {spec}": damaged_files(codec) for spec, codec in made.items()}
    found |= {f"codec {spec}": damaged_codec(codec, tmp_path / codec.name / spec) for spec, codec in made.items()}
    found |= damaged_store(tmp_path / "store")
    with capsys.disabled():
        print()
        for name, counts in found.items():
            print(f"{name:32s} {counts['detected']:7,} detected {counts['harmless']:7,} harmless")
        total = sum(found.values(), collections.Counter())
        print(f"{'in all':32s} {total['detected']:7,} detected {total['harmless']:7,} harmless")
    assert total["WRONG"] == 0, found
    assert total["detected"] + total["harmless"] >= 100_000
    assert not any(counts["harmless"] for name, counts in found.items() if name.startswith("file"))
    assert found["store manifest.json"]["harmless"] <= 1  # the cut that takes the last line feed alone
    for kind in ("ids", "index", "sums"):
        assert not found[f"store {kind}"]["harmless"]


@pytest.mark.thinned(2, "decodes thousands of damaged streams")
@pytest.mark.parametrize("spec", SPECS)
def test_flips_under_a_right_checksum(built, spec):
    """With a corrected CRC, a flipped bit is still detected or has no effect."""
    codec = built(spec)
    content = encoded_file.encode_file(SHORT, codec)
    slow = spec.startswith(("ac", "eiw(b=24"))
    for damaged in damages(content[:-4], n_flips=200 if slow else 3000, n_cuts=20):
        repaired = damaged + struct.pack("<I", zlib.crc32(damaged))
        assert outcome(lambda repaired=repaired: encoded_file.decode_file(repaired, codec), SHORT) != "WRONG"


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b"\xff",
        b"[" * 100_000,
        b"{}",
        b'{"format_version": 1}',
        b'{"format_version": 1, "codec": 3, "n_bytes": 0, "n_tokens": 0, "sha256": ""}',
        b'{"format_version": 1, "codec": {"spec": 1, "fingerprint": 2}, "n_bytes": "x", "n_tokens": 0, "sha256": ""}',
        b'{"format_version": 2}',
    ],
)
def test_headers_of_other_makers_are_refused(header):
    """A file with correct magic bytes and checksum but an invalid header raises InputError."""
    for length in (len(header), 0, 2**32 - 1):
        body = encoded_file.MAGIC + struct.pack("<I", length) + header
        with pytest.raises(InputError):
            encoded_file.decode_file(body + struct.pack("<I", zlib.crc32(body)), codecs.Bytes())


@pytest.mark.thinned(2, "decodes thousands of damaged streams")
@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(s, marks=pytest.mark.slow("decodes thousands of damaged streams"))
        if s.startswith(("ac", "eiw"))
        else s
        for s in SPECS
    ],
)
def test_decoders_take_any_ids(built, spec):
    """Random ids raise CorruptStream or decode.

    For arithmetic codes the decoded bytes encode to the same ids. `decode_partial` accepts complete and broken
    sequences.
    """
    codec, rng = built(spec), np.random.default_rng(0)
    slow = spec.startswith(("ac", "eiw(b=24"))
    for _ in range(60 if slow else 2000):
        ids = rng.integers(0, codec.vocab_size, rng.integers(0, 60)).astype(np.int32)
        try:
            text = codec.decode(ids)
            assert isinstance(text, bytes)
            assert not spec.startswith(("bytes", "static_ac", "ac")) or codec.encode(text).tolist() == ids.tolist()
        except CorruptStream as error:
            assert "changed" in str(error) or "truncated" in str(error)
        assert isinstance(codec.decode_partial(ids), bytes)
    for ids in ([-1], [codec.vocab_size], [0, 2**31 - 1, 0]):
        with pytest.raises(InputError, match="Remove end-of-document and padding ids"):
            codec.decode(np.array(ids, np.int32))


@pytest.mark.parametrize("spec", ["gzip(v=256)", "gzip(v=4096)"])
def test_damaged_zlib_streams(spec):
    """Damaged zlib streams raise an error or decode to the same bytes, due to zlib's own checksum."""
    codec = codecs.create(spec)
    ids = codec.encode(DOCUMENT)
    width = codec.vocab_size.bit_length() - 1
    for number in range(len(ids) * width):
        damaged = ids.copy()
        damaged[number // width] ^= 1 << number % width
        assert outcome(lambda damaged=damaged: codec.decode(damaged), DOCUMENT) != "WRONG"
    for length in range(len(ids)):
        assert outcome(lambda length=length: codec.decode(ids[:length]), DOCUMENT) == "detected"


@pytest.mark.slow("decodes many damaged streams")
def test_damaged_segment_headers(m1, monkeypatch):
    """Damaged lengths in the header of a long document of `ac` raise an error, or re-encode to the same ids."""
    monkeypatch.setattr(arithmetic, "SEGMENT_BYTES", 40)
    codec = codecs.create("ac(v=256)", m1=m1)
    ids = codec.encode(SHORT * 4)
    assert codec.decode(ids) == SHORT * 4
    found = collections.Counter()
    for number in range(0, 8 * 24, 2):  # end symbol, flag and lengths take the first ids
        damaged = ids.copy()
        damaged[number // 8] ^= 1 << number % 8
        found[outcome(lambda damaged=damaged: codec.encode(codec.decode(damaged)).tolist(), damaged.tolist())] += 1
    for length in (*range(24), len(ids) - 1):
        found[
            outcome(lambda length=length: codec.encode(codec.decode(ids[:length])).tolist(), ids[:length].tolist())
        ] += 1
    assert not found["WRONG"] and found["detected"] > 100 > found["harmless"], found


@pytest.mark.parametrize("spec", ["static_ac(v=256)", "ac(v=256)"])
def test_weights_changed_behind_the_checksum(built, spec, tmp_path):
    """Changed weights with a corrected checksum in codec.json are refused by the codec's fingerprint.

    A damaged file raises InputError.
    """
    codec = built(spec)
    codecs.save(codec, tmp_path)
    header = json.loads((tmp_path / "codec.json").read_text())
    (name,) = header["files"]
    path, found = tmp_path / name, collections.Counter()
    for damaged in damages(path.read_bytes(), n_flips=300, n_cuts=20):
        path.write_bytes(damaged)
        header["files"][name] = hashlib.sha256(damaged).hexdigest()
        (tmp_path / "codec.json").write_text(json.dumps(header))
        found[outcome(lambda: codecs.load(tmp_path).fingerprint, codec.fingerprint)] += 1
    assert not found["WRONG"] and found["detected"] >= 250, found


@pytest.mark.parametrize(
    "change",
    [
        {"files": None},
        {"files": ["frequencies.bin"]},
        {"files": {}},
        {"spec": "static_ac(v=255)"},
        {"spec": "nothing"},
        {"spec": "eiw(b=16,v=256)"},
        {"spec": 3},
        {"fingerprint": None},
        {"format_version": 7},
    ],
)
def test_headers_of_codecs_are_checked(built, change, tmp_path):
    """A codec.json with an entry that is missing, of another type or of another codec raises InputError."""
    codecs.save(built("static_ac(v=256)"), tmp_path)
    header = json.loads((tmp_path / "codec.json").read_text()) | change
    (tmp_path / "codec.json").write_text(json.dumps({k: v for k, v in header.items() if v is not None}))
    with pytest.raises(InputError):
        codecs.load(tmp_path)
