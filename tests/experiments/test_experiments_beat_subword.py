"""Comparison with subwords: equal conditions for all methods, and a page that agrees with its record."""

import json
import pathlib
import re
import shutil
import sys

import numpy as np
import pytest

EXPERIMENT = pathlib.Path(__file__).parents[2] / "experiments" / "beat_subword"
RECORDED = EXPERIMENT.parent / "recorded" / "beat_subword"
MORE_TEXT = sorted(path.parent for path in RECORDED.glob("text_*/results.jsonl"))
sys.path.insert(0, str(EXPERIMENT))

import embeddings  # noqa: E402
import levers  # noqa: E402
import m1_windows  # noqa: E402
import protocol  # noqa: E402
import report  # noqa: E402
import robustness  # noqa: E402
import speed  # noqa: E402

from compressed_lm import codecs, models  # noqa: E402


def test_models_of_all_methods_cost_the_same_for_a_byte():
    """The MLP width equalises FLOPs per byte within 2 % at every vocabulary size."""
    for v in protocol.VOCABULARIES:
        shape = models.TransformerConfig(models.model_vocab_size(v), d_ff=protocol.REFERENCE_D_FF, **protocol.MODEL)
        flops = protocol.flops_per_byte(shape, 4.0)
        for bytes_per_token in (3.8, 4.0, 4.2):
            found = protocol.flops_per_byte(protocol.model_at(flops, v, bytes_per_token), bytes_per_token)
            assert found == pytest.approx(flops, rel=0.02)


def test_texts_are_disjoint_and_of_the_sizes_asked_for(tmp_path):
    """Training and held-out texts are disjoint and have the given sizes and share of C4."""
    for folder, n in (("c4_en", 60), ("mixed_en", 200)):
        (tmp_path / "corpora" / folder).mkdir(parents=True)
        for name in (
            "c4-train" if folder == "c4_en" else "train-",
            "c4-validation" if folder == "c4_en" else "validation-",
        ):
            lines = [json.dumps({"text": f"{folder} {name} {i} " + "a word or two. " * 300}) for i in range(n)]
            (tmp_path / "corpora" / folder / f"{name}0.json").write_text("\n".join(lines))
    texts = protocol.Texts(tmp_path, tmp_path / "texts", 400_000)
    found = {name: texts.documents(name) for name in texts.files}
    assert not set(found["train"]) & set(found["dev"]) and set(found["train"]) <= set(found["learn"])
    c4 = sum(len(d) for d in found["train"] if d.startswith(b"c4_en"))
    assert c4 / sum(map(len, found["train"])) == pytest.approx(protocol.C4_SHARE, abs=0.02)
    assert (len(found["c4"]), len(found["mixed"])) == (60, 200)


def test_tokens_in_memory_are_those_of_the_codec():
    """Rows are the ids of the codec with an end after each document, cut or padded."""
    codec = codecs.load("pieces16-en")
    documents = [b"One text.", b"Another one, a longer one."]
    tokens = protocol.Tokens(codec, documents)
    stream = [*codec.encode(documents[0]), 65536, *codec.encode(documents[1]), 65536]
    assert tokens.rows(4, drop_remainder=False).ravel()[: len(stream)].tolist() == stream
    assert tokens.bytes_per_token == sum(map(len, documents)) / len(stream)


@pytest.mark.parametrize(
    ("others", "figure"), [([], "bits_per_byte.png"), (MORE_TEXT, "growth.png")], ids=["all methods", "more text"]
)
def test_the_page_shows_what_was_recorded(others, figure, tmp_path, capsys, monkeypatch):
    """report.py prints the tables of the page from the record, and draws the figures."""
    shutil.copytree(RECORDED, tmp_path / "recorded")
    monkeypatch.setattr(sys, "argv", ["report.py", str(tmp_path / "recorded"), *map(str, others)])
    (tmp_path / "recorded" / figure).unlink()
    report.main()
    page = (EXPERIMENT / "README.md").read_text()
    for line in capsys.readouterr().out.splitlines():
        assert line in page
    assert (tmp_path / "recorded" / figure).exists() and f"beat_subword/{figure}" in page


