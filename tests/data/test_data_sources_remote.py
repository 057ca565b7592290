"""Corpora in object stores, on real servers of the local machine."""

import gzip
import json
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from compressed_lm.data import corpus as corpus_lib
from compressed_lm.data.sources import open_corpus
from compressed_lm.errors import InputError
from compressed_lm.io import remote

TEXTS = [f"text {i} {'é' * (i % 50)}" for i in range(2000)]


@pytest.fixture
def folder(bucket_url, tmp_path):
    """Returns the URL of a folder with the documents as plain and compressed JSON lines, and as Parquet."""
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()
    remote.write_bytes(f"{bucket_url}/c4/a.json", lines)
    remote.write_bytes(f"{bucket_url}/c4/b[1].json.gz", gzip.compress(lines))
    pq.write_table(pa.table({"text": TEXTS, "other": TEXTS}), tmp_path / "a.parquet", row_group_size=100)
    remote.upload(tmp_path / "a.parquet", f"{bucket_url}/c4/a.parquet")
    return f"{bucket_url}/c4"


@pytest.mark.parametrize("spec", ["json:{}/a.json", "json:{}/b[1].json.gz", "parquet:{}/*.parquet", "json:{}/b*.gz"])
def test_objects_give_the_same_documents(spec, folder, monkeypatch):
    """Files of gs:// and s3:// are found by name and by glob, divided, read in ranges and resumed as local ones."""
    monkeypatch.setattr(corpus_lib, "UNIT_BYTES", 20_000)
    corpus = open_corpus(spec.format(folder))
    units = pickle.loads(pickle.dumps(corpus.units()))
    assert (len(units) > 1) == (".gz" not in spec)
    copy = pickle.loads(pickle.dumps(corpus))
    found = [[document.text.decode() for document in copy.read("train", unit)] for unit in units]
    assert sum(found, []) == TEXTS
    last = [document.text.decode() for document in corpus.read("train", units[-1], skip=7)]
    assert last == found[-1][7:]
    assert open_corpus(corpus.spec).describe("train") == corpus.describe("train")


def test_a_mixture_of_local_and_remote_files(folder, tmp_path):
    """The parts of a mixture may be local or remote."""
    (tmp_path / "a.txt").write_text("local")
    mixed = open_corpus(f"mix:2*json:{folder}/a.json,text:{tmp_path}/a.txt")
    assert [document.decode() for document in mixed.documents()] == [*TEXTS, *TEXTS, "local"]
    mixed = open_corpus(f"mix:0.5*json:{folder}/a.json,0.5*parquet:{folder}/a.parquet")
    assert len(list(mixed.documents())) > len(TEXTS)


def test_missing_objects_say_what_to_do(folder, bucket_url):
    """A missing object, a folder and a missing bucket are one paragraph each."""
    for spec, message in (
        (f"json:{folder}/c*.json", "No file matches .*as a name or as a glob. Give a path"),
        (f"json:{folder}", "is a folder. Name its files, such as json:.*/c4/"),
        (f"json:{bucket_url}-missing/a.json", "-missing"),
        ("json:hdfs://host/a.json", "only local paths, gs:// and s3:// are supported"),
    ):
        with pytest.raises(InputError, match=message) as error:
            open_corpus(spec)
        assert "\n" not in str(error.value)
