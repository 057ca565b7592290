"""Hugging Face data sets in local folders."""

import json

import datasets
import pytest

from compressed_lm.data import corpus as corpus_lib
from compressed_lm.data.sources import open_corpus
from compressed_lm.errors import InputError

ROWS = [{"text": f"text {i} {'é' * (i % 7)}", "meta": {"url": f"u{i}"}} for i in range(500)]
TEXTS = [row["text"].encode() for row in ROWS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns a folder with data sets: saved with and without splits, and of files."""
    folder = tmp_path_factory.mktemp("sets")
    rows = datasets.Dataset.from_list(ROWS)
    rows.save_to_disk(folder / "rows")
    splits = datasets.DatasetDict({"train": rows, "validation": rows.select(range(400, 500))})
    splits.save_to_disk(folder / "splits")
    for name, subset in (("one", ROWS[:300]), ("two", ROWS[300:])):
        (folder / "files" / name).mkdir(parents=True)
        for split, some in (("train", subset[:-9]), ("test", subset[-9:])):
            lines = "".join(json.dumps(row) + "\n" for row in some)
            (folder / "files" / name / f"{split}-00000.jsonl").write_text(lines)
    configs = "".join(f"- config_name: {n}\n  data_dir: {n}\n" for n in ("one", "two"))
    (folder / "files" / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    (folder / "code").mkdir()
    (folder / "code" / "code.py").write_text(f"open({str(folder / 'executed')!r}, 'w')\n")
    return folder


def test_splits_are_those_of_the_data_set(folder):
    """A data set has its own splits; an unknown one is an error that lists them."""
    corpus = open_corpus(f"hf:{folder}/splits")
    assert corpus.splits == ("train", "validation")
    assert list(corpus.documents("train")) == TEXTS
    assert list(corpus.documents("validation")) == TEXTS[400:]
    assert corpus.describe("train")["fingerprint"] != corpus.describe("validation")["fingerprint"]
    with pytest.raises(InputError, match="Split 'test' was requested, .* has only train, validation"):
        corpus.units("test")
    assert open_corpus(f"hf:{folder}/rows").splits == ("train",)
    validation = open_corpus(f"hf:{folder}/rows", validation=f"hf:{folder}/splits")
    assert list(validation.documents("validation")) == TEXTS[400:]


@pytest.mark.parametrize("unit_bytes", [100, 3000, 1 << 20])
def test_units_are_ranges_of_rows(unit_bytes, folder, monkeypatch):
    """Units of saved rows are disjoint, complete and in order for any size, and are resumed in the middle."""
    monkeypatch.setattr(corpus_lib, "UNIT_BYTES", unit_bytes)
    corpus = open_corpus(f"hf(id=meta.url):{folder}/rows")
    units = corpus.units()
    found = [list(corpus.read("train", unit)) for unit in units]
    assert [d for documents in found for d in documents] == [(t, f"u{i}") for i, t in enumerate(TEXTS)]
    assert (len(units) > 1) == (unit_bytes < 1 << 20)
    for unit, documents in list(zip(units, found, strict=True))[:5]:
        assert list(corpus.read("train", unit, skip=3)) == documents[3:]


def test_configurations_of_a_folder(folder):
    """hf:FOLDER:CONFIG names a configuration; without it the error lists them."""
    corpus = open_corpus(f"hf:{folder}/files:two")
    assert corpus.splits == ("train", "test")
    assert list(corpus.documents("train")) == TEXTS[300:-9]
    assert list(corpus.documents("test")) == TEXTS[-9:]
    with pytest.raises(InputError, match=r"Config name is missing.*'one', 'two'"):
        open_corpus(f"hf:{folder}/files")
    with pytest.raises(InputError, match=r"three.*not found.*one"):
        open_corpus(f"hf:{folder}/files:three")


def test_code_of_a_data_set_is_not_executed(folder):
    """A folder with a loading script is refused, and the script is not executed."""
    with pytest.raises(InputError, match="cannot be read by the library `datasets`"):
        open_corpus(f"hf:{folder}/code")
    assert not (folder / "executed").exists()


@pytest.mark.parametrize(
    "spec, message",
    [
        ("hf:/no/such/folder", "there is no folder /no/such/folder"),
        ("hf:./nothing:config", r"there is no folder \./nothing"),
        ("hf:gs://bucket/x", "not gs://. Name its files"),
        ("hf(field=meta):{}/rows", "has a column meta of type struct.*Name the column of the text: hf"),
        ("hf(field=body):{}/rows", "has the columns meta.url, text, and no column body"),
        ("hf(field=body):{}/files:one", "has the fields|is an object with the fields"),
        ("hf(id=meta.n):{}/splits", "no column meta.n"),
    ],
)
def test_errors_say_what_to_do(spec, message, folder):
    """A missing folder or column is one paragraph."""
    with pytest.raises(InputError, match=message) as error:
        list(open_corpus(spec.format(folder)).documents())
    assert "\n" not in str(error.value)


def test_a_damaged_folder_is_named(folder, tmp_path):
    """A truncated Arrow file is one paragraph."""
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "rows")
    (path,) = (tmp_path / "rows").glob("*.arrow")
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(InputError, match="cannot be read by the library `datasets`") as error:
        list(open_corpus(f"hf:{tmp_path}/rows").documents())
    assert "\n" not in str(error.value)
