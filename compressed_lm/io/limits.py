"""Memory limits for untrusted files: small files that unpack to gigabytes are refused."""

import contextvars
import os

from compressed_lm.errors import InputError

VARIABLE = "COMPRESSED_LM_MAX_BYTES"
HELP = f"the environment variable {VARIABLE} sets another limit"
DEFAULT = 256 << 20
JSON_LINE = 128_000_000
"""A worker reads, encodes and checks a line of this size in 1.5 GB of memory."""

RATIO = 64
"""Expansion that is always allowed: unpacked bytes per byte of a file. Real text and weights compress less."""

PROMISED: contextvars.ContextVar[int | None] = contextvars.ContextVar("promised", default=None)
"""Size in bytes of a file's text, from its header: a limit for codecs whose ids do not determine it."""


def document(default: int = DEFAULT) -> int:
    """Returns the largest size in bytes of an unpacked small file, or of another document with its own default.

    Raises:
        InputError: `VARIABLE` is not a number of bytes.
    """
    given = os.environ.get(VARIABLE)
    if given is None:
        return default
    try:
        value = int(float(given))
    except (ValueError, OverflowError):
        value = 0
    if value < 1:
        raise InputError(f"{VARIABLE}={given} was set; expected a number of bytes, such as 4e9.")
    return value


def expanded(size: int) -> int:
    """Returns the largest unpacked size in bytes of a file of `size` bytes."""
    return max(document(), RATIO * size)
