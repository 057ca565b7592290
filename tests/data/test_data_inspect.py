"""Inspection of token stores."""

import io
import json

import pytest
from rich.console import Console

from compressed_lm.codecs.bytes_codec import Bytes
from compressed_lm.data.inspect import inspect_store, render
from compressed_lm.data.job import compress
from compressed_lm.data.sources import open_corpus
from compressed_lm.errors import InputError

DOCUMENTS = ["The first [bold] document.", "Zweites: größer", "x" * 1000, "last"]


class Wide(Bytes):
    """The bytes codec with twice the vocabulary."""

    spec = "wide"
    vocab_size = 512
    fingerprint = "w" * 64


@pytest.fixture
def spec(tmp_path):
    (tmp_path / "docs.json").write_text("".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS))
    return f"json:{tmp_path}/docs.json"


@pytest.fixture
def folder(spec, tmp_path):
    compress(open_corpus(spec), "train", Wide(), tmp_path / "store", n_shards=2)
    return tmp_path / "store"


def test_counts(folder):
    """Ratios come from the manifest's counts, without reading a shard."""
    inspection = inspect_store(folder)
    assert inspection.bytes_per_token == 1.0
    assert inspection.bits_per_byte_stored == 9.0
    assert inspection.tokens_per_document == sum(len(text.encode()) for text in DOCUMENTS) / 4
    assert inspection.sample == ()


def test_originals_stand_beside_what_their_tokens_decode_to(folder, spec):
    """The sample is the first documents of the store, compared with originals and checksums."""
    inspection = inspect_store(folder, codec=Wide(), corpus=open_corpus(spec), n_documents=5)
    assert [document.original.decode() for document in inspection.sample] == DOCUMENTS
    assert all(document.original == document.decoded and document.lossless for document in inspection.sample)
    assert inspection.sample[0].first_ids == tuple(DOCUMENTS[0].encode()[:12])


def test_a_wrong_decoding_is_shown_as_such(folder):
    """Without the corpus, the recorded checksum still detects a wrong decoding."""

    class Wrong(Wide):
        def _decode_sequences(self, sequences):
            return [document.replace(b"first", b"fIrst") for document in super()._decode_sequences(sequences)]

    sample = inspect_store(folder, codec=Wrong(), n_documents=2).sample
    assert [document.lossless for document in sample] == [False, True]
    assert sample[0].original is None


def test_rendering_shows_text_and_counts(folder, spec):
    """The tables name codec and corpus and show documents literally; long ones are truncated."""
    console = Console(width=200, record=True, file=open("/dev/null", "w"))
    console.print(render(inspect_store(folder, codec=Wide(), corpus=open_corpus(spec)), n_characters=50))
    text = console.export_text()
    assert "wide (fingerprint wwwwwwwwwwwwwwww)" in text and "4 in 2 shards" in text
    assert text.count("The first [bold] document.") == 2
    assert "same bytes" in text and "x" * 60 not in text


def test_names_of_documents_are_shown(tmp_path):
    """The ids of the documents of a corpus are kept in the store and shown beside their text."""
    (tmp_path / "docs.json").write_text('{"text": "one", "url": "http://a"}\n{"text": "two", "url": "http://[b]"}\n')
    compress(open_corpus(f"json(id=url):{tmp_path}/docs.json"), "train", Wide(), tmp_path / "store")
    out = io.StringIO()
    Console(width=200, file=out).print(render(inspect_store(tmp_path / "store", codec=Wide())))
    assert "0: http://a: 3 bytes, 3 tokens" in out.getvalue() and "1: http://[b]: 3 bytes" in out.getvalue()


def test_documents_and_names_are_shown_and_not_obeyed(tmp_path):
    """Escape sequences, control characters and markup are shown as text.

    They are in documents and in paths, and include direction marks.
    """
    hostile = "[a-z]\x1b]0;title\x07\x1b[2J\x9b31m\r\x08\u202eabc\u2066 [bold]b[/bold] [/nothing]"
    path = tmp_path / "[red]\x1b[31m[a-z].json"
    path.write_text(json.dumps({"text": hostile}) + "\n")
    store = tmp_path / "[blue]store"
    compress(open_corpus(f"json:{path}"), "train", Wide(), store, n_shards=1)
    out = io.StringIO()
    rendered = render(inspect_store(store, codec=Wide(), corpus=open_corpus(f"json:{path}")))
    Console(width=400, file=out, force_terminal=False).print(rendered)
    text = out.getvalue()
    assert not set(text) & {chr(code) for code in (*range(10), *range(11, 32), *range(127, 160), 0x202E, 0x2066)}
    assert text.count(r"[a-z]\x1b]0;title\x07\x1b[2J\x9b31m\r\x08\u202eabc\u2066 [bold]b[/bold] [/nothing]") == 2
    assert r"[red]\x1b[31m[a-z].json" in text and "[blue]store" in text


def test_another_corpus_is_refused(folder, tmp_path):
    """Originals are shown only from the corpus that the store was made from."""
    (tmp_path / "other.json").write_text('{"text": "other"}\n')
    with pytest.raises(InputError, match="was made from json:.*has other documents"):
        inspect_store(folder, codec=Wide(), corpus=open_corpus(f"json:{tmp_path}/other.json"))
    with pytest.raises(InputError, match="made by codec wide"):
        inspect_store(folder, codec=Bytes())
