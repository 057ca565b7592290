"""Text files: whole documents, and parts of large ones."""

import gzip
import io
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressed_lm.codecs.bytes_codec import Bytes
from compressed_lm.data.job import compress
from compressed_lm.data.sources import open_corpus, text_files


@pytest.fixture
def small(monkeypatch):
    """Parts of 100 bytes, lines searched within 20."""
    monkeypatch.setattr(text_files, "DOCUMENT_BYTES", 100)
    monkeypatch.setattr(text_files, "_SEARCHED", 20)
    monkeypatch.setattr(text_files, "_BLOCK_BYTES", 33)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_parts_are_those_of_the_content(data):
    """Plain files, compressed files and streams are divided at the same places; joined, the parts are the file."""
    before = text_files.DOCUMENT_BYTES, text_files._SEARCHED, text_files._BLOCK_BYTES
    text_files.DOCUMENT_BYTES, text_files._SEARCHED = 100, 20
    text_files._BLOCK_BYTES = data.draw(st.sampled_from([1, 33, 1000]))
    draw = random.Random(data.draw(st.integers(0, 1 << 32)))
    letters = data.draw(st.sampled_from(["a\n", "aaaaaaaaaaaaaaaaaaaaaaaa\n", "größe", "😀", "\r\n", "x"]))
    size = data.draw(st.integers(0, 700))
    content = "".join(draw.choice(letters) for _ in range(size)).encode()
    try:
        starts = text_files._starts(len(content))
        stops = [*starts[1:], None]
        parts = [text_files._part(io.BytesIO(content), start, stop) for start, stop in zip(starts, stops, strict=True)]
        assert b"".join(parts) == content
        assert [d.text for d in text_files._parts(io.BytesIO(content), None, "name")] == parts
        assert all(len(part) <= 170 for part in parts)
        assert all(not part or part[0] & 0xC0 != 0x80 for part in parts)
    finally:
        text_files.DOCUMENT_BYTES, text_files._SEARCHED, text_files._BLOCK_BYTES = before


def test_a_large_file_is_several_units(small, tmp_path):
    """A large plain file is divided among workers, a compressed one is not; both give the same store."""
    content = b"".join(b"line %d\n" % i for i in range(200))
    (tmp_path / "a.txt").write_bytes(content)
    (tmp_path / "b.gz").write_bytes(gzip.compress(content))
    stores = []
    for name in ("a.txt", "b.gz"):
        corpus = open_corpus(f"text:{tmp_path}/{name}")
        documents = list(corpus.documents())
        assert b"".join(documents) == content and all(d.startswith(b"line") for d in documents)
        (unit,) = corpus.units()
        assert [d.text for d in corpus.read("train", unit, skip=5)] == documents[5:]
        stores.append(compress(corpus, "train", Bytes(), tmp_path / f"out{name}"))
    ids = [[record.ids.tolist() for record in store.documents()] for store in stores]
    assert ids[0] == ids[1] and len(ids[0]) == 17


def test_a_file_of_ordinary_size_is_one_document(tmp_path):
    """Files below the size of a part stay whole."""
    content = b"x\n" * (1 << 20)
    (tmp_path / "a.txt").write_bytes(content)
    assert list(open_corpus(f"text:{tmp_path}/a.txt").documents()) == [content]
