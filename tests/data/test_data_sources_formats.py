"""The same documents in all formats, and hostile files of each."""

import bz2
import gzip
import io
import itertools
import json
import lzma
import os
import pathlib
import pickle
import subprocess
import sys
import tracemalloc

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from compressed_lm.codecs.bytes_codec import Bytes
from compressed_lm.data import corpus as corpus_lib
from compressed_lm.data.job import compress
from compressed_lm.data.sources import compression, files, open_corpus, standard_input
from compressed_lm.errors import InputError
from compressed_lm.io import limits

COMPRESS = {"gzip": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zstd": zstandard.compress}


def halves(method, data):
    """Returns data as two members, streams or frames, one after the other."""
    return method(data[: len(data) // 2]) + method(data[len(data) // 2 :])


def seekable_zstd(data):
    """Returns frames between skippable frames, as pzstd and the seekable format write them."""
    skippable = b"\x5e\x2a\x4d\x18\x04\x00\x00\x00abcd"
    return skippable + zstandard.compress(data[:1000]) + skippable + zstandard.compress(data[1000:]) + skippable


def streamed_zstd(data):
    """Returns a frame that does not have its size, with a checksum and a long window."""
    parameters = zstandard.ZstdCompressionParameters(window_log=28, write_checksum=True, write_content_size=False)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return packer.compress(data) + packer.flush()


FILES = {
    "plain.json": lambda data: data,
    "a.json.gz": gzip.compress,
    "members.gz": lambda data: halves(gzip.compress, data),
    "a.zst": zstandard.compress,
    "frames.zst": lambda data: halves(zstandard.compress, data),
    "skippable.zst": seekable_zstd,
    "stream.zst": streamed_zstd,
    "a.xz": lzma.compress,
    "streams.xz": lambda data: halves(lzma.compress, data),
    "a.bz2": bz2.compress,
    "streams.bz2": lambda data: halves(bz2.compress, data),
    "wrong_ending.gz": zstandard.compress,
    "no_ending": bz2.compress,
}


@pytest.fixture(scope="module")
def records():
    """Returns 60 real documents (the beginnings of Python's own sources), and some that are unusual."""
    sources = sorted(pathlib.Path(json.__file__).parent.parent.glob("*.py"))[:60]
    unusual = ["", "\u2028 \r\n\x00\t", "日本語 😀", " " * 10, np.random.default_rng(0).bytes(100_000).hex()]
    texts = [*(source.read_text()[:4000] for source in sources), *unusual]
    return [{"text": text, "url": f"u{i}"} for i, text in enumerate(texts)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, records):
    """Returns a folder with the documents in every format."""
    folder = tmp_path_factory.mktemp("formats")
    data = "".join(json.dumps(record) + "\n" for record in records).encode()
    for name, pack in FILES.items():
        (folder / name).write_bytes(pack(data))
    table = pa.Table.from_pylist(records)
    pq.write_table(table, folder / "a.parquet", row_group_size=7)
    dictionary = table.set_column(0, "text", table["text"].dictionary_encode())
    pq.write_table(dictionary, folder / "dictionary.parquet", compression="zstd")
    large = table.set_column(0, "text", table["text"].cast(pa.large_binary()))
    pq.write_table(large, folder / "large.parquet", row_group_size=20, compression="none")
    datasets.Dataset.from_list(records).save_to_disk(folder / "saved")
    datasets.DatasetDict({"train": datasets.Dataset.from_list(records)}).save_to_disk(folder / "dictionary")
    for name, source in (("of_json", "a.json.gz"), ("of_parquet", "a.parquet")):
        (folder / name).mkdir()
        (folder / name / f"train{''.join((folder / source).suffixes)}").write_bytes((folder / source).read_bytes())
    (folder / "of_csv").mkdir()
    for i, part in enumerate((records[:20], records[20:21], records[21:])):
        datasets.Dataset.from_list(part).to_csv(folder / "of_csv" / f"train-{i}.csv")
    return folder


SPECS = (
    *(f"json(id=url):{{}}/{name}" for name in FILES),
    *(f"parquet(id=url):{{}}/{name}.parquet" for name in ("a", "dictionary", "large")),
    *(f"hf(id=url):{{}}/{name}" for name in ("saved", "dictionary", "of_json", "of_parquet")),
)


@pytest.mark.parametrize("spec", SPECS)
def test_the_same_documents_in_every_format(spec, folder, records):
    """Every format gives the same documents and ids in the same order, and a pickled corpus reads the same units."""
    expected = [(record["text"].encode(), record["url"]) for record in records]
    corpus = open_corpus(spec.format(folder))
    units = corpus.units()
    assert [document for unit in units for document in corpus.read("train", unit)] == expected
    copy = pickle.loads(pickle.dumps(corpus))
    assert [document for unit in units for document in copy.read("train", unit)] == expected
    assert copy.describe("train") == corpus.describe("train") == open_corpus(corpus.spec).describe("train")
    for skip in (0, 1, 9, len(expected)):
        assert [d for u in units for d in corpus.read("train", u, skip=skip)] == [
            d for u in units for d in list(corpus.read("train", u))[skip:]
        ]
    assert corpus.estimated_bytes("train") == pytest.approx(sum(len(text) for text, _ in expected), rel=0.4)


def test_the_same_store_from_every_format(folder, tmp_path, monkeypatch):
    """The shards of a store have the same bytes for every format, whatever the units of work are."""
    stores = set()
    for number, (spec, unit_bytes) in enumerate(
        zip(SPECS[::2], itertools.cycle((1000, 30_000, 1 << 26)), strict=False)
    ):
        monkeypatch.setattr(corpus_lib, "UNIT_BYTES", unit_bytes)
        compress(open_corpus(spec.format(folder)), "train", Bytes(), tmp_path / str(number), shard_bytes=100_000)
        shards = sorted(path for path in (tmp_path / str(number)).glob("tokens-*") if path.suffix != ".json")
        stores.add(tuple((path.name, path.read_bytes()) for path in shards))
    assert len(stores) == 1 and len(next(iter(stores))) > 8


@pytest.mark.slow("the library imports pandas and writes its cache")
def test_csv_is_read_by_the_library(folder, records):
    """`hf:` also reads formats that only the library `datasets` knows, one unit per file; an empty text is an error."""
    corpus = open_corpus(f"hf(field=url):{folder}/of_csv")
    units = pickle.loads(pickle.dumps(corpus.units()))
    found = [[document.text.decode() for document in corpus.read("train", unit)] for unit in units]
    assert [len(documents) for documents in found] == [20, 1, 44]
    assert sum(found, []) == [record["url"] for record in records]
    assert [document.text.decode() for document in corpus.read("train", units[2], skip=40)] == found[2][40:]
    corpus = open_corpus(f"hf:{folder}/of_csv")
    with pytest.raises(InputError, match=r"Row 39 of .*, shard 2 of 3 .* has no value \(null\) in the column text"):
        list(corpus.documents())


READ = (
    "import sys; from compressed_lm.data.sources import open_corpus;"
    "corpus = open_corpus(sys.argv[1]); corpus.probe('train'); (unit,) = corpus.units();"
    "documents = list(corpus.read('train', unit, skip=int(sys.argv[2])));"
    "sys.stdout.buffer.write(repr([tuple(d) for d in documents]).encode())"
)


@pytest.mark.parametrize("name", ["plain.json", "members.gz", "frames.zst", "a.xz", "a.bz2"])
def test_the_standard_input_has_the_same_documents(name, folder, records):
    """A pipe, plain or compressed, gives the same documents after a probe, and the rest of them when resumed."""
    expected = [(record["text"].encode(), record["url"]) for record in records]
    with open(folder / name, "rb") as file:
        found = subprocess.run(
            f"cat | {sys.executable} -c {json.dumps(READ)} 'json(id=url):-' 3",
            shell=True,
            stdin=file,
            capture_output=True,
            check=True,
        )
    assert eval(found.stdout) == expected[3:]


@pytest.mark.parametrize("method", COMPRESS)
@pytest.mark.parametrize("damage", ["truncated", "flipped", "garbage after"])
def test_damaged_files_are_one_paragraph(method, damage, tmp_path):
    """A truncated or changed compressed file, in either source, raises InputError after the documents before it."""
    documents = [np.random.default_rng(i).bytes(700).hex() for i in range(200)]
    plain = "".join(json.dumps({"text": text}) + "\n" for text in documents).encode()
    data = streamed_zstd(plain) if method == "zstd" else COMPRESS[method](plain)
    if damage == "truncated":
        data = data[:-7]
    elif damage == "flipped":
        data = data[:-200] + bytes(byte ^ 0x55 for byte in data[-200:-180]) + data[-180:]
    else:
        data += b"garbage that is no stream"
    (tmp_path / "a").write_bytes(data)
    found = []
    with pytest.raises(InputError, match=r"a is truncated or damaged: \d+ documents were read.*--test") as error:
        for document in open_corpus(f"json:{tmp_path}/a").documents():
            found.append(document)
    assert found == [text.encode() for text in documents[: len(found)]] and f"{len(found)} documents" in str(
        error.value
    )
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="truncated or damaged"):
        list(open_corpus(f"text:{tmp_path}/a").documents())


def test_a_zstandard_file_that_unpacks_to_gigabytes_needs_little_memory(tmp_path):
    """A small .zst of one huge line is refused by its length, and takes no more memory than a line may have."""
    packer = zstandard.ZstdCompressor(level=1).compressobj()
    blocks = [packer.compress(b'{"text": "')] + [packer.compress(bytes(1 << 20)) for _ in range(2000)]
    (tmp_path / "a.zst").write_bytes(b"".join(blocks) + packer.flush())
    assert (tmp_path / "a.zst").stat().st_size < 1 << 20
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(limits.VARIABLE, str(16 << 20))
        tracemalloc.start()
        with pytest.raises(InputError, match="Line 1 of .*a.zst has more than 16,777,216 bytes"):
            list(open_corpus(f"json:{tmp_path}/a.zst").documents())
        assert tracemalloc.get_traced_memory()[1] < 200 << 20
        tracemalloc.stop()


def test_without_the_extra_the_message_names_it(tmp_path, monkeypatch):
    """Zstandard, Parquet and data sets say which extra reads them, and what to do without it."""
    (tmp_path / "a.zst").write_bytes(zstandard.compress(b"x"))
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    for name in ("zstandard", "pyarrow.parquet", "datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    install = r"Install it with `pip install 'compressed_lm\[hf\]'`"
    with pytest.raises(InputError, match=f"a.zst is compressed by Zstandard.*{install}, or .*zstd -d"):
        open_corpus(f"text:{tmp_path}/a.zst")
    with pytest.raises(InputError, match=f"{install}, or convert"):
        open_corpus(f"parquet:{tmp_path}/a.parquet")
    with pytest.raises(InputError, match=f"{install}, or name its files"):
        open_corpus(f"hf:{tmp_path}")


@pytest.mark.parametrize("method", ["plain", *COMPRESS])
@pytest.mark.parametrize("n_bytes", [0, 100, 600_000])
def test_the_size_of_the_text_is_known_before_it_is_read(method, n_bytes, tmp_path):
    """The estimate of the unpacked size is exact for one stream, and near it for several."""
    words = np.random.default_rng(0).choice([b"alpha ", b"beta ", b"gamma ", b"delta\n", b"epsilon "], n_bytes // 6 + 1)
    data = b"".join(words)[:n_bytes]
    compress = COMPRESS.get(method, bytes)
    (tmp_path / "a").write_bytes(compress(data))
    size = files.probe(f"{tmp_path}/a", "text:a").n_bytes
    assert size == pytest.approx(len(data), rel=0.15 if method == "bz2" else 0.001)
    (tmp_path / "b").write_bytes(compress(data) + compress(data[: n_bytes // 3]))
    assert files.probe(f"{tmp_path}/b", "text:b").n_bytes == pytest.approx(len(data) * 4 / 3, rel=0.3)


def test_a_gzip_file_above_4_gib_is_estimated():
    """The trailer of gzip has the size modulo 4 GiB; the ratio of the head gives the rest."""
    head = gzip.compress(np.random.default_rng(0).bytes(100_000).hex().encode())[: compression.HEAD_BYTES]
    real = 9_000_000_000
    tail = (real % (1 << 32)).to_bytes(4, "little")
    assert compression.text_bytes(head, tail, round(real * 0.57), "a") == real


class Input(io.BytesIO):
    """Standard input of a test."""

    @property
    def buffer(self):
        return io.BufferedReader(self)


def test_the_standard_input_is_read_once(monkeypatch):
    """Probing loses nothing; a second pass, another corpus on it, or another process raises an error."""
    monkeypatch.setattr(sys, "stdin", Input(b'{"text": "a"}\n{"text": "b"}\n'))
    corpus = open_corpus("-")
    assert (corpus.spec, corpus.single_pass, corpus.estimated_bytes("train")) == ("json:-", True, None)
    assert corpus.describe("train")["fingerprint"] == standard_input.FINGERPRINT
    for _ in range(3):
        corpus.probe("train")
    with pytest.raises(InputError, match="can be read once. Store one of them"):
        list(open_corpus("text:-").documents())
    assert list(open_corpus("json:-").documents()) == [b"a", b"b"]
    with pytest.raises(InputError, match="already read.*Store them in a file"):
        list(corpus.documents())
    copy = pickle.loads(pickle.dumps(corpus))
    copy._process = os.getpid() + 1
    with pytest.raises(InputError, match="only the process can read that was started with it. Use one worker"):
        list(copy.documents())


def test_a_text_or_a_mixture_of_the_standard_input(monkeypatch):
    """`text:-` is one document; a mixture may have the standard input once."""
    monkeypatch.setattr(sys, "stdin", Input(gzip.compress(b"one\ntwo")))
    assert list(open_corpus("text:-").documents()) == [b"one\ntwo"]
    monkeypatch.setattr(sys, "stdin", Input(b'{"text": "a"}'))
    mixed = open_corpus("mix:json:-,json:-")
    assert mixed.single_pass
    with pytest.raises(InputError, match="already read"):
        list(mixed.documents())
    for content, message in (
        (b"PAR1\x15", "the standard input of the corpus - is a Parquet table"),
        (b"[", "JSON array"),
    ):
        monkeypatch.setattr(sys, "stdin", Input(content))
        with pytest.raises(InputError, match=message):
            list(open_corpus("-").documents())
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InputError, match="the standard input is closed"):
        list(open_corpus("-").documents())
