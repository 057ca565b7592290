"""JSON of strangers: one object, of finite numbers, nested within reason."""

import json


def parse(text: str | bytes) -> dict:
    """The object that a JSON text holds.

    Raises:
      ValueError: no JSON, not UTF-8, another value than an object, NaN or infinity, which JSON has not, or nesting that
        Python cannot follow.
    """
    try:
        value = json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"it holds {json.dumps(value)[:40]} where an object was expected")
    return value


def _refuse(constant: str):
    raise ValueError(f"it holds {constant}, which is no number of JSON")
