"""A study measures every text of its grid once, and its tables are means of its rows."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from compressed_lm.codecs.bytes_codec import Bytes
from compressed_lm.cramming import CramConfig, cram, read, vector_files
from compressed_lm.cramming.study import Study, read_rows, run_study
from compressed_lm.errors import InputError
from compressed_lm.reports import cramming_tables
from compressed_lm.reports.cramming import write_report
from compressed_lm.reports.cramming_findings import findings

STUDY = Study(
    lengths=(2, 6),
    formats=("int(b=8)", "int(b=2)"),
    restarts=8,
    config=CramConfig(steps=100, learning_rate=0.05),
)


@pytest.fixture(scope="module")
def done(model, texts, tmp_path_factory):
    """Returns the folder of a study of one source, and its texts."""
    given = texts(*[6] * 8, seed=8)
    return run_study(model, Bytes(), {"tokens": given}, STUDY, out=tmp_path_factory.mktemp("study")), given


def row(text=0, length=4, right=4, bits=1.0, format="dense", **more):
    """Returns a row of results, for a text with 10 bits and one right token without vectors."""
    base = dict(source="s", k=2, length=length, text=text, format=format, trained=False, right=right, bits=bits)
    base |= dict(
        stored_bytes=32, dimensions=16, right_alone=1, bits_alone=10.0, lowest_bits=bits, exact=right == length
    )
    return base | dict(exact_prefix=right, text_bytes=4, zlib_bytes=12, ac_bytes=2) | more


@pytest.mark.slow("trains vectors")
def test_rows_are_what_cramming_gives(model, done):
    """A row has the score of cramming its text.

    All formats quantise the same vectors, and the bytes are those of the packed numbers.
    """
    folder, given = done
    rows = read_rows(folder / "results.jsonl")
    assert len(rows) == 2 * 8 * 3
    found = cram(model, [ids[:2] for ids in given], STUDY.config)
    short = [r for r in rows if r["length"] == 2 and r["format"] == "dense"]
    assert [(r["right"], r["steps"], r["best_step"]) for r in short] == [(f.score, f.steps, f.best_step) for f in found]
    assert all(r["exact"] == (r["right"] == 2) and r["stored_bytes"] == 128 and r["text_bytes"] == 2 for r in short)
    assert all(r["bits"] >= r["lowest_bits"] - 0.01 for r in short) and sum(r["exact"] for r in short) > 2
    eight, two = ([r for r in rows if r["format"] == form and r["length"] == 2] for form in STUDY.formats)
    assert {r["stored_bytes"] for r in eight} == {34} and {r["stored_bytes"] for r in two} == {10}
    near, far = (sum(abs(r["bits"] - d["bits"]) for r, d in zip(other, short, strict=True)) for other in (eight, two))
    assert 0 < near < far


def test_a_study_goes_on_where_it_was(model, done):
    """An interrupted study measures no cell twice.

    An interrupted cell is measured again with the same result, and other settings in the same folder are refused.
    """
    folder, given = done
    before = {name: (folder / name).read_text() for name in ("results.jsonl", "cells.jsonl", "paths.jsonl")}
    run_study(model, Bytes(), {"tokens": given}, STUDY, out=folder)
    assert all((folder / name).read_text() == text for name, text in before.items())
    rows = read_rows(folder / "results.jsonl")
    (folder / "cells.jsonl").write_text(before["cells.jsonl"].splitlines(keepends=True)[0])
    (folder / "results.jsonl").write_text(before["results.jsonl"][:-30])
    run_study(model, Bytes(), {"tokens": given}, STUDY, out=folder)
    assert read_rows(folder / "results.jsonl") == rows and (folder / "cells.jsonl").read_text() == before["cells.jsonl"]
    with pytest.raises(InputError, match="has a study with other values of study"):
        run_study(model, Bytes(), {"tokens": given}, Study(lengths=(2,)), out=folder)
    with pytest.raises(InputError, match="has a study with other values of texts_sha256"):
        run_study(model, Bytes(), {"tokens": given[::-1]}, STUDY, out=folder)
    (folder / "unfinished").mkdir()  # of a process that was killed after its last row
    settings = json.loads((folder / "study.json").read_text())
    del settings["texts_sha256"]  # as earlier versions wrote them
    (folder / "study.json").write_text(json.dumps(settings))
    run_study(model, Bytes(), {"tokens": given}, STUDY, out=folder)
    assert not (folder / "unfinished").exists()
    with pytest.raises(InputError, match="fewer than 6 tokens, the longest length"):
        run_study(model, Bytes(), {"tokens": [given[0][:5]]}, STUDY, out=folder)


def test_a_study_keeps_its_vectors(model, done):
    """Each cell has a file with the vectors of its rows, and no unfinished state is left."""
    folder, given = done
    names = sorted(path.name for path in (folder / "vectors").iterdir())
    assert names == ["tokens-k1-n2-dense.npz", "tokens-k1-n6-dense.npz"]
    assert not (folder / "unfinished").exists()
    arrays = vector_files.read(folder / "vectors" / "tokens-k1-n6-dense.npz")
    readings = read(model, [arrays[f"{i}/vectors"] for i in range(8)], given)
    rows = [r for r in read_rows(folder / "results.jsonl") if r["length"] == 6 and r["format"] == "dense"]
    assert [r["right"] for r in rows] == [int(reading.right.sum()) for reading in readings]


@pytest.mark.slow("trains vectors")
def test_a_study_resumes_inside_a_cell(model, texts, tmp_path):
    """A study that is interrupted again and again inside its cells has the rows and vectors of an uninterrupted one."""
    given = {"tokens": texts(*[5] * 4, seed=9)}
    study = dataclasses.replace(STUDY, lengths=(5,), restarts=1, trained_formats=("int(b=8)",))
    whole = run_study(model, Bytes(), given, study, out=tmp_path / "whole", slots=2)
    calls = interruptions = 0

    def interrupt(*_):
        nonlocal calls
        calls += 1
        if calls % 4 == 0:
            raise KeyboardInterrupt

    while True:
        try:
            run_study(model, Bytes(), given, study, out=tmp_path / "cut", slots=2, save_every=0, progress=interrupt)
            break
        except KeyboardInterrupt:
            interruptions += 1
            assert (tmp_path / "cut" / "unfinished").exists()
    assert interruptions > 3 and not (tmp_path / "cut" / "unfinished").exists()
    for name in ("results.jsonl", "cells.jsonl", "paths.jsonl"):
        assert (whole / name).read_text() == (tmp_path / "cut" / name).read_text()
    for path in (whole / "vectors").iterdir():
        a, b = vector_files.read(path), vector_files.read(tmp_path / "cut" / "vectors" / path.name)
        assert set(a) == set(b) and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.slow("trains vectors")
def test_lengths_far_beyond_capacity_are_left_out(model, texts, tmp_path):
    """With `beyond`, the measured lengths end after the given number of failed ones.

    This also holds if the study is interrupted.
    """
    given = {"tokens": texts(*[12] * 4, seed=3)}
    study = Study(lengths=(6, 8, 10, 12), beyond=2, config=CramConfig(steps=3))
    folder = run_study(model, Bytes(), given, study, out=tmp_path)
    assert [row["length"] for row in read_rows(folder / "cells.jsonl")] == [6, 8]
    run_study(model, Bytes(), given, study, out=folder)
    assert [row["length"] for row in read_rows(folder / "cells.jsonl")] == [6, 8]
    with pytest.raises(InputError, match="beyond=-1"):
        Study(lengths=(2,), beyond=-1)


def test_cells_and_paths_agree_with_the_rows(done):
    """The gain of a cell is the sum over its rows; by code length it differs by at most the bytes of two streams.

    Texts that are crammed twice have the shortest length.
    """
    folder, _ = done
    table = cramming_tables.frame(read_rows(folder / "results.jsonl"))
    for cell in read_rows(folder / "cells.jsonl"):
        rows = table[(table["length"] == cell["length"]) & (table["format"] == "dense")]
        assert cell["gain_bits_by_loss"] == pytest.approx(rows["gain"].sum(), abs=0.05)
        assert cell["gain_bits_by_code_length"] == pytest.approx(cell["gain_bits_by_loss"], abs=1)
    paths = read_rows(folder / "paths.jsonl")
    assert [(p["length"], p["text"]) for p in paths] == [(2, i) for i in range(8)] and all(
        p["distance"] > 0.1 for p in paths
    )


def test_the_summary_is_of_the_right_texts():
    """Capacity is by mean accuracy.

    Gains are over texts above it in float32, the same texts for every format.
    """
    rows = [row(0), row(1), row(0, 8, 8, 2.0), row(1, 8, 6, 4.0)]
    rows += [r | dict(format="int(b=4)", stored_bytes=8, right=r["right"] - 2, bits=5.0, exact=False) for r in rows]
    table = cramming_tables.frame(rows)
    (dense,) = cramming_tables.summary(table, vocab_size=16).to_dict("records")
    assert (dense["capacity"], dense["greedy_capacity"], dense["above"]) == (4, 4, 1)
    assert (dense["capacity_low"], dense["capacity_high"]) == (4, 8)  # two texts, of which one fits at 8
    assert (dense["token_gain"], dense["gain"], dense["gain_per_vector"]) == (5, 6, 3)
    assert dense["bits_per_dimension"] == 6 / 16 and dense["theoretical"] == 16 * 16 / 4
    assert dense["utilisation"] == 5 / 64
    small = cramming_tables.formats(table, vocab_size=16).to_dict("records")[1]
    assert (small["format"], small["capacity"], small["above"], small["gain"]) == ("int(b=4)", 0, 1, 5)
    assert (small["bits_per_number"], small["kept"]) == (4, 0)
    (size,) = cramming_tables.sizes(table).to_dict("records")
    assert (size["format"], size["length"], size["stored_bytes"], size["ac_bytes"]) == ("dense", 4, 32, 2)
    curve = cramming_tables.curves(table)
    assert curve["exact"].tolist() == [1, 0.5] and curve["exact_prefix"].tolist() == [4, 7]
    assert curve["gain"].tolist() == [9, 7]  # of 8 and 6 bits, which t of one degree of freedom makes 7 +- 12.7
    assert curve["gain_high"].tolist() == [9, pytest.approx(19.706, abs=1e-3)]


def test_findings_are_the_numbers_of_the_tables():
    """Findings name sources with separate intervals, the gain per vector and the smallest sufficient format.

    A format is sufficient if it keeps 95 % of the gain. Without a result there is no sentence.
    """
    gains = {("a", 1): (10, 9, 11), ("b", 1): (20, 19, 21), ("c", 1): (11, 9, 13), ("a", 4): (30, 29, 31)}
    summary = pd.DataFrame(
        [
            dict(source=s, k=k, above=5, gain=g, gain_low=low, gain_high=high, gain_per_vector=g / k)
            for (s, k), (g, low, high) in gains.items()
        ]
    )
    kept = {"dense": (32, 30.0), "int(b=8)": (8.1, 29.9), "int(b=4)": (4.1, 28.6), "int(b=2)": (2.1, 15.0)}
    formats = pd.DataFrame(
        [
            dict(source="a", k=4, above=5, format=form, trained=False, gain=gain, bits_per_number=bits)
            | dict(bits_per_dimension=gain / 64)
            for form, (bits, gain) in kept.items()
        ]
    )
    assert findings(summary, formats) == [
        "K = 1: the information gain is 10.0 bits on a and 20.0 on b, 2.00 times as many; the intervals of a and b, c "
        "and b do not overlap.",
        "a: the gain per vector is 7.5 bits with K = 4 and 10.0 with K = 1: 25% less.",
        "a, K = 4: int(b=4), 4.10 stored bits per number, keeps 95.3% of the gain, 0.447 bits per number.",
    ]
    assert findings(summary[:1], formats[:1]) == []
    assert findings(summary[:1], formats.iloc[[0, 3]])[0].startswith("a, K = 4: no format keeps 95% of the information")


def test_the_report_has_the_tables(done):
    """Page, figures and tables are written, and the numbers of the page are those of the tables."""
    folder, _ = done
    paths = write_report(folder)
    assert {p.name for p in paths} >= {"report.html", "report.md", "summary.csv", "formats.csv", "gain.png"}
    summary, page = pd.read_csv(folder / "summary.csv"), (folder / "report.md").read_text()
    assert f"{summary['gain'][0]:,.1f} ({summary['gain_low'][0]:,.1f} to" in page
    assert "## Between two solutions" in page and json.loads((folder / "study.json").read_text())["vocab_size"] == 16
    assert np.isfinite(summary["gain"]).all()
    with pytest.raises(InputError, match="holds no rows of a study"):
        write_report(folder.parent / "none")


def test_bad_grids_are_refused():
    """Lengths, numbers of vectors and formats are checked before anything is computed."""
    with pytest.raises(InputError, match="expected at least one of each"):
        Study(lengths=())
    with pytest.raises(InputError, match="There is no representation 'int4'"):
        Study(lengths=(2,), formats=("int4",))
    assert Study(lengths=(2, 8), vectors=(1, 4)).cells == [(1, 2), (1, 8), (4, 8)]
