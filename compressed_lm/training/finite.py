"""Checks that parameters are finite."""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from compressed_lm.errors import InputError
from compressed_lm.models.partitioning import path_name

_EXPONENTS = {"float32": (np.uint32, 0x7F800000), "bfloat16": (np.uint16, 0x7F80), "float16": (np.uint16, 0x7C00)}
"""Unsigned type of the same size, and the bits of the exponent, of each float type."""
_CHUNK = 1 << 20  # numbers


def check_finite(params: Any, directory: str | os.PathLike) -> None:
    """Raises InputError if a number is not finite, with the name of the first such parameter.

    Args:
        params: tree of arrays.
        directory: folder of the parameters, for the message.
    """
    for keys, leaf in jax.tree.leaves_with_path(params):
        check_leaf(leaf, path_name(keys), directory)


def check_leaf(leaf: np.ndarray | jax.Array, name: str, directory: str | os.PathLike) -> None:
    """Raises InputError if a number of a parameter is not finite.

    Args:
        leaf: the parameter.
        name, directory: its name and folder, for the message.
    """
    n_wrong = _n_not_finite(leaf) if isinstance(leaf, np.ndarray) else int(leaf.size - jnp.isfinite(leaf).sum())
    if n_wrong:
        raise InputError(
            f"{n_wrong:,} of the {leaf.size:,} numbers of {name} in {directory} are NaN or infinite. Use a checkpoint "
            "from before the run diverged, or train it again with a lower learning rate."
        )


def _n_not_finite(array: np.ndarray) -> int:
    """Returns how many numbers are NaN or infinite: all bits of their exponent are set. Needs little memory."""
    words, exponent = _EXPONENTS[array.dtype.name]
    flat, mask = np.ascontiguousarray(array).reshape(-1).view(words), words(exponent)
    return sum(int(((flat[i : i + _CHUNK] & mask) == mask).sum()) for i in range(0, flat.size, _CHUNK))
