"""A GGUF file of llama.cpp as a checkpoint with Hugging Face's configuration and names."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from compressed_lm.errors import InputError
from compressed_lm.io import local_path
from compressed_lm.models.gguf import tokenizer
from compressed_lm.models.gguf.config import config_of
from compressed_lm.models.gguf.decode import Kind
from compressed_lm.models.gguf.header import Header, TensorPlace, read_header
from compressed_lm.models.gguf.metadata import Metadata
from compressed_lm.models.gguf.names import NAMES, ROPE_FREQS, Change, hugging_face_name
from compressed_lm.models.gguf.special_ids import generation_of

_SHOWN = 5  # names in a message
_MAX_FREQUENCIES = 1 << 16


class GgufFile:
    """A checkpoint in one GGUF file; see `models.checkpoint.Checkpoint`.

    Plain tensors keep their type, quantised ones are decoded to float32. Each is read on access.

    Attributes:
        path: the file.
        config: content of a Hugging Face config.json, from the metadata.
        generation: content of generation_config.json: end-of-text ids, as llama.cpp uses them.
        shapes: shape of each tensor by its Hugging Face name.
        dtypes: type of each tensor that `[]` returns.
        nbytes: size of the file.
        kinds: name of each tensor's type in the file, such as "Q4_K".
    """

    config: Mapping[str, Any]
    generation: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    nbytes: int

    def __init__(self, path: str | os.PathLike):
        """Opens a file.

        Args:
            path: the file.

        Raises:
            InputError: it is not a GGUF file, is truncated or contradicts itself, or uses an unsupported architecture,
                feature or tensor type.
        """
        self.path = pathlib.Path(local_path(path, "The GGUF file"))
        self._header = read_header(self.path)
        self._state = _state_of(self.path)
        self.nbytes = self._state[0]
        meta = Metadata(self._header)
        self._architecture = meta.architecture
        self._kinds = _checked_kinds(self._header, self.nbytes)
        self.config = config_of(meta, self._rope_freqs())
        self.generation = generation_of(self._header.metadata, self.config)
        self._names = _names(self._header, self._architecture)
        changes = {name: (own, Change(self._architecture, own, self.config)) for name, own in self._names.items()}
        self.shapes = {name: it.shape(self._header.tensors[own].shape, own) for name, (own, it) in changes.items()}
        self.dtypes = {name: it.dtype(self._kinds[own].dtype) for name, (own, it) in changes.items()}

    @property
    def kinds(self) -> dict[str, str]:
        return {name: self._kinds[own].name for name, own in self._names.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        """Returns a tensor by its Hugging Face name, in its type of `dtypes`.

        Raises:
            InputError: the file was changed after it was opened.
        """
        own = self._names[name]
        return Change(self._architecture, own, self.config).to_hugging_face(self._read(own))

    def tokenizer_files(self) -> dict[str, bytes]:
        """Returns tokenizer.json or tokenizer.model, and tokenizer_config.json; {} if the file has no vocabulary.

        Raises:
            InputError: the kind of tokenizer is not supported, or its metadata contradicts itself.
        """
        return tokenizer.tokenizer_files(self._header.metadata, self._architecture)

    def _rope_freqs(self) -> np.ndarray | None:
        place = self._header.tensors.get(ROPE_FREQS)
        if place is not None and (len(place.shape) > 1 or place.shape[0] > _MAX_FREQUENCIES):
            raise InputError(
                f"The tensor {ROPE_FREQS} has the shape {place.shape}; one number for each pair was expected."
            )
        return None if place is None else self._read(ROPE_FREQS).astype(np.float32)

    def _read(self, own: str) -> np.ndarray:
        place: TensorPlace = self._header.tensors[own]
        with open(self.path, "rb") as file:
            if _state_of(file.fileno()) != self._state:
                raise InputError(f"{self.path} was changed after it was opened. Run the same command again.")
            return self._kinds[own].read(file, self._header.data + place.offset, place.shape)


def _state_of(file: int | os.PathLike) -> tuple[int, int, int]:
    """Returns size, time of change and inode of a file."""
    found = os.stat(file)
    return found.st_size, found.st_mtime_ns, found.st_ino


def _checked_kinds(header: Header, nbytes: int) -> dict[str, Kind]:
    """Returns the type of each tensor.

    Raises:
        InputError: a type is not supported, or tensors overlap or are outside the file.
    """
    known: dict[int, Kind] = {}
    kinds, end = {}, 0
    for name, place in sorted(header.tensors.items(), key=lambda item: item[1].offset):
        if place.kind not in known:
            known[place.kind] = Kind(place.kind, name)
        kind = kinds[name] = known[place.kind]
        if place.offset < end:
            raise InputError(
                f"The tensor {name!r:.100} overlaps another one. Copy the GGUF file again from its source."
            )
        end = place.offset + kind.nbytes(place, name)
        if header.data + end > nbytes:
            raise InputError(
                f"The tensor {name!r:.100} ends after {header.data + end:,} bytes, and the GGUF file has {nbytes:,}: "
                "it was cut off. Copy it again from its source."
            )
    return kinds


def _names(header: Header, architecture: str) -> dict[str, str]:
    """Returns the name in the file of each tensor, by its Hugging Face name.

    Raises:
        InputError: the architecture has no such tensor.
    """
    found = {name: hugging_face_name(architecture, name) for name in header.tensors if name != ROPE_FREQS}
    unknown = [name for name, theirs in found.items() if theirs is None]
    if unknown:
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        raise InputError(
            f"The GGUF file has tensors that are unknown for the architecture {architecture}: "
            f"{', '.join(name[:100] for name in unknown[:_SHOWN])}{more}. It is of a variant that is not supported "
            f"(supported: {', '.join(NAMES)} as Hugging Face defines them)."
        )
    return {theirs: name for name, theirs in found.items() if theirs is not None}
