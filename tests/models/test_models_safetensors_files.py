"""Folders of safetensors files are read completely, or an error is raised."""

import json

import ml_dtypes
import numpy as np
import pytest

from compressed_lm.errors import InputError
from compressed_lm.models.safetensors_files import INDEX, SINGLE, Tensors, write_tensors

save_file = pytest.importorskip("safetensors.numpy").save_file

TENSORS = {name: np.full((3, 4), i, np.float32) for i, name in enumerate("abc")}


def test_tensors_come_back_from_one_file_or_several(tmp_path):
    """Files have at most `max_bytes`, unless one tensor is larger; the index lists each tensor."""
    for folder, max_bytes, files in (("one", 144, 1), ("two", 143, 2), ("three", 1, 3)):
        (tmp_path / folder).mkdir()
        written = write_tensors(tmp_path / folder, TENSORS, max_bytes=max_bytes)
        assert len(written) == files
        assert sorted(p.name for p in (tmp_path / folder).iterdir()) == sorted([*written, INDEX][: files + (files > 1)])
        found = Tensors(tmp_path / folder)
        assert found.shapes == {name: (3, 4) for name in "abc"}
        for name, tensor in TENSORS.items():
            np.testing.assert_array_equal(found[name], tensor)
    assert json.loads((tmp_path / "two" / INDEX).read_text())["metadata"] == {"total_size": 144}


def test_floats_keep_their_type(tmp_path):
    """Every float type is read as it is stored; integers are refused."""
    halves = np.array([1.5, -0.0078125, 3e4], np.float32)
    kinds = {"half": np.float16, "brain": ml_dtypes.bfloat16, "double": np.float64, "whole": np.int32}
    save_file({name: halves.astype(kind) for name, kind in kinds.items()}, tmp_path / SINGLE)
    found = Tensors(tmp_path)
    assert found.dtypes == {"half": "float16", "brain": "bfloat16", "double": "float64", "whole": "I32"}
    for name in ("half", "brain", "double"):
        assert found[name].dtype == kinds[name]
        np.testing.assert_array_equal(found[name], halves.astype(kinds[name]))
    with pytest.raises(InputError, match="whole has the type I32; expected one of F64, F32, F16, BF16"):
        found["whole"]


def test_damage_is_reported(tmp_path):
    """Empty folder, pickled weights, truncated file, missing shard, tensor that no file has, broken index."""
    with pytest.raises(InputError, match="has no safetensors files; expected model.safetensors, or several"):
        Tensors(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(InputError, match="no safetensors files, only pickled files"):
        Tensors(tmp_path)

    first, second = write_tensors(tmp_path, TENSORS, max_bytes=100)
    index = json.loads((tmp_path / INDEX).read_text())
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": index["weight_map"] | {"d": first}}))
    with pytest.raises(InputError, match="lists d, but none of its files has it"):
        Tensors(tmp_path)
    whole = (tmp_path / second).read_bytes()
    (tmp_path / second).write_bytes(whole[:-1])
    with pytest.raises(InputError, match=f"{second} cannot be read .*truncated"):
        Tensors(tmp_path)
    (tmp_path / second).unlink()
    with pytest.raises(InputError, match=f"{second} is missing, but .*{INDEX} lists it. Copy the whole"):
        Tensors(tmp_path)
    (tmp_path / INDEX).write_text("{}")
    with pytest.raises(InputError, match=f"{INDEX} cannot be read .*weight_map"):
        Tensors(tmp_path)
