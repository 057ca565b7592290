"""Specs of representations, such as `int(b=4,rule=quest)`, and checks of their options."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

from compressed_lm import specs
from compressed_lm.errors import InputError
from compressed_lm.specs import did_you_mean, text
from compressed_lm.weights import grids

_FLOAT_NAME = re.compile(r"\s*e(\d)m(\d)\s*(?:\(([^()]*)\))?\s*")
EXAMPLE = "dense, int(b=4,rule=quest) or sparse(s=0.5)+int(b=4)"


def to_spec(rep: Any) -> str:
    """Returns the canonical spec of a representation: its name and the options that are not the default."""
    options = [
        f"{option}={text(getattr(rep, field.name))}"
        for option, field in _options(type(rep)).items()
        if getattr(rep, field.name) != field.default
    ]
    return f"{rep.name}({','.join(options)})" if options else rep.name


def _options(family: type) -> dict[str, dataclasses.Field]:
    """Returns the fields of a family by the names of the options, its own fields before those of its base class."""
    fields = sorted(dataclasses.fields(family), key=lambda field: field.kw_only is True)
    return {field.metadata.get("option", field.name): field for field in fields}


def parse(spec: str, families: Mapping[str, type]) -> Any:
    """Returns the representation of a spec without `+`.

    `e4m3` is short for `fp(e=4,m=3)`, and so on for other float grids; if there is a known format of this name, it is
    that one (`grids.NAMED`).

    Args:
        spec: such as `int(b=4,rule=quest)`.
        families: dataclasses by name; their fields are the options.

    Raises:
        InputError: see `compressed_lm.specs.parse`.
    """
    # Annotations of these fields are classes, not strings.
    options = {
        name: {key: specs.Option(cast(type, field.type), field.default) for key, field in _options(family).items()}
        for name, family in families.items()
    }
    if short := _FLOAT_NAME.fullmatch(spec):
        e, m, others = int(short[1]), int(short[2]), short[3] or ""
        nan = f"nan={grids.NAMED[e, m]}," if (e, m) in grids.NAMED and "nan" not in others else ""
        spec = f"fp(e={e},m={m},{nan}{others})"
    name, given = specs.parse(spec, options, noun="representation", example=EXAMPLE)
    known = _options(families[name])
    return families[name](**{known[key].name: value for key, value in given.items()})


def check_choice(name: str, option: str, value: str, valid: Iterable[str]) -> None:
    """Raises InputError unless the value of an option is one of the valid values."""
    valid = list(valid)
    if value not in valid:
        raise InputError(
            f"{option}={value} was given to the representation {name}.{did_you_mean(str(value), valid)} "
            f"Valid: {', '.join(valid)}."
        )


def check_range(name: str, option: str, value: float, low: float, high: float) -> None:
    """Raises InputError unless low <= value <= high; NaN raises too."""
    if not low <= value <= high:
        raise InputError(
            f"{option}={value} was given to the representation {name}; expected a number from {text(low)} to "
            f"{text(high)}."
        )