@pytest.mark.parametrize(
    "table",
    [
        lambda: levers.shown(RECORDED / "levers.jsonl"),
        lambda: embeddings.shown(RECORDED / "embeddings.jsonl"),
        lambda: robustness.shown(RECORDED / "robustness.jsonl"),
        lambda: speed.shown(RECORDED),
        lambda: m1_windows.shown(RECORDED / "m1_windows.jsonl", RECORDED / "levers.jsonl"),
    ],
    ids=["levers", "embeddings", "other text", "speed", "windows"],
)
def test_tables_on_the_page_are_those_of_the_records(table):
    """The tables that scripts print from their records are on the page."""
    page = (EXPERIMENT / "README.md").read_text()
    for line in table().splitlines():
        assert line in page


INTERVAL = r"(-?[\d.]+)\s+\[(-?[\d.]+), (-?[\d.]+)\]"


def test_intervals_in_the_text_are_those_of_the_tables():
    """Every gain with an interval in the text is a difference of a table, rounded, with the opposite sign."""
    page = (EXPERIMENT / "README.md").read_text()
    cells = re.findall(r"([+-][\d.]+) \[([+-][\d.]+), ([+-][\d.]+)\]", page)
    known = {tuple(abs(round(float(x), 3)) for x in cell) for cell in cells}
    prose = "\n".join(line for line in page.splitlines() if not line.startswith("|"))
    said = [tuple(map(float, found)) for found in re.findall(INTERVAL, prose)]
    assert len(said) > 15
    for value, low, high in said:
        assert low < value < high
        # Last digits of 5 may be rounded up or down.
        near = [c for c in known if np.abs(np.subtract(c, np.abs((value, high, low)))).max() < 1.1e-3]
        near += [c for c in known if np.abs(np.subtract(c, np.abs((value, low, high)))).max() < 1.1e-3]
        assert near, (value, low, high)


def test_claims_that_an_interval_does_not_bear_out_are_not_made():
    """The text claims a difference only if its interval excludes 0."""
    results = report.Results(RECORDED)
    for v in results.sizes():
        for text in report.TEXTS:
            for form in ("pieces", "pieces, marks within"):
                assert results.difference(form, "sentencepiece", v, text).high < 0
    for text in report.TEXTS:
        apart = results.difference("pieces", "pieces, marks within", 65536, text)
        assert apart.low < 0 < apart.high
    close = results.difference("byte-level BPE", "sentencepiece", 65536, "mixed")
    assert close.low < 0 < close.high
    page = " ".join((EXPERIMENT / "README.md").read_text().split())
    assert "cannot be told from marks within" in page and "too little to tell them apart" in page
    assert "(documents only)" in report.cell(
        report.Results(MORE_TEXT[-1]).difference("pieces", "sentencepiece", 4096, "c4")
    )


def test_codecs_of_windows_are_valid_and_their_m1s_known():
    """Every lever names a canonical codec spec and an M1 that the script can train."""
    for _, m1, spec, _ in m1_windows.WINDOWS:
        assert codecs.canonical_spec(spec) == spec and m1 in m1_windows.M1S
    assert len({lever[:2] for lever in m1_windows.WINDOWS}) == len(m1_windows.WINDOWS)


@pytest.mark.parametrize("record", [RECORDED, *MORE_TEXT], ids=lambda path: path.name)
def test_bits_of_documents_add_up_to_the_rows(record):
    """For every recorded model the bits of documents give the bits per byte of its row."""
    results = report.Results(record)
    for v in results.sizes():
        for method in results.methods(v):
            rows = results.rows[(results.rows["v"] == v) & (results.rows["method"] == method)].sort_values("seed")
            for text in report.TEXTS:
                bits, n_bytes = results.bits(method, v, text)
                np.testing.assert_allclose(bits.sum(1) / n_bytes.sum(), rows[text], atol=1e-5)


def test_embeddings_take_the_bytes_of_their_tokens():
    """Ids share the vectors of equal lengths and of equal bytes at the first eight and last three positions."""
    found = embeddings.features([b"a", b" a word", b" a wound"], "own + length + bytes", 4)
    assert found[:, 0].tolist() == [1, 7, 8, 0]
    first, last = found[1, 1:9] - embeddings.MAX_BYTES - 1, found[2, 1:9] - embeddings.MAX_BYTES - 1
    assert (first % embeddings.N_VECTORS).tolist() == [*b" a word", embeddings.NO_BYTE]
    assert (first == last).tolist() == [True] * 5 + [False] * 3
    assert found[1, 9] - found[2, 9] == 0 and found[1, 10] != found[2, 10]  # "d"; "r" and "n" before it
    assert len(np.unique(found[3, 1:])) == embeddings.FIRST + embeddings.LAST
