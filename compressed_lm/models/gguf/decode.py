"""Tensors of a GGUF file as NumPy arrays.

Plain types keep their type; quantised types are decoded to float32 by `gguf.quants`, some rows at a time, so that
memory stays near that of the result.
"""

import os
from types import ModuleType
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from compressed_lm.errors import InputError
from compressed_lm.models.gguf.header import TensorPlace

PLAIN = {"F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype(ml_dtypes.bfloat16)}
"""NumPy type of each type that is stored as it is."""

SLICE = 1 << 18
"""Number of elements that are decoded or encoded at once: `gguf.quants` takes several times their memory."""


def package() -> ModuleType:
    """Returns the package gguf.

    Raises:
        InputError: it is not installed.
    """
    try:
        import gguf
    except ImportError:
        raise InputError(
            "The package gguf is not installed, but GGUF files need it. Install it: pip install 'compressed_lm[hf]'."
        ) from None
    return gguf


class Kind:
    """Type of a tensor's elements.

    Attributes:
        name: such as "Q4_K".
        dtype: "float32", "float16", "bfloat16" or "float64": the type that `read` returns.
        block: number of elements of a block.
        block_bytes: size of a block.
    """

    def __init__(self, number: int, tensor: str):
        """Looks a type up.

        Args:
            number: the file's number of the type.
            tensor: name of the tensor, for messages.

        Raises:
            InputError: the type is unknown, or the package gguf cannot decode it.
        """
        gguf = package()
        try:
            self._kind: Any = gguf.GGMLQuantizationType(number)
        except ValueError:
            raise _unsupported(tensor, f"type number {number}") from None
        self.name: str = self._kind.name
        self.block, self.block_bytes = gguf.GGML_QUANT_SIZES[self._kind]
        if self.name in PLAIN:
            self.dtype = PLAIN[self.name].name
            return
        self.dtype = "float32"
        try:
            self._decode(np.zeros((1, self.block_bytes), np.uint8))
        except (NotImplementedError, ValueError):  # integers, and types that the installed version does not decode
            raise _unsupported(tensor, f"type {self.name}") from None

    def _decode(self, rows: np.ndarray) -> np.ndarray:
        if self.name.startswith("I") and self.name[1:].isdigit():
            raise NotImplementedError
        return package().quants.dequantize(rows, self._kind)

    def nbytes(self, place: TensorPlace, tensor: str) -> int:
        """Returns the size of a tensor in the file.

        Raises:
            InputError: its rows are no whole blocks.
        """
        if place.shape[-1] % self.block:
            raise InputError(
                f"The tensor {tensor} of type {self.name} has rows of {place.shape[-1]} elements; a multiple of "
                f"{self.block} was expected. Copy the file again from its source."
            )
        return int(np.prod(place.shape, dtype=object)) // self.block * self.block_bytes

    def read(self, file: BinaryIO, start: int, shape: tuple[int, ...]) -> np.ndarray:
        """Returns a tensor.

        Args:
            file: the GGUF file.
            start: first byte of the tensor.
            shape: shape of the result.

        Raises:
            InputError: the file ends inside the tensor.
        """
        result = np.empty(shape, PLAIN.get(self.name, np.float32))
        file.seek(start)
        if self.name in PLAIN:
            _read_into(file, result.view(np.uint8).reshape(-1))
            return result
        blocks = result.reshape(-1, self.block)
        for first in range(0, len(blocks), step := max(1, SLICE // self.block)):
            part = blocks[first : first + step]
            raw = np.empty((len(part), self.block_bytes), np.uint8)
            _read_into(file, raw.reshape(-1))
            part[...] = self._decode(raw.reshape(1, -1)).reshape(part.shape)  # one row: gguf takes 16 rows at a time
        return result


def _read_into(file: BinaryIO, target: np.ndarray) -> None:
    """Fills a uint8 array from a file."""
    view = target.data
    while view.nbytes:
        count = file.readinto(view)  # type: ignore[attr-defined]
        if not count:
            raise InputError(
                f"{os.fspath(file.name)} ends inside a tensor: it was cut off after it was opened. Copy it again."
            )
        view = view[count:]


def _unsupported(tensor: str, kind: str) -> InputError:
    return InputError(
        f"The tensor {tensor} has the {kind}, which the installed version of the package gguf cannot decode. Supported "
        "are F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K to Q6_K and others: pip install --upgrade gguf, or get "
        "the model in one of these types."
    )
