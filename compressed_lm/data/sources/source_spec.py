r"""Specs of corpora, `SCHEME(OPTION=VALUE,...):REST`: parsing and writing.

A value is written as it is, or between quotes if it has commas, parentheses or quotes. A backslash takes the next
character literally, except `\n` and `\t`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from compressed_lm.errors import InputError
from compressed_lm.specs import did_you_mean

_ESCAPES = {"n": "\n", "t": "\t"}
_PLAIN = re.compile(r"""[^\s,()"'\\]+""")


class SourceSpec(NamedTuple):
    """Parts of a spec: scheme, text between the parentheses (None if there are none), text after the colon."""

    scheme: str
    options: str | None
    rest: str


def split(spec: str) -> SourceSpec:
    """Returns the parts of a spec.

    Raises:
        InputError: a parenthesis or quote is not closed.
    """
    if begin := re.match(r"(\w+)\(", spec):
        end = end_of_options(spec, begin.end())
        if end is None and not re.match(r"[^:]*[./]", spec):
            raise InputError(
                f"The corpus {spec!r} was given; its options have no closing parenthesis before the colon, or a quote "
                "is not closed. Write options as in json(field=NAME,id=NAME):PATH."
            )
        if end is not None and spec[end:][:1] in ("", ":"):
            return SourceSpec(begin[1], spec[begin.end() : end - 1], spec[end + 1 :])
    scheme, _, rest = spec.partition(":")
    return SourceSpec(scheme, None, rest)


def end_of_options(text: str, start: int) -> int | None:
    """Returns the index after the closing parenthesis of the options that begin at `start`; None if it is missing."""
    quote, position = "", start
    while position < len(text):
        sign = text[position]
        if sign == "\\":
            position += 1
        elif quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'" and text[start:position].rstrip().endswith("="):
            quote = sign
        elif sign == ")":
            return position + 1
        position += 1
    return None


def parse_options(spec: SourceSpec, known: Sequence[str]) -> dict[str, str]:
    """Returns the options of a spec by name.

    Args:
        spec: the spec.
        known: names of the options of its source.

    Raises:
        InputError: an option is unknown, empty or given twice, or the text cannot be read.
    """
    given = f"{spec.scheme}({spec.options})"
    if spec.options is not None and not known:
        raise InputError(f"The corpus {given} was given; {spec.scheme} has no options. Write {spec.scheme}:... .")
    form = f"Its options: {', '.join(f'{name}=...' for name in known)}."
    found: dict[str, str] = {}
    position, text = 0, spec.options or ""
    while position < len(text):
        match = re.compile(r"\s*([^=,]*?)\s*(=|,|$)").match(text, position)
        assert match is not None
        name, position = match[1], match.end()
        if match[2] != "=" or name not in known:
            raise InputError(f"The corpus {given} has the unknown option {name!r}.{did_you_mean(name, known)} {form}")
        value, position = _value(text, position)
        if name in found or not value:
            what = "more than once" if name in found else "without a value"
            raise InputError(f"The corpus {given} has the option {name} {what}; give it once, with a value. {form}")
        found[name] = value
        if position < len(text) and text[position] != ",":
            raise InputError(
                f"The corpus {given} cannot be read after the value of {name}; a comma was expected before "
                f"{text[position:]!r:.40}. Put quotes around a value with commas, parentheses or quotes. {form}"
            )
        position += 1
    return found


def _value(text: str, position: int) -> tuple[str, int]:
    """Returns a value and the index after it."""
    while text[position : position + 1].isspace():
        position += 1
    quote = text[position] if text[position : position + 1] in ("'", '"') else ""
    position += len(quote)
    value: list[str] = []
    while position < len(text):
        sign = text[position]
        if sign == "\\" and position + 1 < len(text):
            position += 1
            value.append(_ESCAPES.get(text[position], text[position]))
        elif sign == (quote or ","):
            break
        else:
            value.append(sign)
        position += 1
    if not quote:
        return "".join(value).strip(), position
    rest = text[position + 1 :]
    return "".join(value), position + 1 + len(rest) - len(rest.lstrip())


def write(scheme: str, options: Mapping[str, str], rest: str) -> str:
    """Returns the spec with these options, which `split` and `parse_options` read again."""
    inner = ",".join(f"{name}={_written(value)}" for name, value in options.items())
    return f"{scheme}({inner}):{rest}" if inner else f"{scheme}:{rest}"


def _written(value: str) -> str:
    if _PLAIN.fullmatch(value):
        return value
    for sign, written in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\t", "\\t")):
        value = value.replace(sign, written)
    return f'"{value}"'
