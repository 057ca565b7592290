"""Parquet files: row groups, columns, nulls, damage, memory."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from compressed_lm.data import corpus as corpus_lib
from compressed_lm.data.sources import open_corpus
from compressed_lm.errors import InputError


def write(path, columns, **options):
    pq.write_table(pa.table(columns), path, **options)


def read(corpus):
    return [document for unit in corpus.units() for document in corpus.read("train", unit)]


@pytest.mark.parametrize("unit_bytes", [1, 500, 5000, 1 << 20])
def test_units_are_runs_of_row_groups(unit_bytes, tmp_path, monkeypatch):
    """Units are disjoint, complete and in order for any size, and skipping k documents equals dropping them."""
    rng = np.random.default_rng(0)
    texts = [rng.bytes(int(n)).hex() for n in rng.integers(0, 100, 230)]
    write(tmp_path / "a.parquet", {"text": texts[:200]}, row_group_size=13)
    write(tmp_path / "b.parquet", {"text": texts[200:]}, row_group_size=13)
    monkeypatch.setattr(corpus_lib, "UNIT_BYTES", unit_bytes)
    corpus = open_corpus(f"parquet:{tmp_path}/*.parquet")
    units = corpus.units()
    assert len(units) == {1: 19, 1 << 20: 1}.get(unit_bytes, len(units))
    assert [document.text.decode() for document in read(corpus)] == texts
    for unit in units:
        documents = list(corpus.read("train", unit))
        for skip in (1, 12, 13, 14, 40):
            assert list(corpus.read("train", unit, skip=skip)) == documents[skip:]


def test_columns_of_every_text_type(tmp_path):
    """Strings, binary and dictionary columns of any width, nested columns, and joined columns give the same bytes."""
    texts = ["one", "zwei größer", "", "日本語"]
    array = pa.array(texts)
    encoded = pa.array([text.encode() for text in texts])
    columns = {
        "string": array,
        "large": array.cast(pa.large_string()),
        "view": array.cast(pa.string_view()),
        "binary": encoded,
        "large_binary": encoded.cast(pa.large_binary()),
        "dictionary": array.dictionary_encode(),
        "a": pa.StructArray.from_arrays(
            [pa.StructArray.from_arrays([array], ["b"]), pa.array([1, 2, 3, 4])], ["c", "n"]
        ),
        "with.dot": array,
    }
    write(tmp_path / "a.parquet", columns)
    for name in (*list(columns)[:6], "a.c.b", "with.dot"):
        corpus = open_corpus(f"parquet(field={name}):{tmp_path}/a.parquet")
        assert [document.text.decode() for document in read(corpus)] == texts, name
    corpus = open_corpus(f"parquet(template='{{a.n}}: {{binary}}.', id=a.n):{tmp_path}/a.parquet")
    assert read(corpus) == [(f"{i}: {text}.".encode(), str(i)) for i, text in enumerate(texts, 1)]
    assert open_corpus(corpus.spec).describe("train") == corpus.describe("train")


@pytest.mark.parametrize(
    "columns, spec, message",
    [
        (
            {"content": ["x"], "n": [1]},
            "parquet:{}",
            "has the columns content, n, and no column text; .*field=",
        ),
        ({"text": [1]}, "parquet:{}", "has a column text of type int64; text was expected"),
        ({"text": [["x"]]}, "parquet:{}", "has a column text of type list"),
        ({"text": pa.nulls(2)}, "parquet:{}", "has a column text of type null"),
        ({"meta": [{"a": "x"}]}, "parquet(field=meta.b):{}", "has the columns meta.a, and no column meta.b"),
        ({"text": ["x"]}, "parquet(id=url):{}", "has the columns text, and no column url"),
    ],
)
def test_missing_and_other_columns_are_named_at_once(columns, spec, message, tmp_path):
    """A file without the column is refused when the corpus is opened, also among files that have it."""
    write(tmp_path / "b.parquet", columns)
    write(tmp_path / "a.parquet", {"text": ["x"], "url": ["u"], "meta": [{"b": "x"}]})
    with pytest.raises(InputError, match=rf"b.parquet of the corpus parquet.*{message}"):
        open_corpus(spec.format(tmp_path / "*.parquet"))


def test_nulls_are_errors_with_their_row(tmp_path):
    """A null, also of a nested or joined column, is an error with the number of its row, after the rows before."""
    texts = ["x"] * 100 + [None] + ["y"] * 20
    write(tmp_path / "a.parquet", {"text": texts, "a": [text and {"b": text} for text in texts]}, row_group_size=30)
    for field in ("field=text", "field=a.b", "template={text}{a.b}"):
        with pytest.raises(InputError, match=r"Row 100 of .*a.parquet \(counted from 0\) has no value \(null\)"):
            list(open_corpus(f"parquet({field}):{tmp_path}/a.parquet").documents())


def damage(data, kind):
    if kind == "truncated":
        return data[:-100]
    if kind == "no footer":
        return data[: len(data) // 2] + b"PAR1"
    if kind == "page":
        return data[:2000] + bytes(byte ^ 0xFF for byte in data[2000:4000]) + data[4000:]
    if kind == "footer":
        return data[:-300] + bytes(200) + data[-100:]
    return {"empty": b"", "text": b"no parquet file", "encrypted": data[:-4] + b"PARE"}[kind]


def test_checksums_of_pages_are_verified(tmp_path):
    """A changed byte of text is an error if the file has checksums, which pyarrow and others can write."""
    write(tmp_path / "a.parquet", {"text": ["x" * 5000]}, compression="none", write_page_checksum=True)
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(data.replace(b"x" * 100, b"x" * 99 + b"y", 1))
    with pytest.raises(InputError, match="a.parquet is truncated or damaged .*CRC checksum"):
        list(open_corpus(f"parquet:{tmp_path}/a.parquet").documents())


@pytest.mark.parametrize("kind", ["truncated", "no footer", "page", "footer", "empty", "text", "encrypted"])
def test_damaged_files_are_one_paragraph(kind, tmp_path):
    """A damaged file raises InputError with its name and what to do."""
    rng = np.random.default_rng(0)
    write(tmp_path / "a.parquet", {"text": [rng.bytes(50).hex() for _ in range(1000)]}, compression="gzip")
    (tmp_path / "a.parquet").write_bytes(damage((tmp_path / "a.parquet").read_bytes(), kind))
    with pytest.raises(InputError, match=r"a.parquet.* (is|that).*etch") as error:
        list(open_corpus(f"parquet:{tmp_path}/a.parquet").documents())
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


MEMORY = """
import resource, sys
from compressed_lm.data.sources import open_corpus
corpus = open_corpus(sys.argv[1])
corpus.probe("train")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
n = sum(len(document) for document in corpus.documents())
print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow("writes and reads a file of 100 MB in another process")
def test_memory_does_not_grow_with_the_row_group(tmp_path):
    """A row group of 100 MB is read in batches, with less than 40 MB more memory than before."""
    text = np.random.default_rng(0).bytes(500_000).hex()
    table = pa.table({"text": [f"{i} {text}" for i in range(100)], "other": ["x" * 100_000] * 100})
    pq.write_table(table, tmp_path / "a.parquet", use_dictionary=False, compression="none")
    arguments = [sys.executable, "-c", MEMORY, f"parquet:{tmp_path}/a.parquet"]
    n_bytes, kilobytes = map(int, subprocess.run(arguments, capture_output=True, check=True, text=True).stdout.split())
    assert n_bytes > 100_000_000
    assert kilobytes < 40_000
