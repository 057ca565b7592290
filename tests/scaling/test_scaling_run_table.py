"""The run table keeps every row complete, refuses wrong units, and survives a kill."""

import json

import numpy as np
import pytest

from compressed_lm.errors import InputError
from compressed_lm.io import jsonl
from compressed_lm.scaling import append_row, check_table, final_runs, load_runs, split_spec


def make_row(**changes):
    row = {
        "run": "m2/bytes",
        "codec": "bytes",
        "representation": "float32",
        "n_params": 460_000,
        "n_nonembed": 393_984,
        "tokens": 2_867_200,
        "bytes": 2_867_200,
        "flops_per_byte": 787_968.0,
        "flops_per_byte_softmax": 855_552.0,
        "loss_nats_per_token": 1.6636,
        "bits_per_byte": 2.4,
        "seed": 0,
        "step": 700,
        "final": True,
        "config_hash": "ab12",
        "versions": {"jax": "0.10.2"},
    }
    return {**row, **changes}


def test_rows_come_back_with_fixed_dtypes_and_extra_columns(tmp_path):
    """load_runs reads the rows of append_row: values, dtypes and additional columns."""
    path = tmp_path / "new" / "runs.jsonl"
    append_row(path, make_row(n_params=np.int64(460_000), bits_per_byte=np.float32(2.5), seconds=41.5))
    append_row(path, make_row(run="m2/ac", flops_per_byte=1, codec="ac(v=256)"))
    runs = load_runs(tmp_path / "*" / "runs.jsonl")
    assert list(runs["codec"]) == ["bytes", "ac(v=256)"]
    assert list(runs["bits_per_byte"]) == [2.5, 2.4]
    assert {name: str(runs[name].dtype) for name in ("n_params", "flops_per_byte", "final")} == {
        "n_params": "int64",
        "flops_per_byte": "float64",
        "final": "bool",
    }
    assert runs["versions"][1] == {"jax": "0.10.2"}
    assert runs["seconds"][0] == 41.5 and np.isnan(runs["seconds"][1])
    assert runs["file"][0] == str(path)


def test_a_torn_last_line_is_skipped_and_then_repaired(tmp_path):
    """A process killed during a write loses its own row only."""
    path = tmp_path / "runs.jsonl"
    append_row(path, make_row(run="first"))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match="line 2 is unfinished"):
        assert list(load_runs(path)["run"]) == ["first"]
    append_row(path, make_row(run="second"))
    assert list(load_runs(path)["run"]) == ["first", "second"]
    assert path.read_bytes().startswith(whole) and path.read_bytes().count(b"\n") == 2


@pytest.mark.parametrize(
    "content",
    [b"notes without an end", b"my notes\n", b'{"name": "another table"}\n', b"\x00" * 100, b"a,b\n1,2", b"[1, 2]\n{"],
)
def test_a_file_that_is_no_run_table_is_never_changed(content, tmp_path):
    """A file that this package did not write is left unchanged."""
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    for attempt in (lambda: check_table(path), lambda: append_row(path, make_row())):
        with pytest.raises(InputError, match="notes.txt is no run table: .* Nothing was written"):
            attempt()
    assert path.read_bytes() == content
    check_table(tmp_path / "missing.jsonl")
    append_row(tmp_path / "ours.jsonl", make_row())
    mixed = (tmp_path / "ours.jsonl").read_bytes() + content.rstrip(b"\n")
    (tmp_path / "ours.jsonl").write_bytes(mixed)
    if content != b"[1, 2]\n{":
        append_row(tmp_path / "ours.jsonl", make_row(run="second"))
        assert (tmp_path / "ours.jsonl").read_bytes().startswith(mixed + b"\n")


@pytest.mark.parametrize("damage", [b"\x00" * 50, b'{"run": "a", "fin\xff', b"[" * 100_000, b"[]", b'{"run": '])
def test_a_damaged_line_does_not_stop_a_resumed_sweep(damage, tmp_path):
    """A line that is no object is skipped with a warning when a run resumes, and is an error in an analysis."""
    path = tmp_path / "runs.jsonl"
    append_row(path, make_row(run="first"))
    with path.open("ab") as file:
        file.write(damage + b"\n")
    append_row(path, make_row(run="second"))
    with pytest.warns(UserWarning, match="line 2 is damaged .*; it is skipped"):
        assert [row["run"] for _, row in jsonl.read(path, skip_damaged=True)] == ["first", "second"]
    with pytest.raises(ValueError, match="line 2 is not a JSON object"):
        load_runs(path)


