"""Folders of safetensors files as Hugging Face writes them: one `model.safetensors`, or several files with an index.

The package `safetensors` (extra [hf]) is imported when a folder is read or written.
"""

import errno
import json
import os
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import ml_dtypes  # noqa: F401  registers bfloat16 with NumPy
import numpy as np
from etils import epath

from compressed_lm import io
from compressed_lm.errors import InputError
from compressed_lm.io import local_path, strict_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = ("F64", "F32", "F16", "BF16")


class Tensors:
    """Tensors of a folder, each read on access.

    Attributes:
        shapes: shape of each tensor, by name.

    Raises:
        InputError: there are no safetensors files, or one is missing, truncated or of another format.
    """

    shapes: dict[str, tuple[int, ...]]
    _files: dict[str, Any]

    def __init__(self, folder: str | os.PathLike):
        package, root = _safetensors(), epath.Path(local_path(folder, "The checkpoint"))
        names, self._files, self.shapes = _names(root), {}, {}
        for path in names or [root / SINGLE]:
            if not path.exists() and names:
                raise InputError(f"{path} is missing, but {root / INDEX} lists it. Copy the whole checkpoint again.")
            if not path.exists():
                pickled = ", only pickled files (.bin), which are not supported" if any(root.glob("*.bin")) else ""
                raise InputError(
                    f"{root} has no safetensors files{pickled}; expected {SINGLE}, or several files with {INDEX}."
                )
            try:
                file = package.safe_open(os.fspath(path), framework="np")
            except package.SafetensorError as error:
                raise InputError(
                    f"{path} cannot be read ({error}): it was truncated or is not a safetensors file. Copy it again."
                ) from error
            for name in file.keys():  # noqa: SIM118  the file is not a mapping
                self._files[name], self.shapes[name] = file, tuple(file.get_slice(name).get_shape())
        lost = sorted({name for group in names.values() for name in group} - self.shapes.keys())
        if lost:
            raise InputError(
                f"{root / INDEX} lists {lost[0]}, but none of its files has it. Copy the whole checkpoint again."
            )

    def __getitem__(self, name: str) -> np.ndarray:
        """Returns a tensor as float32; other float types are converted."""
        found = self._files[name].get_slice(name).get_dtype()
        if found not in DTYPES:
            raise InputError(
                f"The tensor {name} has the type {found}; expected one of {', '.join(DTYPES)}. Convert the checkpoint."
            )
        return self._files[name].get_tensor(name).astype(np.float32)


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


def _names(folder: epath.Path) -> dict[epath.Path, list[str]]:
    """Returns the names of the tensors in each file, from the index; {} if there is no index."""
    if not (folder / INDEX).exists():
        return {}
    files: dict[epath.Path, list[str]] = {}
    try:
        for name, file in strict_json.parse(io.inside(folder, INDEX).read_text())["weight_map"].items():
            files.setdefault(io.inside(folder, file), []).append(name)
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / INDEX} cannot be read ({error!r}). Copy it again.") from error
    return files


def write_tensors(folder: str | os.PathLike, tensors: Mapping[str, np.ndarray], *, max_bytes: int) -> list[str]:
    """Writes tensors to one file, or to several files and an index.

    Args:
        folder: an existing folder.
        tensors: float32 arrays by name.
        max_bytes: largest size of a file in bytes, unless one tensor is larger.

    Returns:
        The names of the files.
    """
    package, root, left = _safetensors(), epath.Path(folder), 0
    parts: list[list[str]] = []
    for name, tensor in tensors.items():
        if tensor.nbytes > left:
            parts.append([])
            left = max_bytes
        parts[-1].append(name)
        left -= tensor.nbytes
    several = [f"model-{i + 1:05d}-of-{len(parts):05d}.safetensors" for i in range(len(parts))]
    files = several if len(parts) > 1 else [SINGLE]
    for file, names in zip(files, parts, strict=True):
        content = {name: np.ascontiguousarray(tensors[name]) for name in names}
        try:
            package.numpy.save_file(content, os.fspath(root / file), metadata={"format": "pt"})
        except package.SafetensorError as error:  # its text contains the system's message
            full = os.strerror(errno.ENOSPC) in str(error)
            raise OSError(errno.ENOSPC if full else errno.EIO, str(error), os.fspath(root / file)) from error
    if len(files) > 1:
        index = {
            "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())},
            "weight_map": {name: file for file, names in zip(files, parts, strict=True) for name in names},
        }
        (root / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    return files
