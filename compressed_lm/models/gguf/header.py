"""Header of a GGUF file: metadata, and the place of each tensor.

The format is specified in https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. `gguf.GGUFReader` is not used: it
makes a NumPy array for every string of the vocabulary, and follows counts and offsets of hostile files without an end.
"""

import mmap
import os
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from compressed_lm.errors import InputError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
_BIG_ENDIAN = tuple(version << 24 for version in VERSIONS)
_MAX_DIMENSIONS = 4
_MAX_ELEMENTS = 1 << 48
"""Largest number of elements of a tensor; products of larger sizes are no tensors."""

_SCALARS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
"""NumPy type of each type of a value (`gguf.GGUFValueType`)."""

_STRING, _ARRAY = 8, 9


class TensorPlace(NamedTuple):
    """Place of a tensor in a file.

    Attributes:
        shape: NumPy order, which is the reverse of the file's: the last axis is contiguous.
        kind: number of its `gguf.GGMLQuantizationType`.
        offset: first byte, from the start of the tensors' data.
    """

    shape: tuple[int, ...]
    kind: int
    offset: int


class Header(NamedTuple):
    """Content of a header.

    Attributes:
        metadata: values by key: int, float, bool, str, list[str], or a NumPy array of numbers.
        tensors: place of each tensor by its name.
        data: first byte of the tensors' data in the file.
    """

    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorPlace]
    data: int


def read_header(path: str | os.PathLike) -> Header:
    """Returns the header of a GGUF file.

    Every count and length is compared with the size of the file before memory is used for it.

    Raises:
        InputError: it is not a GGUF file, it is truncated, or its content contradicts itself.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(len(MAGIC))
            if start != MAGIC:
                raise InputError(
                    f"{os.fspath(path)} begins with the bytes {start!r}; a GGUF file begins with {MAGIC!r}. Give a "
                    "GGUF file of llama.cpp."
                )
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _Reader(content).header()
    except OSError as error:
        raise InputError(f"{os.fspath(path)} cannot be read ({error.strerror}). Give a GGUF file.") from error
    except _Malformed as error:
        raise InputError(
            f"{os.fspath(path)} is not a valid GGUF file: {error}. Copy it again from its source."
        ) from None


def single(metadata: Mapping[str, Any], key: str, default: Any = None) -> Any:
    """Returns a value of the metadata that is a number, a truth value or a text.

    Args:
        metadata: values by key.
        key: the key.
        default: result if there is no such key.

    Raises:
        InputError: it is an array.
    """
    value = metadata.get(key, default)
    if isinstance(value, list | np.ndarray):
        raise InputError(f"The GGUF file has an array as {key}; one value was expected. Copy it from its source.")
    return value


class _Malformed(Exception):
    """A header that contradicts the format; the message completes "is not a valid GGUF file: "."""


class _Reader:
    """Position in the bytes of a header."""

    def __init__(self, content: mmap.mmap):
        self._content, self._size, self._at = content, len(content), len(MAGIC)

    def header(self) -> Header:
        version = self._number("<I")
        if version in _BIG_ENDIAN:
            raise _Malformed("it is big-endian, and only little-endian files are supported")
        if version not in VERSIONS:
            raise _Malformed(f"its version is {version}, and {' and '.join(map(str, VERSIONS))} are supported")
        n_tensors, n_values = self._number("<Q"), self._number("<Q")
        metadata: dict[str, Any] = {}
        for _ in range(n_values):
            key = self._string()
            if key in metadata:
                raise _Malformed(f"it has the key {key!r:.100} twice")
            metadata[key] = self._value(self._number("<I"), key)
        tensors: dict[str, TensorPlace] = {}
        for _ in range(n_tensors):
            name = self._string()
            if name in tensors:
                raise _Malformed(f"it has the tensor {name!r:.100} twice")
            tensors[name] = self._place(name)
        return Header(metadata, tensors, self._data(metadata))

    def _take(self, count: int) -> bytes:
        """Returns the next bytes."""
        if count > self._size - self._at:
            raise _Malformed(f"it ends after {self._size:,} bytes, inside its header")
        self._at += count
        return self._content[self._at - count : self._at]

    def _number(self, form: str) -> int:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _string(self) -> str:
        text = self._take(self._number("<Q"))
        try:
            return text.decode()
        except UnicodeDecodeError:
            raise _Malformed(f"the string {text[:40]!r} is not UTF-8") from None

    def _value(self, kind: int, key: str) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            inner, count = self._number("<I"), self._number("<Q")
            if inner == _STRING:
                return self._strings(count)
            if inner in _SCALARS:
                return self._numbers(_SCALARS[inner], count)
            raise _Malformed(f"the key {key!r:.100} is an array of the unsupported type {inner}")
        if kind not in _SCALARS:
            raise _Malformed(f"the key {key!r:.100} has the unknown type {kind}")
        value = self._numbers(_SCALARS[kind], 1)[0]
        # The shortest decimal number of a float32: 1e-05, and not 9.999999747378752e-06.
        return float(str(value)) if value.dtype == np.float32 else value.item()

    def _numbers(self, dtype: str, count: int) -> np.ndarray:
        return np.frombuffer(self._take(count * np.dtype(dtype).itemsize), dtype)

    def _strings(self, count: int) -> list[str]:
        if count > (self._size - self._at) // 8:  # each has a length of 8 bytes
            raise _Malformed(f"an array of {count:,} strings is longer than the file")
        return [self._string() for _ in range(count)]

    def _place(self, name: str) -> TensorPlace:
        n_dimensions = self._number("<I")
        if not 1 <= n_dimensions <= _MAX_DIMENSIONS:
            raise _Malformed(f"the tensor {name!r:.100} has {n_dimensions} dimensions")
        shape = tuple(self._number("<Q") for _ in range(n_dimensions))[::-1]
        total = 1
        for length in shape:
            total *= length
        if not 1 <= total <= _MAX_ELEMENTS:
            raise _Malformed(f"the tensor {name!r:.100} has the shape {shape}")
        return TensorPlace(shape, self._number("<I"), self._number("<Q"))

    def _data(self, metadata: Mapping[str, Any]) -> int:
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise _Malformed(f"general.alignment is {alignment!r:.100}, which is not a power of two")
        return -(-self._at // alignment) * alignment
