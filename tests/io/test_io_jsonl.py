"""JSON lines: damaged and unfinished lines, and atomic writes."""

import json
import warnings

import pytest
from etils import epath

from compressed_lm.errors import InputError
from compressed_lm.io import jsonl

ROWS = [{"a": 1}, {"b": "é\n"}, {"c": [1.5, None]}]


def test_rows_round_trip(tmp_path):
    """Rows are read as they were written, with line numbers from 1; blank lines are skipped."""
    path = tmp_path / "rows.jsonl"
    jsonl.write(path, ROWS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(jsonl.read(path)) == list(enumerate(ROWS, 1))
        assert list(jsonl.read(epath.Path(path))) == list(enumerate(ROWS, 1))
        path.write_text("\n" + json.dumps(ROWS[0]) + "\n \t\n" + json.dumps(ROWS[1]) + "\n")
        assert list(jsonl.read(path)) == [(2, ROWS[0]), (4, ROWS[1])]
    path.write_bytes(b"")
    assert list(jsonl.read(path)) == []


@pytest.mark.parametrize(
    "line", [b"{", b"[1]", b"null", b'{"a": NaN}', b'{"a": 1} x', b"\xff{}", b'{"a": "\\ud800"}', b"[" * 100_000]
)
def test_damaged_lines_are_refused_or_skipped(tmp_path, line):
    """A line that is not an object raises an error with its number, or is skipped with a warning."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"b": 2}\n')
    rows = jsonl.read(path)
    assert next(rows) == (1, {"a": 1})
    with pytest.raises(InputError, match="rows.jsonl line 2 is not a JSON object but .* remove or correct this line"):
        next(rows)
    with pytest.warns(UserWarning, match="rows.jsonl line 2 is damaged .* it is skipped") as caught:
        assert list(jsonl.read(path, skip_damaged=True)) == [(1, {"a": 1}), (3, {"b": 2})]
    assert len(caught) == 1


@pytest.mark.parametrize("skip_damaged", [False, True])
def test_an_unfinished_last_line_is_skipped(tmp_path, skip_damaged):
    """A last line without a line break is skipped with a warning if it is not complete, otherwise it is read."""
    path, whole = tmp_path / "rows.jsonl", b'{"a": 1}\n{"b": [1, 2]}'
    for end in range(len(whole) - 11, len(whole)):
        path.write_bytes(whole[:end])
        with pytest.warns(UserWarning, match="line 2 is unfinished, as a killed run leaves it; it is skipped"):
            assert list(jsonl.read(path, skip_damaged=skip_damaged)) == [(1, {"a": 1})]
    path.write_bytes(whole)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(jsonl.read(path, skip_damaged=skip_damaged)) == [(1, {"a": 1}), (2, {"b": [1, 2]})]


def test_a_failed_write_keeps_the_old_file(tmp_path):
    """A row that cannot be written leaves the old file, and no temporary one."""
    path = tmp_path / "rows.jsonl"
    jsonl.write(path, ROWS)

    def rows():
        yield {"new": 1}
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        jsonl.write(path, rows())
    with pytest.raises(TypeError, match="not JSON serializable"):
        jsonl.write(path, [{"new": 1}, {"set": {1}}])
    assert list(jsonl.read(path)) == list(enumerate(ROWS, 1))
    assert [found.name for found in tmp_path.iterdir()] == ["rows.jsonl"]
