"""Optional packages of the extra `hf`, imported when a corpus needs them."""

import importlib
from types import ModuleType

from compressed_lm.errors import InputError


def require(package: str, what: str, *, instead: str) -> ModuleType:
    """Returns an optional package.

    Args:
        package: its name.
        what: what needs it and why, as the beginning of a sentence.
        instead: what to do without it, as the end of a sentence.

    Raises:
        InputError: the package is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise InputError(
            f"{what}, and the package {package} that reads it could not be imported ({error}). Install it with "
            f"`pip install 'compressed_lm[hf]'`, or {instead}."
        ) from error
