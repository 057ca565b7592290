"""Headers of GGUF files are read completely, and hostile ones are refused before memory is used for them."""

import resource
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressed_lm.errors import InputError
from compressed_lm.models.gguf.header import read_header

gguf = pytest.importorskip("gguf")


def _string(text):
    return struct.pack("<Q", len(text)) + text


def _pair(key, kind, value):
    return _string(key) + struct.pack("<I", kind) + value


def _place(name=b"t", dimensions=(4,), kind=0, offset=0):
    sizes = struct.pack(f"<{len(dimensions)}Q", *dimensions)
    return _string(name) + struct.pack("<I", len(dimensions)) + sizes + struct.pack("<IQ", kind, offset)


def _file(pairs=(), places=(), *, version=3, n_pairs=None, n_places=None, magic=b"GGUF"):
    counts = (len(places) if n_places is None else n_places, len(pairs) if n_pairs is None else n_pairs)
    return magic + struct.pack("<IQQ", version, *counts) + b"".join([*pairs, *places])


def test_headers_are_those_of_the_package(tmp_path):
    """Values of all types, arrays and the places of tensors are those that gguf.GGUFReader finds."""
    path = tmp_path / "a.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(64)
    for kind, value in dict(uint8=7, int8=-7, uint16=700, int16=-700, uint32=70000, int32=-70000).items():
        getattr(writer, f"add_{kind}")(f"x.{kind}", value)
    for kind, value in dict(uint64=1 << 40, int64=-(1 << 40), float32=1e-5, float64=1e-5, bool=True).items():
        getattr(writer, f"add_{kind}")(f"x.{kind}", value)
    writer.add_string("x.string", "gr\u00fc\u00dfe")
    writer.add_array("x.strings", ["a", "", "\u2581b"])
    writer.add_array("x.numbers", [1, -2, 3])
    writer.add_array("x.floats", [0.5, -1.25])
    writer.add_array("x.flags", [True, False])
    writer.add_tensor("one", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.add_tensor("two", np.arange(5, dtype=np.float16))
    for write in (
        writer.write_header_to_file,
        writer.write_kv_data_to_file,
        writer.write_tensors_to_file,
        writer.close,
    ):
        write()
    header, theirs = read_header(path), gguf.GGUFReader(path)
    for key, field in theirs.fields.items():
        if key.startswith("GGUF."):
            continue
        value, expected = header.metadata[key], field.contents()
        if isinstance(value, np.ndarray):
            assert value.tolist() == expected
        elif key == "x.float32":
            assert value == 1e-5 and np.float32(value) == np.float32(expected)
        else:
            assert value == expected and type(value) is type(expected)
    assert len(header.metadata) == len(theirs.fields) - 3
    for tensor in theirs.tensors:
        place = header.tensors[tensor.name]
        assert place.shape == tuple(tensor.shape.tolist()[::-1]) and place.kind == tensor.tensor_type
        assert header.data + place.offset == tensor.data_offset


HOSTILE = {
    "no_gguf": (_file(magic=b"GGML"), "begins with the bytes b'GGML'"),
    "empty": (b"", "begins with the bytes b''"),
    "old": (_file(version=1), "its version is 1, and 2 and 3 are supported"),
    "big_endian": (_file(version=3 << 24), "it is big-endian"),
    "cut_off": (_file([_pair(b"a", 4, b"\0\0\0\1")])[:-1], "it ends after 40 bytes, inside its header"),
    "values": (_file(n_pairs=1 << 63), "inside its header"),
    "tensors": (_file(n_places=(1 << 64) - 1), "inside its header"),
    "long_string": (_file([_pair(b"a", 8, struct.pack("<Q", 1 << 62))]), "inside its header"),
    "long_array": (_file([_pair(b"a", 9, struct.pack("<IQ", 0, 1 << 62))]), "inside its header"),
    "strings": (_file([_pair(b"a", 9, struct.pack("<IQ", 8, 1 << 62))]), "array of 4,611,686,018,427,387,904 strings"),
    "nested": (_file([_pair(b"a", 9, struct.pack("<IQ", 9, 1))]), "is an array of the unsupported type 9"),
    "type": (_file([_pair(b"a", 99, b"")]), "'a' has the unknown type 99"),
    "utf8": (_file([_pair(b"\xff", 4, bytes(4))]), "is not UTF-8"),
    "twice": (_file([_pair(b"a", 4, bytes(4))] * 2), "the key 'a' twice"),
    "same_tensor": (_file([], [_place()] * 2), "the tensor 't' twice"),
    "dimensions": (_file([], [_place(dimensions=(1,) * 5)]), "has 5 dimensions"),
    "scalar": (_file([], [_place(dimensions=())]), "has 0 dimensions"),
    "no_elements": (_file([], [_place(dimensions=(4, 0))]), r"the shape \(0, 4\)"),
    "overflow": (_file([], [_place(dimensions=(1 << 32, 1 << 32))]), "the shape"),
    "alignment": (_file([_pair(b"general.alignment", 4, struct.pack("<I", 3))]), "which is not a power of two"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_are_refused(name, tmp_path):
    """Counts, lengths and sizes that do not fit the file are reported within 100 MB."""
    content, message = HOSTILE[name]
    path = tmp_path / "a.gguf"
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=message):
        read_header(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB


WHOLE = _file(
    [_pair(b"general.name", 8, _string(b"x")), _pair(b"n", 9, struct.pack("<IQ", 5, 3) + bytes(12))],
    [_place(b"a", (32, 2), 8), _place(b"b", (8,), 0, 96)],
)


@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=4), st.integers(0, len(WHOLE)))
@settings(max_examples=300, deadline=None)
def test_changed_headers_raise_only_input_errors(changes, length):
    """A header with changed or missing bytes is read or refused; no other error, and no endless loop."""
    import pathlib
    import tempfile

    content = bytearray(WHOLE)
    for at, value in changes:
        content[at] = value
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "a.gguf"
        path.write_bytes(content[:length] if changes else content)
        try:
            read_header(path)
        except InputError:
            pass


def test_a_folder_is_refused(tmp_path):
    """The system's reason is given."""
    with pytest.raises(InputError, match="cannot be read .Is a directory"):
        read_header(tmp_path)
