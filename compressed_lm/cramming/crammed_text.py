"""Files of crammed texts: packed vectors, the fingerprint of the model that reads them, and a checksum of the text.

A file is an `io.container` with one tensor, the numbers of the vectors. Its header has their format, the mapping to
vectors, the number of tokens, the model, the codec, and the first bytes of the SHA-256 of the token ids.
"""

import dataclasses
import hashlib
import os
from typing import Any

import numpy as np

from compressed_lm import settings, weights
from compressed_lm.cramming.config import CramConfig, storable
from compressed_lm.cramming.frozen import FrozenModel, write
from compressed_lm.cramming.result import Crammed
from compressed_lm.cramming.vectors import Mapping, pack
from compressed_lm.errors import InputError
from compressed_lm.io.container import Kind

MAGIC = b"\x89CLT\r\n\x1a\n"
FORMAT_VERSION = 1
_FILE = Kind(MAGIC, FORMAT_VERSION, "a crammed text", "`compressed-lm cram`", "cram the text again", deflated=True)
_MODEL_DIGITS, _TEXT_DIGITS = 32, 8  # hex digits that are kept of the fingerprints
_NAME = "vectors"
_LARGEST = 1 << 20  # numbers of a vector
_TOKENS_PER_BYTE = 64  # more than any vector holds; it bounds the memory for the tokens that a file claims


@dataclasses.dataclass(frozen=True)
class CrammedText:
    """Content of a file.

    Attributes:
        packed: the numbers [K, M] in their format.
        mapping: mapping from numbers to vectors.
        n_tokens: N.
        model: first hex digits of the model's fingerprint.
        codec_spec: spec of the model's codec.
        text: first hex digits of the SHA-256 of the ids.
    """

    packed: weights.PackedTensor
    mapping: Mapping
    n_tokens: int
    model: str
    codec_spec: str
    text: str

    @classmethod
    def of(cls, model: FrozenModel, found: Crammed, config: CramConfig, ids: np.ndarray) -> "CrammedText":
        """Returns the stored form of a text's result with these settings."""
        return cls(
            pack(found.numbers, config.format),
            Mapping.of(config, model.config.d_model),
            len(ids),
            model.fingerprint[:_MODEL_DIGITS],
            model.codec_spec,
            _digest(ids),
        )

    def write(self, model: FrozenModel) -> np.ndarray:
        """Returns int32[N], the tokens that the model generates after the vectors.

        Raises:
            InputError: this is another model, or it generates another text.
        """
        if model.fingerprint[:_MODEL_DIGITS] != self.model:
            raise InputError(
                f"The text was crammed for the model {self.model[:12]} with the codec {self.codec_spec}, and the model "
                f"given is {model.fingerprint[:12]} with {model.codec_spec}. Give the run that it was crammed for: its "
                "vectors do not work with any other model, even after further training."
            )
        if self.mapping.width != model.config.d_model:
            raise InputError(
                f"The file has vectors of {self.mapping.width} numbers; its model needs {model.config.d_model}: "
                "another program wrote it. Cram the text again."
            )
        ids = self.attempt(model)
        if _digest(ids) != self.text:
            raise InputError(
                "The model is the right one, but it generates another text: this device rounds differently. Read the "
                "file where it was written, or cram the text with a larger margin (--margin 0.1)."
            )
        return ids

    def attempt(self, model: FrozenModel) -> np.ndarray:
        """Returns int32[N], the tokens that a model of the right width generates, without any checks."""
        vectors = self.mapping.vectors(weights.unpack(self.packed))
        return write(model, [np.asarray(vectors)], [self.n_tokens])[0]

    def fits(self, model: FrozenModel) -> bool:
        """Returns whether the model generates exactly the text."""
        return _digest(self.attempt(model)) == self.text

    def save(self, path: str | os.PathLike) -> int:
        """Writes the file atomically and returns its size in bytes."""
        header = {
            "model": self.model,
            "codec": self.codec_spec,
            "text": self.text,
            "n_tokens": self.n_tokens,
            "width": self.mapping.width,
            "dimensions": self.mapping.dimensions,
            "projection_seed": self.mapping.seed,
            "tensors": [
                {"name": _NAME, "spec": self.packed.spec, "shape": self.packed.shape, "nbytes": self.packed.nbytes}
            ],
        }
        return _FILE.write(path, header, [self.packed.payload])

    @classmethod
    def load(cls, path: str | os.PathLike) -> "CrammedText":
        """Loads a file that `save` wrote.

        Raises:
            InputError: the file does not exist, is not a crammed text, has another version, was truncated or changed,
                or has an invalid header.
        """
        header, tensors = _FILE.read(path, _packed)
        try:
            mapping = Mapping(*(int(header[name]) for name in ("width", "dimensions", "projection_seed")))
            packed, n_tokens = tensors[_NAME], int(header["n_tokens"])
            if not 1 <= n_tokens <= _TOKENS_PER_BYTE * packed.nbytes or packed.shape[-1] != mapping.stored:
                raise ValueError(f"{n_tokens} tokens and numbers of shape {packed.shape} for {mapping}")
            if not 0 <= mapping.dimensions <= mapping.width <= _LARGEST or not 0 <= mapping.seed <= settings.LARGEST:
                raise ValueError(f"{n_tokens} tokens, {mapping} and numbers of shape {packed.shape}")
            return cls(packed, mapping, n_tokens, *(str(header[name]) for name in ("model", "codec", "text")))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} has an invalid header ({error!r}), though its checksum is right: another program wrote it. "
                "Cram the text again."
            ) from error


def _digest(ids: np.ndarray) -> str:
    return hashlib.sha256(np.asarray(ids, "<i4").tobytes()).hexdigest()[:_TEXT_DIGITS]


def _packed(entry: dict[str, Any], shape: tuple[int, ...], payload: bytes) -> weights.PackedTensor:
    if len(shape) != 2 or min(shape) < 1 or not isinstance(entry["spec"], str):
        raise ValueError(f"the entry {entry}")
    return weights.PackedTensor(str(storable(entry["spec"])), shape, -1, payload)
