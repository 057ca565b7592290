"""Spellings such as `eiw(b=16,v=65536)` and `int(b=4,rule=quest)`: a name with options."""

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from compressed_lm.errors import InputError


class Option(NamedTuple):
    """An option of a spelling: int, float or str, and its default; MISSING where it must be given."""

    kind: type
    default: object = dataclasses.MISSING


def parse(
    spec: str, families: Mapping[str, Mapping[str, Option]], *, noun: str, example: str
) -> tuple[str, dict[str, int | float | str]]:
    """Returns the name of a spelling, and the options that it gives.

    Args:
      spec: the spelling.
      families: name -> option -> what the option is.
      noun: what is spelled, for messages.
      example: a good spelling, for messages.

    Raises:
      InputError: the name or an option does not exist (with the list of those that do), an option that is needed or
        given twice, a value of the wrong type, or a spelling that cannot be read.
    """
    match = re.fullmatch(r"\s*(\w+)\s*(?:\(([^()]*)\))?\s*", spec)
    if not match:
        raise InputError(f"The {noun} {spec!r} cannot be read; a spelling such as {example} was expected.")
    name, inner = match[1], match[2] or ""
    if name not in families:
        raise InputError(f"There is no {noun} {name!r}.{did_you_mean(name, families)} Known: {', '.join(families)}.")
    known, options = families[name], {}
    defaults = {
        k: "..." if option.default is dataclasses.MISSING else text(option.default) for k, option in known.items()
    }
    listed = ", ".join(f"{k}={default}" for k, default in defaults.items())
    for item in filter(None, (part.strip() for part in inner.split(","))):
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or key not in known:
            raise InputError(
                f"The {noun} {name} has no option {item!r}.{did_you_mean(key, known)} Its options: {listed or 'none'}."
            )
        if key in options:
            raise InputError(f"The {noun} {spec!r} gives the option {key} twice; give it once.")
        try:
            options[key] = known[key].kind(value)
        except ValueError:
            expected = {int: "a whole number", float: "a number"}[known[key].kind]
            raise InputError(f"{key}={value} was given to the {noun} {name}; {expected} was expected.") from None
    missing = [k for k, option in known.items() if option.default is dataclasses.MISSING and k not in options]
    if missing:
        raise InputError(
            f"The {noun} {name} needs {', '.join(missing)}, which {spec!r} does not give. Its options: {listed}."
        )
    return name, options


def text(value) -> str:
    """Returns an option as it is written: numbers without a needless `.0`."""
    return repr(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Returns " Did you mean x?", x being the known name that is most like the one given; "" if none is."""
    close = difflib.get_close_matches(given, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]}?" if close else ""