def test_a_whole_last_line_without_newline_is_kept(tmp_path):
    """A kill between a row and its newline loses no row."""
    path = tmp_path / "runs.jsonl"
    append_row(path, make_row(run="first", note="x" * 100_000))
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    append_row(path, make_row(run="second"))
    assert list(load_runs(path)["run"]) == ["first", "second"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_params": 1.5}, "n_params = 1.5. Expected an integer"),
        ({"final": 1}, "final = 1. Expected true or false"),
        ({"seed": True}, "seed = True. Expected an integer"),
        ({"bits_per_byte": float("nan")}, "bits_per_byte = nan. Expected a finite number"),
        ({"bits_per_byte": -0.5}, "Expected a value between 0 and 100"),
        ({"step": -1}, "step = -1. Expected a value at least 0"),
        ({"n_nonembed": 500_000}, "n_nonembed = 500000 above n_params = 460000"),
        ({"flops_per_byte_softmax": 1.0}, "above flops_per_byte_softmax"),
        ({"loss_nats_per_token": 2.4, "bytes_per_token": 1.0}, "Check the units"),
        ({"note": {1, 2}}, "cannot be written as JSON"),
    ],
)
def test_wrong_values_are_refused_and_nothing_is_written(tmp_path, changes, message):
    """A row with a wrong type, range or unit raises before the file changes."""
    path = tmp_path / "runs.jsonl"
    with pytest.raises(ValueError, match=message):
        append_row(path, make_row(**changes))
    assert not path.exists()


def test_a_missing_column_is_named():
    """The message says which columns are missing."""
    row = make_row()
    del row["tokens"], row["seed"]
    with pytest.raises(ValueError, match=r"lacks the column\(s\) tokens, seed"):
        append_row("unused.jsonl", row)


def test_load_names_file_and_line(tmp_path):
    """The message names file and line of an invalid row."""
    path = tmp_path / "runs.jsonl"
    path.write_text(json.dumps(make_row()) + "\n\n" + json.dumps(make_row(seed=-3)) + "\n")
    with pytest.raises(ValueError, match=r"runs.jsonl line 3 has seed = -3"):
        load_runs(path)
    path.write_text("not json\n" + json.dumps(make_row()) + "\n")
    with pytest.raises(ValueError, match=r"runs.jsonl line 1 is not a JSON object but 'not json'"):
        load_runs(path)


def test_a_pattern_without_match_says_what_to_do(tmp_path):
    """A pattern without files, or with files without rows, is an error that names the pattern."""
    with pytest.raises(ValueError, match="No run table matches"):
        load_runs(tmp_path / "*.jsonl")
    (tmp_path / "runs.jsonl").write_text("")
    with pytest.raises(ValueError, match="have no rows"):
        load_runs(tmp_path / "*.jsonl")


def test_final_runs_keeps_the_last_final_row_of_a_run(tmp_path):
    """A run evaluated twice counts once; seeds are separate, and rows during training do not count."""
    path = tmp_path / "runs.jsonl"
    for changes in (
        {"bits_per_byte": 3.0},
        {"seed": 1},
        {"bits_per_byte": 2.5},
        {"final": False, "bits_per_byte": 9.0},
    ):
        append_row(path, make_row(**changes))
    final = final_runs(load_runs(path))
    assert sorted(zip(final["seed"], final["bits_per_byte"], strict=True)) == [(0, 2.5), (1, 2.4)]


def test_split_spec_reads_spellings():
    """Order of options, spaces and the default alignment do not matter."""
    assert split_spec("bytes") == ("bytes", {})
    assert (
        split_spec("eiw(v=4096, b=12, align=none)")
        == split_spec("eiw(b=12,v=4096)")
        == ("eiw", {"b": "12", "v": "4096"})
    )
    assert split_spec("eiw(align=word,b=12,v=4096)")[1]["align"] == "word"
