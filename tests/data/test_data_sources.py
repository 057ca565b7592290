"""Corpora of files, stores and mixtures."""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest
import zstandard

from compressed_lm.codecs.bytes_codec import Bytes
from compressed_lm.data import corpus as corpus_lib
from compressed_lm.data.job import compress
from compressed_lm.data.sources import open_corpus
from compressed_lm.errors import InputError


def write_json(path, texts):
    data = "".join(json.dumps({"text": text, "url": "u"}) + "\n" for text in texts).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def folder(tmp_path):
    """Returns a folder with three JSON-lines files, one of them compressed: 10 documents."""
    write_json(tmp_path / "a.json", ["one", "zwei größer", ""])
    write_json(tmp_path / "b.json.gz", [f"b{i}" for i in range(5)])
    write_json(tmp_path / "c.json", ["日本語", "\ud800 half a pair"])
    return tmp_path


ALL = [
    b"one",
    "zwei größer".encode(),
    b"",
    b"b0",
    b"b1",
    b"b2",
    b"b3",
    b"b4",
    "日本語".encode(),
    b"\xed\xa0\x80 half a pair",
]


def test_json_lines_give_the_utf8_of_text(folder):
    """Plain and gzip files are read in alphabetical order; other fields are ignored."""
    corpus = open_corpus(f"json:{folder}/*.json*")
    assert list(corpus.documents("train")) == ALL
    assert corpus.splits == ("train",)


@pytest.mark.parametrize("n_shards", [1, 2, 3, 4, 7, 12])
def test_shards_are_disjoint_and_complete(folder, n_shards, monkeypatch):
    """Each document is in exactly one shard, with more units of work than shards or the reverse."""
    monkeypatch.setattr(corpus_lib, "UNIT_BYTES", 8)
    corpus = open_corpus(f"json:{folder}/*.json*")
    parts = [list(corpus.documents(shard=shard, n_shards=n_shards)) for shard in range(n_shards)]
    assert sorted(sum(parts, [])) == sorted(ALL)
    monkeypatch.undo()
    parts = [list(corpus.documents(shard=shard, n_shards=n_shards)) for shard in range(n_shards)]
    assert parts == [ALL[shard::n_shards] for shard in range(n_shards)], "one unit"


def test_blank_lines_are_no_documents(tmp_path):
    """Blank lines and a missing last line break have no effect."""
    (tmp_path / "a.json").write_text('\n{"text": "x"}\n\n{"text": "y"}')
    assert list(open_corpus(f"json:{tmp_path}/a.json").documents()) == [b"x", b"y"]


def test_text_files_are_documents_byte_for_byte(tmp_path):
    """`text:` keeps invalid UTF-8 and all kinds of line ends."""
    contents = [b"first\r\nline\n", b"\xff\x00", b""]
    for index, content in enumerate(contents):
        (tmp_path / f"{index}.txt").write_bytes(content)
    corpus = open_corpus(f"text:{tmp_path}/*.txt")
    assert list(corpus.documents()) == contents
    assert [list(corpus.documents(shard=shard, n_shards=2)) for shard in (0, 1)] == [contents[::2], contents[1::2]]
    assert corpus.estimated_bytes("train") == sum(map(len, contents))


