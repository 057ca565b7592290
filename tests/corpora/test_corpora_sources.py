import gzip
import json
import subprocess
import sys

import numpy as np
import pytest

from compressed_lm.codecs.bytes_codec import Bytes
from compressed_lm.corpora.job import compress
from compressed_lm.corpora.sources import open_corpus
from compressed_lm.errors import InputError


def write_json(path, texts):
    data = "".join(json.dumps({"text": text, "url": "u"}) + "\n" for text in texts).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def folder(tmp_path):
    """Three JSON-lines files, one of them compressed: 10 documents."""
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
    """Plain and gzip files are read alike, in alphabetical order, other fields ignored."""
    corpus = open_corpus(f"json:{folder}/*.json*")
    assert list(corpus.documents("train")) == ALL
    assert corpus.splits == ("train",)


@pytest.mark.parametrize("n_shards", [1, 2, 3, 4, 7, 12])
def test_shards_are_disjoint_and_complete(folder, n_shards):
    """Whether there are more files or more shards, each document is in exactly one shard."""
    corpus = open_corpus(f"json:{folder}/*.json*")
    parts = [list(corpus.documents(shard=shard, n_shards=n_shards)) for shard in range(n_shards)]
    assert sorted(sum(parts, [])) == sorted(ALL)
    if n_shards <= 3:
        assert parts[0][:3] == ALL[:3], "with enough files a shard reads whole files"
    else:
        assert parts == [ALL[shard::n_shards] for shard in range(n_shards)]


def test_blank_lines_are_no_documents(tmp_path):
    """Blank lines and a missing last line break change nothing."""
    (tmp_path / "a.json").write_text('\n{"text": "x"}\n\n{"text": "y"}')
    assert list(open_corpus(f"json:{tmp_path}/a.json").documents()) == [b"x", b"y"]


def test_text_files_are_documents_byte_for_byte(tmp_path):
    """`text:` keeps bytes that are no UTF-8 and line ends of every kind."""
    contents = [b"first\r\nline\n", b"\xff\x00", b""]
    for index, content in enumerate(contents):
        (tmp_path / f"{index}.txt").write_bytes(content)
    corpus = open_corpus(f"text:{tmp_path}/*.txt")
    assert list(corpus.documents()) == contents
    assert [list(corpus.documents(shard=shard, n_shards=2)) for shard in (0, 1)] == [contents[::2], contents[1::2]]
    assert corpus.estimated_bytes("train") == sum(map(len, contents))


def test_store_of_bytes_is_a_corpus(folder, tmp_path):
    """A store of the bytes codec gives its documents back; a store of another codec is refused."""
    compress(open_corpus(f"json:{folder}/*.json*"), "train", Bytes(), tmp_path / "store", n_shards=2)
    corpus = open_corpus(f"store:{tmp_path / 'store'}")
    assert sorted(corpus.documents()) == sorted(ALL)
    assert sorted(sum((list(corpus.documents(shard=shard, n_shards=3)) for shard in range(3)), [])) == sorted(ALL)

    class Other(Bytes):
        spec = "other"

    compress(open_corpus(f"json:{folder}/a.json"), "train", Other(), tmp_path / "other", n_shards=1)
    with pytest.raises(InputError, match="only a store of the codec `bytes`"):
        open_corpus(f"store:{tmp_path / 'other'}")


def test_validation_is_another_corpus(folder):
    """`validation=` gives a second split, and a manifest names the corpus that its documents really come from."""
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
            r"'jsn:x.json' was given, and a corpus is one of installed_docs, json:GLOB.*Did you mean json\?",
        ),
        ("installed_doc", r"Did you mean installed_docs\?"),
        ("data/*.json", r"For files write json:data/\*.json or text:data/\*.json"),
        ("json", r"a corpus is one of"),
        ("json:/no/such/*.gz", r"No file matches '/no/such/\*.gz'.*working directory: /.*matches at least one file"),
        ("store:/no/such", r"the compression job was not finished"),
    ],
)
def test_unknown_and_missing_corpora_say_what_to_do(spec, message):
    """A spec that cannot be opened is one paragraph: what was given, what was expected, what to do."""
    with pytest.raises(InputError, match=message):
        open_corpus(spec)


