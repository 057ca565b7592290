"""Settings: dataclass fields with a type, a range and choices.

A dataclass declares each field with its type and, by `setting`, its allowed values, and calls `check` in its
`__post_init__`. Command lines and gin bindings also call `checked`, so that a wrong value always gets the same message.
"""

import dataclasses
import math
import numbers
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any

from compressed_lm.errors import InputError
from compressed_lm.specs import did_you_mean

LARGEST = 2**31 - 1
"""Default upper limit of whole numbers: JAX counts steps, rows and ids in 32 bits."""

LARGEST_BYTES = 2**63 - 1
LARGEST_FLOAT = 3.4e38  # of float32, in which models compute
BOOLEANS = dict(true=True, yes=True, on=True, false=False, no=False, off=False) | {"1": True, "0": False}
_WRONG = object()


@dataclasses.dataclass(frozen=True)
class Limits:
    """Allowed values of a setting.

    Attributes:
        low, high: smallest and largest number, inclusive.
        above, below: exclusive bounds.
        choices: all allowed values; empty for any.
        parse: parser of a setting that may also be text in a format of its own; called with (text, name), raises
            InputError.
    """

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple = ()
    parse: Callable[[str, str], object] | None = None

    def allow(self, value: Any, kind: Any) -> bool:
        """Returns whether a value of the right type is within the limits. NaN is not."""
        if typing.get_origin(kind) is tuple:
            return all(self.allow(item, typing.get_args(kind)[0]) for item in value)
        if self.choices:
            return value in self.choices
        if kind not in (int, float):
            return True
        low, high = self._range(kind)
        return low <= value <= high and not (self.above is not None and value <= self.above or value == self.below)

    def _range(self, kind: Any) -> tuple[float, float]:
        largest: float = LARGEST if kind is int else LARGEST_FLOAT
        high = self.below if self.high is None else self.high
        return -largest if self.low is None else self.low, largest if high is None else high

    def describe(self, kind: Any) -> str:
        """Returns the expected values of a type, for messages."""
        if self.choices:
            return f"one of {', '.join(map(str, self.choices))}"
        if kind is bool:
            return "true or false (also yes, no, on, off, 1, 0)"
        if kind not in (int, float):
            return "text" if kind is str else f"a {kind.__name__}"
        noun, (low, high) = ("a whole number" if kind is int else "a number"), self._range(kind)
        lower = f" above {_written(self.above)}" if self.above is not None else ""
        if not lower and (kind is int or self.low is not None):
            lower = f" from {_written(low)}"
        if self.below is not None:
            return f"{noun}{lower or ' '}{' on,' if self.low is not None else ','} below {_written(self.below)}"
        if kind is int or self.high is not None:
            return (
                f"{noun}{lower}{',' if self.above is not None else ''} {'at most' if 'above' in lower else 'to'} "
                + (_written(high))
            )
        return f"{noun}{lower}" + (" on" if self.low is not None else "") if lower else "a finite number"


_NO_LIMITS = Limits()


def setting(default: Any = dataclasses.MISSING, **limits: Any) -> Any:
    """Returns a dataclass field with limits.

    Args:
        default: its default; without one the field is required.
        **limits: fields of `Limits`.
    """
    if "choices" in limits:
        limits["choices"] = tuple(limits["choices"])
    return dataclasses.field(default=default, metadata={"limits": Limits(**limits)})


def check(config: Any) -> None:
    """Checks every field of a dataclass, and converts each value to its declared type; for `__post_init__`.

    Raises:
        InputError: a value has the wrong type or is outside its limits.
    """
    for field in dataclasses.fields(config):
        object.__setattr__(config, field.name, checked_field(field, getattr(config, field.name)))


def checked_field(field: dataclasses.Field, value: Any, *, name: str = "") -> Any:
    """Returns the checked value of a dataclass field; messages use the field's name, or `name` if it is given."""
    return checked(name or field.name, value, field.type, field.metadata.get("limits", _NO_LIMITS))


def checked(name: str, value: Any, kind: Any, limits: Limits = _NO_LIMITS) -> Any:
    """Returns a value converted to its declared type.

    Whole numbers may be floats without a fraction (1e3), booleans may be words in any case, tuples may be lists.

    Args:
        name: name of the setting, for messages.
        value: value to check.
        kind: int, float, bool, str, another class, a tuple of one of them (`tuple[str, ...]`), or a union.
        limits: its allowed values.

    Raises:
        InputError: the value has the wrong type or is outside the limits; the message says what is expected.
    """
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if limits.parse and isinstance(value, str) and str in kinds:
        limits.parse(value, name)
        return value
    for one in kinds:
        found = _read(value, one)
        if found is not _WRONG and (found is None or limits.allow(found, one)):
            return found
    expected = " or ".join(_expected(one, limits) for one in kinds if not (limits.parse and one is str))
    if limits.parse:
        expected += ", or text such as '20M tokens', '2 epochs' or '10%'"
    hint = did_you_mean(value, limits.choices) if isinstance(value, str) and limits.choices else ""
    raise InputError(f"{name}={shown(value)} was given; expected {expected}.{hint}")


def number(text: str, kind: type, limits: Limits = _NO_LIMITS) -> int | float:
    """Returns the number in a command-line argument. Raises ValueError with the expected values."""
    value: int | float | None
    try:
        value = int(text) if kind is int else float(text)
    except ValueError:
        value = None
    if value is None or not limits.allow(value, kind):
        raise ValueError(f"{shown(text)} was given; expected {limits.describe(kind)}")
    return value


def shown(value: object, most: int = 60) -> str:
    """Returns `repr(value)` for messages, cut to `most` characters."""
    try:
        written = repr(value)
    except ValueError:  # Python does not convert integers of thousands of digits
        written = "a number of thousands of digits"
    return written if len(written) <= most else written[:most] + "..."


def _expected(kind: Any, limits: Limits) -> str:
    if kind is types.NoneType:
        return "None"
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        return f"several in brackets, such as {_EXAMPLES[item]}, each {limits.describe(item)}"
    return limits.describe(kind)


_EXAMPLES = {str: "('bytes',)", int: "(1, 2)", float: "(0.5,)"}


def _read(value: Any, kind: Any) -> Any:
    """Returns the value converted to a type, or _WRONG if it has another one."""
    if kind is types.NoneType:
        return None if value is None else _WRONG
    if typing.get_origin(kind) is tuple:
        items = [_read(item, typing.get_args(kind)[0]) for item in value] if _several(value) else [_WRONG]
        return _WRONG if any(item is _WRONG for item in items) else tuple(items)
    if kind is bool:
        word = str(value).lower() if isinstance(value, bool | int | str) else ""
        return BOOLEANS.get(word, _WRONG)
    if kind is str:
        return value if isinstance(value, str) else _WRONG
    if kind not in (int, float):
        return value if isinstance(value, kind) else _WRONG
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return _WRONG
    real: Any = value  # `numbers.Real` does not declare `__int__`
    if kind is int:
        return int(real) if isinstance(real, numbers.Integral) or float(real).is_integer() else _WRONG
    # A whole number stays an int: the config hashes of runs depend on it.
    return int(real) if isinstance(real, numbers.Integral) else float(real)


def _several(value: object) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | bytes)


def _written(value: float) -> str:
    return f"{int(value):,}" if math.isfinite(value) and value == int(value) and abs(value) < 1e15 else f"{value:g}"
