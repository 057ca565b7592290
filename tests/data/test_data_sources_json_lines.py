"""JSON lines: byte ranges, skipping, unusual lines and errors."""

import json
import pickle

import hypothesis
import orjson
import pytest
from hypothesis import strategies as st

from compressed_lm.data import corpus as corpus_lib
from compressed_lm.data.sources import json_lines, open_corpus
from compressed_lm.errors import InputError


def line_of(text, ensure_ascii):
    return json.dumps({"url": "u", "text": text}, ensure_ascii=ensure_ascii).encode("utf-8", "surrogatepass")


LINES = st.lists(
    st.one_of(
        st.tuples(st.text(max_size=60), st.booleans()),
        st.just(None),  # a blank line
    ),
    max_size=20,
)


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(
    lines=LINES,
    end=st.sampled_from([b"\n", b"\r\n"]),
    last=st.booleans(),
    bom=st.booleans(),
    unit_bytes=st.integers(1, 300),
    skip=st.integers(0, 5),
)
def test_ranges_divide_a_file_for_any_unit_size(tmp_path_factory, lines, end, last, bom, unit_bytes, skip):
    """Units are disjoint, complete and in order, and skipping k documents of one equals dropping them."""
    texts = [line[0] for line in lines if line is not None]
    content = end.join(b" " if line is None else line_of(*line) for line in lines) + (end if last and lines else b"")
    path = tmp_path_factory.getbasetemp() / "ranges.json"
    path.write_bytes((b"\xef\xbb\xbf" if bom else b"") + content)
    corpus = open_corpus(f"json:{path}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus_lib, "UNIT_BYTES", unit_bytes)
        units = corpus.units()
    assert len(units) == 1 or all(span.stop - span.start >= unit_bytes / 2 for unit in units for span in unit.spans)
    found = [list(corpus.read("train", unit)) for unit in units]
    assert [document.text for of_unit in found for document in of_unit] == [
        text.encode("utf-8", "surrogatepass") for text in texts
    ]
    for unit, documents in zip(units, found, strict=True):
        assert list(corpus.read("train", unit, skip=skip)) == documents[skip:]


def test_the_division_is_a_function_of_the_size(tmp_path, monkeypatch):
    """A file has ranges of equal size; a last one below half of it joins the one before; small files are joined."""
    monkeypatch.setattr(corpus_lib, "UNIT_BYTES", 80)
    for name, size in (("a", 2 * 80 + 39), ("b", 2 * 80 + 40), ("c", 4), ("d", 4), ("e", 4), ("f", 119)):
        (tmp_path / f"{name}.json").write_bytes(b"\n" * size)
    spans = [[(s.name[-6], s.start, s.stop) for s in u.spans] for u in open_corpus(f"json:{tmp_path}/*.json").units()]
    assert spans == [
        *([("a", 0, 80)], [("a", 80, 199)]),
        *([("b", 0, 80)], [("b", 80, 160)], [("b", 160, 200)]),
        *([("c", 0, None), ("d", 0, None)], [("e", 0, None)], [("f", 0, None)]),
    ]


@pytest.mark.parametrize(
    "line",
    [
        b'{"text": "half \\ud800 a pair"}',
        b'{"text": "raw \xed\xa0\x80 surrogate"}',
        b'{"text": "x", "n": NaN, "m": -Infinity, "k": 1e999, "big": 123456789012345678901234567890}',
        b'{"text": "one", "text": "two"}',
        b'  {"text": "\\u00e9\\n\\u0000"} \r',
        '{"text": "日本語 \\ud83d\\ude00"}'.encode(),
    ],
)
def test_documents_do_not_depend_on_orjson(line, tmp_path, monkeypatch):
    """The fast parser and Python's give the same documents, also for JSON that only Python's accepts."""
    (tmp_path / "a.json").write_bytes(line + b"\n")
    fast = list(open_corpus(f"json:{tmp_path}/a.json").documents())
    monkeypatch.setattr(json_lines.orjson, "loads", lambda line: json.loads(line.decode()))
    assert list(open_corpus(f"json:{tmp_path}/a.json").documents()) == fast
    assert fast == [json.loads(line.decode("utf-8", "surrogatepass"))["text"].encode("utf-8", "surrogatepass")]
    assert orjson.loads is json_lines.orjson.loads


def test_errors_name_the_line_in_any_range(tmp_path, monkeypatch):
    """The line number of an error counts from the beginning of the file, in each range of it."""
    monkeypatch.setattr(corpus_lib, "UNIT_BYTES", 50)
    lines = [b'{"text": "%d"}' % i for i in range(40)]
    lines[30] = b'{"txt": 1}'
    (tmp_path / "a.json").write_bytes(b"\n\n".join(lines))
    corpus = open_corpus(f"json:{tmp_path}/a.json")
    with pytest.raises(InputError, match=r"Line 61 of .*a.json:61\) is an object with the fields txt; .*json\(field="):
        list(corpus.documents())


def test_pretty_printed_json_is_named_in_any_range(tmp_path, monkeypatch):
    """A worker that reads the middle of a pretty-printed file gives the same error as the one at its beginning."""
    (tmp_path / "a.json").write_text(json.dumps([{"text": "x" * 30}] * 20, indent=1))
    monkeypatch.setattr(corpus_lib, "UNIT_BYTES", 100)
    corpus = open_corpus(f"json:{tmp_path}/a.json")
    for unit in corpus.units():
        with pytest.raises(InputError, match=r"is one JSON array; .*jq -c '\.\[\]'"):
            list(corpus.read("train", unit))


def test_fields_templates_and_ids(tmp_path):
    """Options name a nested field, several fields joined by a template, and the id; the spec opens the corpus again."""
    record = {"meta": {"title": "T", "n": 7}, "body": "B, {b}", "a.b": "literal", "a": {"b": "nested"}, "url": "u1"}
    (tmp_path / "a (1).json").write_text(json.dumps(record) + "\n")
    for options, text, name in (
        ("field=body,id=url", b"B, {b}", "u1"),
        ("field=meta.title, id = meta.n", b"T", "7"),
        ("field=a.b", b"literal", None),
        (r'template="{meta.title} #{meta.n}\n\n{body}, {{x}}"', b"T #7\n\nB, {b}, {x}", None),
        ("template={meta.title}: {body},id='url'", b"T: B, {b}", "u1"),
    ):
        corpus = open_corpus(f"json({options}):{tmp_path}/a (1).json")
        assert list(corpus.read("train", corpus.units()[0])) == [(text, name)], options
        assert corpus.has_ids == (name is not None)
        again = open_corpus(corpus.spec)
        assert (again.spec, again.describe("train")) == (corpus.spec, corpus.describe("train"))
        mixed = open_corpus(f"mix:2*json({options}):{tmp_path}/a (1).json,json(field=body):{tmp_path}/a (1).json")
        assert list(mixed.documents()) == [text, text, b"B, {b}"]
        assert list(open_corpus(mixed.spec).documents()) == list(mixed.documents())
    plain = open_corpus(f"json(field=body):{tmp_path}/a (1).json").describe("train")["fingerprint"]
    assert plain != open_corpus(f"json:{tmp_path}/a (1).json").describe("train")["fingerprint"]


@pytest.mark.parametrize(
    "record, options, message",
    [
        ({"a": {"c": "x"}}, "field=a.b", "is an object with the fields a, a.c; an object with a field `a.b` that is a"),
        ({"text": None}, "", "is an object whose field `text` is null"),
        ({"text": "x"}, "id=url", r"is an object with the fields text; an object with the fields text, url \(strings"),
        ({"text": "x", "id": 1.5}, "id=id", "whose field `id` is a number"),
        ({"text": 5}, "field=text", "whose field `text` is a number"),
        ({"text": "x"}, "template={title}: {text}", "is an object with the fields text; .*the fields title, text"),
        ({f"f{i:02}": 0 for i in range(99)}, "", "f00, f01, .*, f11 and 87 more"),
    ],
)
def test_missing_fields_are_listed(record, options, message, tmp_path):
    """The error of a document without the field has the fields that are there, and the spec that names another."""
    (tmp_path / "a.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=rf"Line 1 of .*a.json:1\) .*{message}.*json\(field=NAME\):PATH"):
        list(open_corpus(f"json({options}):{tmp_path}/a.json").documents())


def test_a_file_that_grows_is_refused(tmp_path):
    """A file that changed its size since the corpus was opened, or is gone, is an error before it is read."""
    path = tmp_path / "a.json"
    path.write_text('{"text": "x"}\n')
    corpus = open_corpus(f"json:{path}")
    with path.open("a") as file:
        file.write('{"text": "y"}\n')
    with pytest.raises(InputError, match="a.json has 28 bytes; it had 14 when the corpus was opened"):
        list(corpus.documents())
    path.unlink()
    with pytest.raises(InputError, match="no longer exists"):
        list(corpus.documents())


def test_sizes_are_those_of_the_text(tmp_path):
    """The size of a unit is that of its text, without the other fields and the escapes of JSON."""
    records = [{"text": "text " * 50, "url": "u" * 250, "n": i} for i in range(500)]
    (tmp_path / "a.json").write_text("".join(json.dumps(record) + "\n" for record in records))
    corpus = open_corpus(f"json:{tmp_path}/a.json")
    assert corpus.estimated_bytes("train") == pytest.approx(sum(map(len, corpus.documents())), rel=0.01)


def test_corpora_pickle(tmp_path):
    """A worker process gets the corpus and a unit, and reads the same documents."""
    (tmp_path / "a.json").write_text('{"text": "x", "url": "u"}\n')
    corpus, units = pickle.loads(pickle.dumps((c := open_corpus(f"json(id=url):{tmp_path}/a.json"), c.units())))
    assert list(corpus.read("train", units[0])) == [(b"x", "u")]