@pytest.mark.parametrize(
    "line, message",
    [
        (
            '{"txt": "x", "url": "u"}',
            r"a.json:3\) is an object with the fields txt, url, and an object with a field `text`",
        ),
        (
            '{"text": 5}',
            r"a.json:3\) is an object with the fields text, and an object with a field `text` that is a string",
        ),
        ("[1]", r"a.json:3\) is a list"),
        ('{"text": "x"', r"a.json:3\) is not valid JSON"),
    ],
)
def test_bad_lines_are_located(tmp_path, line, message):
    """A bad line is named by file and number, counting blank lines."""
    (tmp_path / "a.json").write_text('{"text": "good"}\n\n' + line + "\n")
    with pytest.raises(InputError, match=message):
        list(open_corpus(f"json:{tmp_path}/a.json").documents())


def test_truncated_gzip_says_how_far_it_got(tmp_path):
    """A .gz cut short names the file and the number of documents that were read."""
    rng = np.random.default_rng(0)
    write_json(tmp_path / "a.json.gz", [rng.bytes(500).hex() for _ in range(200)])
    data = (tmp_path / "a.json.gz").read_bytes()
    (tmp_path / "a.json.gz").write_bytes(data[: len(data) // 2])
    read = []
    with pytest.raises(InputError, match=r"a.json.gz is cut short or damaged: \d+ documents were read") as error:
        for document in open_corpus(f"json:{tmp_path}/a.json.gz").documents():
            read.append(document)
    assert 0 < len(read) < 200 and f"{len(read)} documents" in str(error.value)


def test_empty_corpus_is_refused(tmp_path):
    """A corpus without a document stops whatever wanted to read it."""
    (tmp_path / "a.json").write_text("\n")
    with pytest.raises(InputError, match="has no document in its split 'train'"):
        list(open_corpus(f"json:{tmp_path}/a.json").documents())


def test_unknown_split_is_refused(folder):
    """A split that is not there is answered with those that are, and with how to give one."""
    with pytest.raises(
        InputError, match=r"has only train. Name another split, or give the documents for validation as a second corpus"
    ):
        list(open_corpus(f"json:{folder}/a.json").documents("validation"))


def test_reading_files_does_not_import_tensorflow(folder):
    """Opening corpora of files and reading stores works without TensorFlow, seqio or JAX being imported."""
    program = (
        "import sys; from compressed_lm.corpora import sources, store;"
        f"list(sources.open_corpus({f'json:{folder}/*.json*'!r}).documents());"
        "print([name for name in ('tensorflow', 'seqio', 'tensorflow_datasets', 'jax') if name in sys.modules]);"
        "from compressed_lm.corpora import inspect, job;"
        "print([name for name in ('tensorflow', 'seqio', 'tensorflow_datasets') if name in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n[]\n"
    )


def test_mixtures_repeat_their_parts(tmp_path):
    """A weight of two gives every document twice, in every division into shards; a weight of zero is refused."""
    for name, texts in (("a", ["one", "two"]), ("b", ["three"])):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (tmp_path / f"{name}.json").write_text(lines)
    mixed = open_corpus(f"mix:2*json:{tmp_path}/a.json,json:{tmp_path}/b.json")
    assert sorted(mixed.documents()) == sorted([b"one", b"two"] * 2 + [b"three"])
    shards = [list(mixed.documents(shard=i, n_shards=2)) for i in range(2)]
    assert sorted(shards[0] + shards[1]) == sorted(mixed.documents())
    assert (
        mixed.estimated_bytes("train")
        == 2 * (tmp_path / "a.json").stat().st_size + (tmp_path / "b.json").stat().st_size
    )
    with pytest.raises(InputError, match="weight of at least 1"):
        open_corpus(f"mix:0*json:{tmp_path}/a.json")
