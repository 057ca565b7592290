"""Metadata of a GGUF file: the values of one architecture's keys."""

from typing import Any

import numpy as np

from compressed_lm.errors import InputError
from compressed_lm.models.gguf.header import Header, TensorPlace, single
from compressed_lm.models.gguf.names import NAMES


class Metadata:
    """Values of one architecture's keys, checked as they are read."""

    def __init__(self, header: Header):
        """Checks the architecture.

        Raises:
            InputError: the file is no model, is one part of several, or has an unsupported architecture.
        """
        self.values, self._tensors = header.metadata, header.tensors
        kind = single(self.values, "general.type", "model")
        if kind != "model":
            raise InputError(
                f"A GGUF file of the type {kind!r:.50} was given; expected a model. Give the model's file."
            )
        parts = single(self.values, "split.count", 0)
        if parts not in (0, 1):
            raise InputError(
                f"The GGUF file is one of {parts} parts. Join them first: llama-gguf-split --merge FIRST_PART OUT.gguf "
                "(of llama.cpp), and give OUT.gguf."
            )
        architecture = single(self.values, "general.architecture")
        if not isinstance(architecture, str) or architecture not in NAMES:
            raise InputError(
                f"A GGUF file of the architecture {architecture!r:.50} was given, which is not supported. "
                f"Supported: {', '.join(NAMES)}. Use a model of one of them."
            )
        self.architecture: str = architecture

    def raw(self, key: str, default: Any = None) -> Any:
        """Returns the value of a key of the architecture, such as "block_count"."""
        return self.values.get(f"{self.architecture}.{key}", default)

    def get(self, key: str, default: Any = None) -> Any:
        """Returns a value that is not an array.

        Raises:
            InputError: it is one.
        """
        return single(self.values, f"{self.architecture}.{key}", default)

    def number(self, key: str, default: int | None = None) -> int:
        """Returns a whole number of at least 1. An array of equal numbers, one for each layer, is a number, too.

        Raises:
            InputError: the key is missing, or has another value.
        """
        value = self.raw(key, default)
        if isinstance(value, np.ndarray) and value.size and value.dtype.kind in "iu" and (value == value[0]).all():
            value = value[0].item()
        if value is None:
            raise InputError(f"The GGUF file has no {self.architecture}.{key}. Copy it again from its source.")
        if type(value) is not int or not 1 <= value < 1 << 31:
            raise InputError(
                f"The GGUF file has {self.architecture}.{key} = {str(value)[:50]}; expected one whole number from 1 to "
                "2147483647. Models whose layers differ in size are not supported."
            )
        return value

    def real(self, key: str, default: float | None = None) -> float:
        """Returns a finite, positive number.

        Raises:
            InputError: the key is missing, or has another value.
        """
        value = self.get(key, default)
        if type(value) not in (int, float) or not 0 < value < float("inf"):
            raise InputError(
                f"The GGUF file has {self.architecture}.{key} = {str(value)[:50]}; expected a positive, finite number. "
                "Copy it again from its source."
            )
        return float(value)

    def tensor(self, name: str) -> TensorPlace:
        """Returns the place of a tensor.

        Raises:
            InputError: there is none.
        """
        if name not in self._tensors:
            raise InputError(f"The GGUF file has no tensor {name}. Copy it again from its source.")
        return self._tensors[name]

    def has(self, *names: str) -> bool:
        """Returns whether the first layer, or the file, has one of the tensors."""
        return any(name in self._tensors or f"blk.0.{name}" in self._tensors for name in names)

    def layers(self) -> int:
        """Returns the number of layers.

        Raises:
            InputError: there are more layers than tensors.
        """
        if (layers := self.number("block_count")) > len(self._tensors):
            raise InputError(
                f"The GGUF file has {layers} layers and only {len(self._tensors)} tensors. Copy it again from its "
                "source."
            )
        return layers
