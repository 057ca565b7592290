"""Folders of safetensors files as Hugging Face writes them: one `model.safetensors`, or several files with an index.

The package `safetensors` (extra [hf]) is imported when a folder is read or written.
"""

import functools
import json
import math
import os
import pathlib
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from compressed_lm import io
from compressed_lm.errors import InputError
from compressed_lm.io import limits, local_path, strict_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
CONFIG, GENERATION = "config.json", "generation_config.json"
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"),
    *("chat_template.jinja", "chat_template.json"),
)

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""NumPy's name of each type that is read."""


class _Place(NamedTuple):
    """Place of a tensor: file, offset of its bytes in the file, shape and type."""

    path: pathlib.Path
    offset: int
    shape: tuple[int, ...]
    dtype: str


class Tensors:
    """Tensors of a folder. Each is read from its file on access: no tensor stays in memory, and no file is mapped.

    Attributes:
        shapes: shape of each tensor, by name.
        dtypes: type of each tensor: float64, float32, float16, bfloat16, or a type that is refused on access.
        nbytes: size of the files in bytes.

    Raises:
        InputError: there are no safetensors files, or one is missing, truncated or of another format.
    """

    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    nbytes: int

    def __init__(self, folder: str | os.PathLike):
        package, root = _safetensors(), pathlib.Path(local_path(folder, "The checkpoint"))
        names, self._places, self.nbytes = _names(root), dict[str, _Place](), 0
        for path in names or [io.inside(root, SINGLE)]:
            if not path.exists() and names:
                raise InputError(f"{path} is missing, but {root / INDEX} lists it. Copy the whole checkpoint again.")
            if not path.exists():
                pickled = ", only pickled files (.bin), which are not supported" if any(root.glob("*.bin")) else ""
                raise InputError(
                    f"{root} has no safetensors files{pickled}; expected {SINGLE}, or several files with {INDEX}."
                )
            try:
                with package.safe_open(os.fspath(path), framework="np"):  # checks sizes, offsets and types
                    self._places |= _header(path)
            except (package.SafetensorError, ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{path} cannot be read ({error}): it was truncated or is not a safetensors file. Copy it again."
                ) from error
            self.nbytes += path.stat().st_size
        lost = sorted({name for group in names.values() for name in group} - self._places.keys())
        if lost:
            raise InputError(
                f"{root / INDEX} lists {lost[0]}, but none of its files has it. Copy the whole checkpoint again."
            )
        self.shapes = {name: place.shape for name, place in self._places.items()}
        self.dtypes = {name: place.dtype for name, place in self._places.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        """Returns a tensor in its type of `dtypes`."""
        path, offset, shape, dtype = self._places[name]
        if dtype not in DTYPES.values():
            raise InputError(
                f"The tensor {name} has the type {dtype}; expected one of {', '.join(DTYPES)}. Convert the checkpoint."
            )
        stored = _numpy_type(dtype)
        nbytes = math.prod(shape) * stored.itemsize
        if offset + nbytes <= path.stat().st_size:  # `np.fromfile` asks for the memory first
            raw = np.fromfile(path, np.uint8, nbytes, offset=offset)
            if raw.nbytes == nbytes:
                return raw.view(stored).reshape(shape)
        raise InputError(f"{path} was truncated after it was opened. Copy it again.")


class SafetensorsFolder(Tensors):
    """A `Checkpoint` in a folder: config.json, safetensors files and the tokenizer's files.

    Attributes:
        config: content of config.json.
        generation: content of generation_config.json; {} if there is none.

    Raises:
        InputError: as `Tensors`; config.json is missing or invalid; or the folder is a run.
    """

    def __init__(self, folder: str | os.PathLike):
        self._root = pathlib.Path(local_path(folder, "The checkpoint"))
        self.config: Mapping[str, Any] = self._json(CONFIG)
        if "model_type" not in self.config and {"train", "model", "data"} <= self.config.keys():
            raise InputError(
                f"{folder} is a run of compressed_lm already, not a checkpoint. Use it without importing it."
            )
        self.generation: Mapping[str, Any] = self._json(GENERATION) if (self._root / GENERATION).exists() else {}
        super().__init__(folder)

    def tokenizer_files(self) -> dict[str, bytes]:
        """Returns the files of `TOKENIZER_FILES` by name, as far as they exist."""
        return {name: self._bytes(name) for name in TOKENIZER_FILES if (self._root / name).exists()}

    def _bytes(self, name: str) -> bytes:
        """Returns the content of a file. Raises InputError if it is too large or cannot be read."""
        path = io.inside(self._root, name)
        try:
            size = path.stat().st_size
            if size > limits.document():
                raise InputError(
                    f"{path} has {size:,} bytes; expected at most {limits.document():,} ({limits.HELP}). Copy it again."
                )
            return path.read_bytes()
        except FileNotFoundError:
            raise InputError(
                f"{self._root} was given as a Hugging Face checkpoint, but has no {name}; give a folder with "
                "config.json and *.safetensors, as `save_pretrained` writes it."
            ) from None

    def _json(self, name: str) -> dict[str, Any]:
        """Returns the object in a file. Raises InputError if it holds none."""
        try:
            return strict_json.parse(self._bytes(name))
        except InputError:
            raise
        except ValueError as error:
            raise InputError(f"{self._root / name} is not valid JSON ({error}). Copy it again.") from error


def _header(path: pathlib.Path) -> dict[str, _Place]:
    """Returns the places of the tensors of a file that `safe_open` accepts, so that its header is small and valid."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = strict_json.parse(file.read(length))
    return {
        name: _Place(
            path,
            8 + length + entry["data_offsets"][0],
            tuple(entry["shape"]),
            DTYPES.get(entry["dtype"], entry["dtype"]),
        )
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _safetensors() -> ModuleType:
    """Returns the package safetensors."""
    try:
        import safetensors.numpy  # `safe_open` is in `safetensors` itself
    except ImportError:
        raise InputError(
            "The package safetensors is not installed, but Hugging Face checkpoints need it. Install it: "
            "pip install 'compressed_lm[hf]'."
        ) from None
    return safetensors


def _names(folder: pathlib.Path) -> dict[pathlib.Path, list[str]]:
    """Returns the names of the tensors in each file, from the index; {} if there is no index."""
    if not (folder / INDEX).exists():
        return {}
    files: dict[pathlib.Path, list[str]] = {}
    try:
        for name, file in strict_json.parse(io.inside(folder, INDEX).read_bytes())["weight_map"].items():
            files.setdefault(io.inside(folder, file), []).append(name)
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / INDEX} cannot be read ({error!r}). Copy it again.") from error
    return files


class Described(NamedTuple):
    """A tensor to write: name, shape, type (float32, bfloat16, float16 or float64), and a function that returns it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    make: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * _numpy_type(self.dtype).itemsize


def write_tensors(folder: str | os.PathLike, tensors: Mapping[str, np.ndarray], *, max_bytes: int) -> list[str]:
    """Writes tensors, in their own types, as `write_described` does."""
    described = [
        Described(name, x.shape, x.dtype.name, functools.partial(tensors.__getitem__, name))
        for name, x in tensors.items()
    ]
    return write_described(folder, described, max_bytes=max_bytes)


def write_described(
    folder: str | os.PathLike,
    tensors: Iterable[Described],
    *,
    max_bytes: int,
    advance: Callable[[int], None] = lambda nbytes: None,
) -> list[str]:
    """Writes tensors to one file, or to several files and an index; one tensor at a time is in memory.

    Args:
        folder: an existing folder.
        tensors: the tensors. In a file, wider types come first, so that all numbers are aligned.
        max_bytes: largest size of a file in bytes, unless one tensor is larger.
        advance: called with the size of each tensor after it was written.

    Returns:
        The names of the files.

    Raises:
        ValueError: a tensor has another shape than described.
    """
    package, root, left = _safetensors(), pathlib.Path(folder), 0
    parts: list[list[Described]] = []
    for tensor in tensors:
        if tensor.nbytes > left:
            parts.append([])
            left = max_bytes
        parts[-1].append(tensor)
        left -= tensor.nbytes
    several = [f"model-{i + 1:05d}-of-{len(parts):05d}.safetensors" for i in range(len(parts))]
    files = several if len(parts) > 1 else [SINGLE]
    for file, part in zip(files, parts, strict=True):
        _write_file(root / file, sorted(part, key=lambda tensor: -_numpy_type(tensor.dtype).itemsize), advance)
        with package.safe_open(os.fspath(root / file), framework="np"):
            pass  # it accepts the file
    if len(files) > 1:
        index = {
            "metadata": {"total_size": sum(tensor.nbytes for part in parts for tensor in part)},
            "weight_map": {tensor.name: file for file, part in zip(files, parts, strict=True) for tensor in part},
        }
        (root / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    return files


def _write_file(path: pathlib.Path, tensors: Sequence[Described], advance: Callable[[int], None]) -> None:
    """Writes one file: length of the header, header, and the tensors' bytes without gaps."""
    names = {theirs: ours for ours, theirs in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.nbytes
        entry = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        header[tensor.name] = entry
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors:
            array = np.ascontiguousarray(tensor.make(), _numpy_type(tensor.dtype))
            if array.shape != tensor.shape:
                raise ValueError(f"{tensor.name} has the shape {array.shape}, and was described as {tensor.shape}")
            file.write(array.reshape(-1).view(np.uint8).data)
            advance(tensor.nbytes)


def _numpy_type(name: str) -> np.dtype:
    """Returns the little-endian NumPy type of a name in `DTYPES`."""
    return np.dtype(getattr(ml_dtypes, name, name)).newbyteorder("<")
