"""Spellings such as `sparse(s=0.5)+int(b=4,rule=quest)`: reading and writing."""

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping

from compressed_lm.errors import InputError

_FLOAT_NAME = re.compile(r"e(\d)m(\d)")


def spell(rep) -> str:
    """Returns the canonical spelling of a dataclass: its name, and the options that are not the default."""
    options = [
        f"{option}={_text(getattr(rep, field.name))}"
        for option, field in _options(type(rep)).items()
        if getattr(rep, field.name) != field.default
    ]
    return f"{rep.name}({','.join(options)})" if options else rep.name


def _options(family: type) -> dict[str, dataclasses.Field]:
    """Returns the fields of a family by the names that a spelling uses, its own before those of all families."""
    fields = sorted(dataclasses.fields(family), key=lambda field: field.kw_only)
    return {field.metadata.get("spelled", field.name): field for field in fields}


def parse(spec: str, families: Mapping[str, type]):
    """Returns the representation that a spelling without `+` names.

    `e4m3` is short for `fp(e=4,m=3)`, and likewise every float grid.

    Args:
        spec: such as `int(b=4,rule=quest)`.
        families: name -> dataclass whose fields are the options.

    Raises:
        InputError: the name or an option does not exist (with the list of those that do), a value of the wrong type,
            or a spelling that cannot be read.
    """
    match = re.fullmatch(r"\s*(\w+)\s*(?:\(([^()]*)\))?\s*", spec)
    if not match:
        raise InputError(
            f"The representation {spec!r} cannot be read; a spelling such as dense, int(b=4,rule=quest) or "
            "sparse(s=0.5)+int(b=4) was expected."
        )
    name, inner = match[1], match[2] or ""
    options: dict[str, float | int | str] = {}
    if (short := _FLOAT_NAME.fullmatch(name)) and "fp" in families:
        name, options = "fp", {"e": int(short[1]), "m": int(short[2])}
    if name not in families:
        raise InputError(
            f"There is no representation {name!r}.{_did_you_mean(name, families)} Known ones: {', '.join(families)}."
        )
    known = _options(families[name])
    for item in filter(None, (part.strip() for part in inner.split(","))):
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or key not in known:
            raise InputError(
                f"The representation {name} has no option {item!r}.{_did_you_mean(key, known)} Its options: "
                f"{_listed(known)}."
            )
        if key in options:
            raise InputError(f"The representation {spec!r} gives the option {key} twice; give it once.")
        options[key] = _value(name, key, value, known[key].type)
    missing = [k for k, field in known.items() if field.default is dataclasses.MISSING and k not in options]
    if missing:
        raise InputError(
            f"The representation {name} needs {', '.join(missing)}, which {spec!r} does not give. Its options: "
            f"{_listed(known)}."
        )
    return families[name](**{known[key].name: value for key, value in options.items()})


def _value(name, key, value, kind):
    """Returns the value of an option as its type."""
    try:
        return kind(value)
    except ValueError:
        expected = {int: "a whole number", float: "a number"}[kind]
        raise InputError(f"{key}={value} was given to the representation {name}; {expected} was expected.") from None


def _listed(known):
    """Returns the options of a family, with their defaults."""
    defaults = {k: "..." if f.default is dataclasses.MISSING else _text(f.default) for k, f in known.items()}
    return ", ".join(f"{k}={v}" for k, v in defaults.items()) or "none"


def _text(value):
    """Returns an option as it is written; numbers without a needless `.0`."""
    return repr(int(value)) if isinstance(value, float) and value == int(value) else str(value)


def _did_you_mean(given: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(given, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def check_choice(name: str, option: str, value: str, valid: Iterable[str]) -> None:
    """Raises InputError unless the value of an option is among the valid ones."""
    valid = list(valid)
    if value not in valid:
        raise InputError(
            f"{option}={value} was given to the representation {name}.{_did_you_mean(str(value), valid)} "
            f"Valid: {', '.join(valid)}."
        )


def check_range(name: str, option: str, value: float, low: float, high: float) -> None:
    """Raises InputError unless low <= value <= high (which NaN is not)."""
    if not low <= value <= high:
        raise InputError(
            f"{option}={value} was given to the representation {name}; expected a number from {_text(low)} to "
            f"{_text(high)}."
        )