def test_store_of_bytes_is_a_corpus(folder, tmp_path, monkeypatch):
    """A store of the bytes codec can be read as documents; a store of another codec is refused."""
    compress(open_corpus(f"json:{folder}/*.json*"), "train", Bytes(), tmp_path / "store", n_shards=2)
    corpus = open_corpus(f"store:{tmp_path / 'store'}")
    assert sorted(corpus.documents()) == sorted(ALL)
    assert sorted(sum((list(corpus.documents(shard=shard, n_shards=3)) for shard in range(3)), [])) == sorted(ALL)

    (folder / "ids.json").write_text("".join(json.dumps({"text": f"{i}", "id": i}) + "\n" for i in range(40)))
    named = open_corpus(f"json(id=id):{folder}/ids.json")
    compress(named, "train", Bytes(), tmp_path / "named", n_shards=3)
    monkeypatch.setattr(corpus_lib, "UNIT_BYTES", 10)
    corpus = pickle.loads(pickle.dumps(open_corpus(f"store:{tmp_path / 'named'}")))
    assert corpus.has_ids and len(corpus.units()) > 3
    expected = [(b"%d" % i, f"{i}") for i in range(40)]
    assert [document for unit in corpus.units() for document in corpus.read("train", unit)] == expected
    assert list(corpus.read("train", corpus.units()[1], skip=2)) == list(corpus.read("train", corpus.units()[1]))[2:]

    class Other(Bytes):
        spec = "other"

    compress(open_corpus(f"json:{folder}/a.json"), "train", Other(), tmp_path / "other", n_shards=1)
    with pytest.raises(InputError, match="only a store of the codec `bytes`"):
        open_corpus(f"store:{tmp_path / 'other'}")


def test_validation_is_another_corpus(folder):
    """`validation=` gives a second split, and a manifest names the corpus of its documents."""
    corpus = open_corpus(f"json:{folder}/a.json", validation=f"json:{folder}/c.json")
    assert corpus.splits == ("train", "validation")
    assert list(corpus.documents("train")) == ALL[:3]
    assert list(corpus.documents("validation", shard=1, n_shards=2)) == ALL[9:]
    assert corpus.describe("validation") == open_corpus(f"json:{folder}/c.json").describe("train")
    assert corpus.estimated_bytes("validation") > 0


def test_fingerprint_follows_the_content(folder):
    """The same files have the same fingerprint; one changed byte changes it."""
    spec = f"json:{folder}/*.json*"
    before = open_corpus(spec).describe("train")
    assert open_corpus(spec).describe("train") == before
    write_json(folder / "a.json", ["onE", "zwei größer", ""])
    assert open_corpus(spec).describe("train")["fingerprint"] != before["fingerprint"]


@pytest.mark.parametrize(
    "spec, message",
    [
        (
            "jsn:x.json",
            r"'jsn:x.json' was given; expected one of installed_docs, json:PATH.*Did you mean json\?",
        ),
        ("installed_doc", r"Did you mean installed_docs\?"),
        ("data/*.json", r"For files write json:data/\*.json or text:data/\*.json"),
        ("json", r"was given; expected one of.*Write json:PATH"),
        ("store:", r"Write store:DIR"),
        ("installed_docs:x", r"Write installed_docs\."),
        ("json:/no/such/*.gz", r"No file matches '/no/such/\*.gz'.*working directory: /.*matches at least one file"),
        ("store:/no/such", r"the compression job was not finished"),
    ],
)
def test_unknown_and_missing_corpora_say_what_to_do(spec, message):
    """An invalid spec raises a short error: what was given, what was expected, what to do."""
    with pytest.raises(InputError, match=message):
        open_corpus(spec)


@pytest.mark.parametrize(
    "line, message",
    [
        (
            '{"txt": "x", "url": "u"}',
            r"a.json:3\) is an object with the fields txt, url; an object with a field `text`",
        ),
        (
            '{"text": 5}',
            r"a.json:3\) is an object whose field `text` is a number; an object with a field `text` that is a string",
        ),
        ("[1]", r"a.json:3\) is a list"),
        ('{"text": "x"', r"a.json:3\) is not valid JSON"),
    ],
)
def test_bad_lines_are_located(tmp_path, line, message):
    """The error of an invalid line has its file and its number, blank lines included."""
    (tmp_path / "a.json").write_text('{"text": "good"}\n\n' + line + "\n")
    with pytest.raises(InputError, match=message):
        list(open_corpus(f"json:{tmp_path}/a.json").documents())


