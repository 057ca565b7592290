"""Strict parser of untrusted JSON: one object, finite numbers only, bounded nesting."""

import json
import math
from typing import Any, NoReturn


def parse(text: str | bytes) -> dict[str, Any]:
    """Returns the object in a JSON text.

    Raises:
        ValueError: the text is not JSON, not UTF-8 or not an object, or it has NaN or infinity (which are not JSON), a
            lone surrogate, or nesting that is too deep for Python.
    """
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
        if (b"\\u" in text) if isinstance(text, bytes) else ("\\u" in text):  # an escape may be a lone surrogate
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"it holds {json.dumps(value)[:40]} where an object was expected")
    return value


def _finite(number: str) -> float:
    value = float(number)
    return value if math.isfinite(value) else _refuse(number)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"it holds {constant}, which is not a JSON number")
