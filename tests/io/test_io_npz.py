"""Safe reader of NumPy files."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from compressed_lm.errors import InputError
from compressed_lm.io import limits, npz


def written(**arrays):
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


def test_arrays_come_back():
    """Every array of an .npz file is read as by NumPy: scalars, empty ones, both orders, structured ones."""
    arrays = {
        "a": np.arange(6.0).reshape(2, 3),
        "b": np.asfortranarray(np.arange(6, dtype=np.int8).reshape(2, 3)),
        "c": np.array(7),
        "d": np.zeros((0, 3), np.float16),
        "e": np.array([(1, 2.0)], dtype=[("x", "i4"), ("y", "f8")]),
    }
    found = npz.read_arrays(written(**arrays))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert np.array_equal(found[name], array) and found[name].dtype == array.dtype


@pytest.mark.slow("writes large files or waits for other processes")
def test_a_small_file_of_large_arrays_is_refused(monkeypatch):
    """3 MB that unpack to 3 GB are refused before memory is allocated; the limit can be set."""
    content = written(text=np.zeros(300 << 20, np.uint8))
    assert len(content) < 400_000
    tracemalloc.start()
    with pytest.raises(ValueError, match=rf"at most 268,435,456 are read .*{limits.VARIABLE} sets another"):
        npz.read_arrays(content)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    monkeypatch.setenv(limits.VARIABLE, "4e8")
    assert npz.read_arrays(content)["text"].size == 300 << 20


@pytest.mark.parametrize("value", ["", "x", "-1", "0", "inf", "nan"])
def test_a_limit_that_is_no_number_is_refused(monkeypatch, value):
    """An invalid limit raises an error of its own."""
    monkeypatch.setenv(limits.VARIABLE, value)
    with pytest.raises(InputError, match="expected a number of bytes, such as 4e9"):
        limits.document()


def test_objects_and_false_headers_are_refused():
    """Pickled objects, and headers that claim more data than follows, raise errors and run no code."""
    content = io.BytesIO()
    np.save(content, np.array([{}], object), allow_pickle=True)
    with pytest.raises(ValueError, match="object"):
        npz.read_array(content.getvalue())
    content = io.BytesIO()
    np.save(content, np.zeros(4))
    with pytest.raises(ValueError, match="its header says"):
        npz.read_array(content.getvalue().replace(b"(4,), }", b"(444,)}"))
    with pytest.raises(ValueError, match="its header says"):
        npz.read_array(content.getvalue()[:-1])


def test_what_is_no_archive_is_a_value_error():
    """Truncated, changed and empty archives raise ValueError and nothing else."""
    good = written(a=np.arange(1000), b=np.ones(10))
    rng = np.random.default_rng(0)
    for _ in range(500):
        bad = bytearray(good[: rng.integers(len(good)) + 1])
        bad[rng.integers(len(bad))] ^= 1 << rng.integers(8)
        try:
            npz.read_arrays(bytes(bad))
        except ValueError:
            continue
    member = io.BytesIO()
    with zipfile.ZipFile(member, "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00\xff\xff")
    with pytest.raises(ValueError):
        npz.read_arrays(member.getvalue())
