"""Files of the vectors of cramming: the results of texts, and of the stages of progressive cramming (.npz).

| array | shape | contents |
|---|---|---|
| `numbers` | float32[K, M] | the best numbers |
| `vectors` | float32[K, D] | the model's input, from the numbers in their format |
| `stage_scores` | int32[S] | tokens that the numbers of each stage restore |
| `stage_numbers` | float32[S, K, M] | numbers of each stage |

In a file of several texts, the names begin with the text's index and a slash.
"""

import io as memory
import os
from collections.abc import Mapping, Sequence

import numpy as np

from compressed_lm import io
from compressed_lm.cramming.result import Crammed
from compressed_lm.errors import InputError
from compressed_lm.io import npz

NAMES = ("numbers", "vectors", "stage_scores", "stage_numbers")
MOST_BYTES = 1 << 28
"""Largest size of a file's arrays; stages are left out of a larger file."""


def write(path: str | os.PathLike, found: Crammed) -> None:
    """Writes the result of a text and its stages."""
    _write(path, [("", found)])


def write_all(path: str | os.PathLike, found: Sequence[Crammed]) -> None:
    """Writes the results of texts, with the stages if the file then has at most `MOST_BYTES`."""
    _write(path, [(f"{i}/", each) for i, each in enumerate(found)])


def read(path: str | os.PathLike) -> Mapping[str, np.ndarray]:
    """Returns the arrays of a file by name.

    Raises:
        InputError: the file cannot be read, is damaged, or holds other arrays.
    """
    content = io.read_bytes(path, "The file of vectors")
    try:
        arrays = npz.read_arrays(content)
    except ValueError as error:
        raise InputError(
            f"{io.shown(path)} is not a file of crammed vectors: {error}. Cram the texts again."
        ) from error
    wrong = [name for name, x in arrays.items() if name.split("/")[-1] not in NAMES or x.dtype.kind not in "fi"]
    if wrong:
        raise InputError(
            f"{io.shown(path)} has the array {wrong[0]}; expected only {', '.join(NAMES)}. Give a file of crammed "
            "vectors."
        )
    return arrays


def _write(path: str | os.PathLike, entries: Sequence[tuple[str, Crammed]]) -> None:
    arrays = {f"{prefix}{name}": np.asarray(getattr(each, name)) for prefix, each in entries for name in NAMES}
    if sum(x.nbytes for x in arrays.values()) > MOST_BYTES:
        arrays = {name: x for name, x in arrays.items() if not name.endswith("stage_numbers")}
    content = memory.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    io.write_atomic(path, content.getvalue())
