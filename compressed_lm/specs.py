"""Specs such as `eiw(b=16,v=65536)` and `int(b=4,rule=quest)`: a name with options."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from compressed_lm.errors import InputError

if TYPE_CHECKING:
    from compressed_lm.settings import Limits


class Option(NamedTuple):
    """Option of a spec: its type (int, float or str), its default (MISSING if it is required) and its limits."""

    kind: type
    default: object = dataclasses.MISSING
    limits: "Limits | None" = None


def parse(
    spec: str, families: Mapping[str, Mapping[str, Option]], *, noun: str, example: str
) -> tuple[str, dict[str, int | float | str]]:
    """Returns the name in a spec, and the options that it sets.

    Args:
        spec: the spec.
        families: name -> option name -> `Option`.
        noun: what the spec describes, for messages.
        example: a valid spec, for messages.

    Raises:
        InputError: the spec cannot be parsed, the name or an option is unknown (the message lists the known ones), an
            option is missing or set twice, or a value has the wrong type or is outside its limits.
    """
    match = re.fullmatch(r"\s*(\w+)\s*(?:\(([^()]*)\))?\s*", spec)
    if not match:
        raise InputError(f"The {noun} {spec!r} cannot be read; a spec such as {example} was expected.")
    name, inner = match[1], match[2] or ""
    if name not in families:
        raise InputError(f"There is no {noun} {name!r}.{did_you_mean(name, families)} Known: {', '.join(families)}.")
    known = families[name]
    options: dict[str, int | float | str] = {}
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
        if (limits := known[key].limits) and not limits.allow(options[key], known[key].kind):
            hint = did_you_mean(value, map(str, limits.choices))
            expected = limits.describe(known[key].kind)
            raise InputError(f"{key}={value} was given to the {noun} {name}; expected {expected}.{hint}")
    missing = [k for k, option in known.items() if option.default is dataclasses.MISSING and k not in options]
    if missing:
        raise InputError(
            f"The {noun} {name} needs {', '.join(missing)}, which {spec!r} does not give. Its options: {listed}."
        )
    return name, options


def text(value: object) -> str:
    """Returns an option's value as text: whole numbers without `.0`."""
    return repr(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Returns " Did you mean x?" for the most similar known name; "" if none is similar.

    Similarity is an edit distance: a letter that is missing, added, replaced or swapped with its neighbour counts one,
    and one edit per three letters is accepted. A prefix (cos for cosine), or the reverse, counts one; among equally
    similar names the one of the closest length is chosen. Names with different digits (mxfp8 and mxfp4, 30m and 3m) are
    never similar.
    """
    distances = [(_edits(given.lower(), name.lower()), name) for name in known if _same_digits(given, name)]
    best, name = min(distances, default=(1, ""), key=lambda pair: (pair[0], abs(len(pair[1]) - len(given))))
    return f" Did you mean {name}?" if name and best <= max(1, len(given) // 3) else ""


def _same_digits(a: str, b: str) -> bool:
    digits = [re.sub(r"\D", "", name) for name in (a, b)]
    return digits[0] == digits[1] or not all(digits)


def _edits(a: str, b: str) -> int:
    """Returns the edit distance of two names; a swap of neighbours counts once (optimal string alignment)."""
    if min(len(a), len(b)) >= 3 and (a.startswith(b) or b.startswith(a)):
        return min(1, abs(len(a) - len(b)))
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        earlier, before, row = before, row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y)))
            if i > 1 and j > 1 and (x, a[i - 2]) == (b[j - 2], y):
                row[j] = min(row[j], earlier[j - 2] + 1)
    return row[-1]
