"""JSON of strangers: one object, of finite numbers, nested within reason."""

import json
import math


def parse(text: str | bytes) -> dict:
    """The object that a JSON text holds.

    Raises:
        ValueError: no JSON, not UTF-8, another value than an object, NaN or infinity, which JSON has not, half of a
            surrogate pair, or nesting that Python cannot follow.
    """
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
        if (b"\\u" if isinstance(text, bytes) else "\\u") in text:  # it may spell half of a surrogate pair
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"it holds {json.dumps(value)[:40]} where an object was expected")
    return value


def _finite(number: str) -> float:
    value = float(number)
    return value if math.isfinite(value) else _refuse(number)


def _refuse(constant: str):
    raise ValueError(f"it holds {constant}, which is no number of JSON")
