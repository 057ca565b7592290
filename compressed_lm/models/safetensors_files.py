"""Folders of safetensors files: one `model.safetensors`, or several with an index, as Hugging Face writes them.

The package `safetensors` (extra [hf]) is imported when a folder is read or written.
"""

import errno
import json
import os
from collections.abc import Mapping

import ml_dtypes  # noqa: F401  teaches NumPy bfloat16
import numpy as np
from etils import epath

from compressed_lm import io
from compressed_lm.errors import InputError
from compressed_lm.io import local_path, strict_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = ("F64", "F32", "F16", "BF16")


class Tensors:
    """The tensors of a folder, read when they are asked for.

    Attributes:
        shapes: shape of each, by name.

    Raises:
        InputError: there are no safetensors files, or one is missing, cut short or of another format.
    """

    def __init__(self, folder: str | os.PathLike):
        package, folder = _safetensors(), epath.Path(local_path(folder, "The checkpoint"))
        names, self._files, self.shapes = _names(folder), {}, {}
        for path in names or [folder / SINGLE]:
            if not path.exists() and names:
                raise InputError(f"{path} is missing, and {folder / INDEX} names it. Copy the whole checkpoint.")
            if not path.exists():
                pickled = " but pickled ones (.bin), which are not read" if any(folder.glob("*.bin")) else ""
                raise InputError(
                    f"{folder} holds no safetensors files{pickled}; expected {SINGLE}, or several with {INDEX}."
                )
            try:
                file = package.safe_open(os.fspath(path), framework="np")
            except package.SafetensorError as error:
                raise InputError(
                    f"{path} cannot be read ({error}): it was cut short or is no safetensors file. Copy it again."
                ) from error
            for name in file.keys():  # noqa: SIM118  it is no mapping
                self._files[name], self.shapes[name] = file, tuple(file.get_slice(name).get_shape())
        lost = sorted({name for group in names.values() for name in group} - self.shapes.keys())
        if lost:
            raise InputError(f"{folder / INDEX} names {lost[0]}, which none of its files holds. Copy the checkpoint.")

    def __getitem__(self, name: str) -> np.ndarray:
        """Returns float32[...], converted where the file has other floats."""
        found = self._files[name].get_slice(name).get_dtype()
        if found not in DTYPES:
            raise InputError(f"The tensor {name} is of type {found}; expected one of {', '.join(DTYPES)}.")
        return self._files[name].get_tensor(name).astype(np.float32)


def _safetensors():
    """Returns the package of that name."""
    try:
        import safetensors.numpy  # `safe_open` is in `safetensors` itself
    except ImportError:
        raise InputError(
            "The package safetensors is not installed, and checkpoints of Hugging Face need it. Install it: "
            "pip install 'compressed_lm[hf]'."
        ) from None
    return safetensors


def _names(folder):
    """Returns the names of the tensors of each file as the index has them; {} where there is no index."""
    if not (folder / INDEX).exists():
        return {}
    files = {}
    try:
        for name, file in strict_json.parse(io.inside(folder, INDEX).read_text())["weight_map"].items():
            files.setdefault(io.inside(folder, file), []).append(name)
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / INDEX} cannot be read ({error!r}). Copy it again.") from error
    return files


def write_tensors(folder: str | os.PathLike, tensors: Mapping[str, np.ndarray], *, max_bytes: int) -> list[str]:
    """Writes tensors in as many files as they need; with more than one, an index.

    Args:
        folder: where; it exists.
        tensors: float32 arrays by name.
        max_bytes: most bytes of a file, but for a tensor that is larger by itself.

    Returns:
        The names of the files.
    """
    package, folder, parts, room = _safetensors(), epath.Path(folder), [], 0
    for name, tensor in tensors.items():
        if tensor.nbytes > room:
            parts.append([])
            room = max_bytes
        parts[-1].append(name)
        room -= tensor.nbytes
    several = [f"model-{i + 1:05d}-of-{len(parts):05d}.safetensors" for i in range(len(parts))]
    files = several if len(parts) > 1 else [SINGLE]
    for file, names in zip(files, parts, strict=True):
        content = {name: np.ascontiguousarray(tensors[name]) for name in names}
        try:
            package.numpy.save_file(content, os.fspath(folder / file), metadata={"format": "pt"})
        except package.SafetensorError as error:  # it has the system's message inside
            full = os.strerror(errno.ENOSPC) in str(error)
            raise OSError(errno.ENOSPC if full else errno.EIO, str(error), os.fspath(folder / file)) from error
    if len(files) > 1:
        index = {
            "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())},
            "weight_map": {name: file for file, names in zip(files, parts, strict=True) for name in names},
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    return files
