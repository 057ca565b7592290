"""How much memory a file of somebody else may ask for: small files that unpack to gigabytes are refused."""

import contextvars
import os

from compressed_lm.errors import InputError

VARIABLE = "COMPRESSED_LM_MAX_BYTES"
HELP = f"the environment variable {VARIABLE} sets another limit"
DEFAULT = 256 << 20
RATIO = 64
"""Bytes that a byte of a file may always stand for: real text and weights compress by less."""


PROMISED: contextvars.ContextVar[int | None] = contextvars.ContextVar("promised", default=None)
"""Bytes of text that a file says its ids stand for: codecs whose ids do not tell stop there."""


def document() -> int:
    """Most bytes of one line of JSON, and of what a small file unpacks to.

    Raises:
        InputError: `VARIABLE` is no number of bytes.
    """
    given = os.environ.get(VARIABLE)
    if given is None:
        return DEFAULT
    try:
        value = int(float(given))
    except (ValueError, OverflowError):
        value = 0
    if value < 1:
        raise InputError(f"{VARIABLE}={given} was set; expected a number of bytes, such as 4e9.")
    return value


def expanded(size: int) -> int:
    """Most bytes that a file of `size` bytes may unpack to."""
    return max(document(), RATIO * size)