def test_truncated_gzip_says_how_far_it_got(tmp_path):
    """The error of a truncated .gz has the file and the number of documents read."""
    rng = np.random.default_rng(0)
    write_json(tmp_path / "a.json.gz", [rng.bytes(500).hex() for _ in range(200)])
    data = (tmp_path / "a.json.gz").read_bytes()
    (tmp_path / "a.json.gz").write_bytes(data[: len(data) // 2])
    read = []
    with pytest.raises(InputError, match=r"a.json.gz is truncated or damaged: \d+ documents were read") as error:
        for document in open_corpus(f"json:{tmp_path}/a.json.gz").documents():
            read.append(document)
    assert 0 < len(read) < 200 and f"{len(read)} documents" in str(error.value)


def test_empty_corpus_is_refused(tmp_path):
    """A corpus without documents raises an error for every reader."""
    (tmp_path / "a.json").write_text("\n")
    with pytest.raises(InputError, match="has no document in its split 'train'"):
        list(open_corpus(f"json:{tmp_path}/a.json").documents())


def test_unknown_split_is_refused(folder):
    """The error of an unknown split lists the splits, and says how to add one."""
    with pytest.raises(
        InputError, match=r"has only train. Name another split, or give the validation documents as a second corpus"
    ):
        list(open_corpus(f"json:{folder}/a.json").documents("validation"))


def test_reading_files_does_not_import_tensorflow(folder):
    """Opening corpora of files and reading stores works without TensorFlow, seqio or JAX being imported."""
    program = (
        "import sys; from compressed_lm.data import sources, store;"
        f"list(sources.open_corpus({f'json:{folder}/*.json*'!r}).documents());"
        "print([name for name in ('tensorflow', 'seqio', 'tensorflow_datasets', 'jax') if name in sys.modules]);"
        "from compressed_lm.data import inspect, job;"
        "print([name for name in ('tensorflow', 'seqio', 'tensorflow_datasets') if name in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n[]\n"
    )


def test_mixtures_repeat_their_parts(tmp_path):
    """A weight of two repeats every document for any number of shards; a weight of zero is refused."""
    for name, texts in (("a", ["one", "two"]), ("b", ["three"])):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (tmp_path / f"{name}.json").write_text(lines)
    mixed = open_corpus(f"mix:2*json:{tmp_path}/a.json,json:{tmp_path}/b.json")
    assert sorted(mixed.documents()) == sorted([b"one", b"two"] * 2 + [b"three"])
    shards = [list(mixed.documents(shard=i, n_shards=2)) for i in range(2)]
    assert sorted(shards[0] + shards[1]) == sorted(mixed.documents())
    assert mixed.estimated_bytes("train") == sum(map(len, mixed.documents()))
    with pytest.raises(InputError, match="weight of at least 1"):
        open_corpus(f"mix:0*json:{tmp_path}/a.json")


COMPRESS = {"gzip": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zstd": zstandard.compress}


@pytest.mark.parametrize("method", COMPRESS)
@pytest.mark.parametrize("content", [b"one\ntwo\n", b""])
def test_compressed_files_are_their_content(method, content, tmp_path):
    """Gzip, bzip2, xz and Zstandard are recognised by their first bytes, in `text:` and `json:`."""
    (tmp_path / "a.txt").write_bytes(COMPRESS[method](content))
    assert list(open_corpus(f"text:{tmp_path}/a.txt").documents()) == [content]
    (tmp_path / "b").write_bytes(COMPRESS[method](b'{"text": "x"}\n'))
    corpus = open_corpus(f"json:{tmp_path}/b")
    assert list(corpus.documents()) == [b"x"]
    assert corpus.estimated_bytes("train") == 1


def test_a_compressed_text_has_a_fingerprint_of_its_own(tmp_path):
    """A store of the compressed bytes (version 0.1) has another fingerprint than the text.

    The fingerprint of plain files is unchanged.
    """
    (tmp_path / "a.txt").write_bytes(b"plain")
    corpus = open_corpus(f"text:{tmp_path}/a.txt")
    old = hashlib.sha256(b"text" + json.dumps(["a.txt", 5]).encode() + hashlib.sha256(2 * b"plain").digest())
    assert corpus._fingerprint("train") == old.hexdigest()
    packed = gzip.compress(b"plain", mtime=0)
    (tmp_path / "a.txt").write_bytes(packed)
    as_bytes = b"text" + json.dumps(["a.txt", len(packed)]).encode() + hashlib.sha256(2 * packed).digest()
    assert open_corpus(f"text:{tmp_path}/a.txt")._fingerprint("train") != hashlib.sha256(as_bytes).hexdigest()


@pytest.mark.parametrize("method", COMPRESS)
@pytest.mark.parametrize("scheme", ["text", "json"])
def test_a_damaged_compressed_file_is_refused(scheme, method, tmp_path):
    """A truncated file is named, with a command that checks it."""
    data = COMPRESS[method](b'{"text": "%s"}\n' % np.random.default_rng(0).bytes(5000).hex().encode())
    for length in (len(data) // 2, 20):
        (tmp_path / "a").write_bytes(data[:length])
        with pytest.raises(InputError, match=r"a is truncated or damaged: 0 documents were read.*--test "):
            list(open_corpus(f"{scheme}:{tmp_path}/a").documents())


def archive(kind):
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as file:
            file.writestr("a.txt", "text")
    else:
        with tarfile.open(fileobj=buffer, mode=kind) as file:
            file.addfile(tarfile.TarInfo("a.txt"))
    return buffer.getvalue()


@pytest.mark.parametrize("scheme", ["text", "json"])
@pytest.mark.parametrize(
    "content, message",
    [
        (b"PAR1\x15\x04" + bytes(99) + b"PAR1", "a Parquet table, which is not supported there.*name it as parquet:"),
        (b"PAR1 cut short later".ljust(99) + b"PAR1", "a Parquet table"),
        (b"ORC" + bytes(99) + b"ORC\x17", "an ORC table"),
        (b"ARROW1\x00\x00" + bytes(9), "an Arrow"),
        (b"\x04\x22\x4d\x18rest", "LZ4-compressed.*lz4 -d"),
        (b"7z\xbc\xaf\x27\x1crest", "a 7-Zip archive"),
        (archive("zip"), "a ZIP archive.*unzip"),
        (archive("w"), "a tar archive, which is not supported.*tar xf"),
        (archive("w:gz"), "a tar archive within gzip"),
        (archive("w:xz"), "a tar archive within xz"),
        (gzip.compress(gzip.compress(b"x", mtime=0), mtime=0), "gzip-compressed within gzip.*decompress it once"),
        (b"\x89CLM\r\n\x1a\nrest", "compressed-lm decode"),
    ],
    ids=lambda value: value[:4].hex() if isinstance(value, bytes) else value,  # archives hold the time
)
def test_other_compressions_are_refused_by_name(scheme, content, message, tmp_path):
    """Other formats raise an error with the format and what to do, not one about invalid JSON."""
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_corpus(f"{scheme}:{tmp_path}/a")


@pytest.mark.parametrize(
    "content",
    [
        *(b"\x1f\x8b of the text", b"\x1f\x8b\x08\xff", b"BZh9 is no bzip2", b"PAR1 is a text", b"ORC: a text", b"PK"),
        *(b"\x89PNG\r\n\x1a\n\x00", b"%PDF-1.7", bytes(range(256)), b"\xff\xfeu\x00t\x00f\x00", b"\xef\xbb\xbfBOM"),
    ],
)
def test_a_binary_document_that_is_not_compressed_is_taken_as_it_is(content, tmp_path):
    """`text:` accepts any bytes, also those that begin like a compressed file."""
    (tmp_path / "a").write_bytes(content)
    assert list(open_corpus(f"text:{tmp_path}/a").documents()) == [content]


@pytest.mark.parametrize(
    "content, message",
    [
        (b'[{"text": "x"}]\n', r"is one JSON array; one object per line was expected.*jq -c '\.\[\]'"),
        (b'\n[\n{"text": "x"}\n]', "is one JSON array"),
        (b'{\n  "text": "x"\n}\n', r"has objects of several lines.*jq -c \."),
        ('{"text": "x"}\n'.encode("utf-16"), "is UTF-16 or UTF-32.*iconv"),
        ('{"text": "x"}\n'.encode("utf-16-le"), "is UTF-16 or UTF-32"),
        (b"[" * 100_000 + b"\n", "is one JSON array"),
        (b'{"text": ' + b"[" * 100_000 + b"\n", "is not valid JSON"),
    ],
)
def test_what_is_almost_json_lines_is_refused_by_name(content, message, tmp_path):
    """Arrays, pretty-printed objects and other encodings raise an error with the command that converts them."""
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(open_corpus(f"json:{tmp_path}/a.json").documents())


def test_a_byte_order_mark_is_no_part_of_json(tmp_path):
    """A UTF-8 file may begin with a byte-order mark, as Windows programs write it; also an empty file."""
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"text": "x"}\r\n{"text": "y"}\r\n')
    (tmp_path / "b.json").write_bytes(b"\xef\xbb\xbf")
    assert list(open_corpus(f"json:{tmp_path}/*.json").documents()) == [b"x", b"y"]


@pytest.mark.parametrize("name", ["a[1].json", "x*y.json", "what?.json", "d[1]/a.json", "a,b.json", "1,2*text:.json"])
def test_files_are_found_by_their_names(name, tmp_path):
    """A name takes precedence over a glob, alone and in a mixture, and the corpus's spec opens it again."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    write_json(tmp_path / name, ["named"])
    write_json(tmp_path / "a1.json", ["one"])
    assert list(open_corpus(f"json:{tmp_path}/{name}").documents()) == [b"named"]
    escaped = name.replace(",", "\\,")
    for spec in (
        f"mix:2*json:{tmp_path}/{name},json:{tmp_path}/a1.json",
        f"mix:2*json:{tmp_path}/{escaped},json:{tmp_path}/a1.json",
    ):
        corpus = open_corpus(spec)
        assert list(corpus.documents()) == [b"named", b"named", b"one"]
        again = open_corpus(corpus.spec)
        assert (again.spec, again.describe("train")) == (corpus.spec, corpus.describe("train"))
    if "[1]/" in name:
        assert list(open_corpus(f"json:{tmp_path}/d[1]/*.json").documents()) == [b"named"]


def test_commas_of_globs_and_nested_mixtures(tmp_path):
    """A comma that is not followed by a scheme belongs to the path, also of a glob; mixtures can be nested."""
    for name in ("a,1.json", "a,2.json", "b.json"):
        write_json(tmp_path / name, [name])
    mixed = open_corpus(f"mix:json:{tmp_path}/a,*.json,2*json:{tmp_path}/b.json")
    assert list(mixed.documents()) == [b"a,1.json", b"a,2.json", b"b.json", b"b.json"]
    assert list(open_corpus(f"mix:2*{mixed.spec.replace(',', chr(92) + ',')}").documents()) == 2 * list(
        mixed.documents()
    )


def test_names_that_are_neither_a_file_nor_a_glob(tmp_path, monkeypatch):
    """The message names both readings; a folder and a pipe are reported; `~` is the home folder."""
    with pytest.raises(InputError, match="as a name or as a glob"):
        open_corpus(f"text:{tmp_path}/a[1].txt")
    with pytest.raises(InputError, match=r"begins with a scheme: mix:json:A,json:B"):
        open_corpus(f"mix:json:{tmp_path}/a.json,b.json")
    with pytest.raises(InputError, match=r"is a folder. Name its files, such as json:.*/\*.json.gz"):
        open_corpus(f"json:{tmp_path}")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is not a regular file, and a corpus is read several times"):
        open_corpus(f"text:{tmp_path}/pipe")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.txt").write_text("home")
    for spec in ("text:~/a.txt", "text:~/*.txt"):
        assert list(open_corpus(spec).documents()) == [b"home"]
