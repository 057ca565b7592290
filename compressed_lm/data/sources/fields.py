"""Fields of a record that make a document: one field, or several joined by a template; and its id.

A name such as `a.b` is the field of this name, otherwise the field `b` within the field `a`.
"""

import dataclasses
import string
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from compressed_lm.data.corpus import Document
from compressed_lm.errors import InputError

OPTIONS = ("field", "template", "id")
"""Options of the sources whose documents are records."""

_KINDS: dict[type, str] = {
    **{bool: "true or false", int: "a number", float: "a number", type(None): "null"},
    **{dict: "an object", list: "a list"},
}
_MISSING = object()
_MOST_SHOWN = 12


class FieldError(ValueError):
    """A record has no such field, or not of the expected type; the message says what the record is."""


@dataclasses.dataclass(frozen=True)
class Fields:
    r"""Fields that make a document.

    Attributes:
        field: name of the field with the text.
        template: text with names of fields in braces, such as "{title}\n\n{text}", used instead of `field`.
        id: name of the field with the id of the document, a string or whole number; None for documents without ids.
    """

    field: str = "text"
    template: str | None = None
    id: str | None = None

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> "Fields":
        """Returns the fields that the options of a spec name.

        Raises:
            InputError: both `field` and `template` are given, or the template cannot be read.
        """
        fields = cls(**options)
        if "template" in options:
            if "field" in options:
                raise InputError(
                    f"The options field={fields.field} and template={fields.template!r} were given; give one of "
                    "them. A template names its fields in braces."
                )
            try:
                valid = any(name is not None for _, name in fields.parts)
            except ValueError as error:
                valid, problem = False, f" ({error})"
            else:
                problem = ""
            if not valid:
                raise InputError(
                    f"The template {fields.template!r} was given; text with at least one field in braces was expected, "
                    f"such as {{title}}\\n\\n{{text}}{problem}. Write a brace of the text twice: {{{{ or }}}}."
                )
        return fields

    @property
    def options(self) -> dict[str, str]:
        """Options of a spec that name these fields; defaults are left out."""
        given = {"field": self.field if self.field != "text" else None, "template": self.template, "id": self.id}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def parts(self) -> list[tuple[str, str | None]]:
        """Text and name of the field after it (None at the end), in order."""
        if self.template is None:
            return [("", self.field)]
        found = []
        for text, name, form, conversion in string.Formatter().parse(self.template):
            if name == "" or form or conversion:
                raise ValueError("a pair of braces has no plain name of a field")
            found.append((text, name))
        return found

    @property
    def names(self) -> list[str]:
        """Names of all fields that are read, each once."""
        named = [name for _, name in self.parts] + [self.id]
        return list(dict.fromkeys(name for name in named if name is not None))

    def fast_reader(self) -> Callable[[Any], Document]:
        """Returns a function from a record to its document, for valid records.

        For others it raises LookupError, TypeError, AttributeError or ValueError; `document` then says what is wrong.
        """
        field, new = self.field, tuple.__new__
        if self.template is None and self.id is None and "." not in field:
            return lambda record: new(Document, (record[field].encode(), None))
        return self._reader()

    def document(self, record: Any) -> Document:
        """Returns the document of a record.

        Raises:
            FieldError: the record is not an object, or a field is missing or has another type.
        """
        if not isinstance(record, dict):
            raise FieldError(_kind(record))
        return self._reader()(record)

    def _reader(self) -> Callable[[Any], Document]:
        parts, id_field = [(text.encode(), name) for text, name in self.parts], self.id
        numbers = self.template is not None

        def read(record: Any) -> Document:
            pieces = []
            for text, name in parts:
                pieces.append(text)
                if name is not None:
                    # JSON may have a lone surrogate, which is not valid UTF-8; "surrogatepass" keeps the document.
                    pieces.append(_text(record, name, numbers).encode("utf-8", "surrogatepass"))
            return Document(b"".join(pieces), None if id_field is None else _text(record, id_field, True))

        return read

    def expected(self) -> str:
        """Returns a description of a valid record, for messages."""
        if self.template is None and self.id is None:
            return f"an object with a field `{self.field}` that is a string"
        return f"an object with the fields {', '.join(self.names)} (strings)"


def listed(names: Iterable[str]) -> str:
    """Returns names of fields for messages, the first of many."""
    names = sorted(names)
    more = len(names) - _MOST_SHOWN
    return ", ".join(names[:_MOST_SHOWN]) + (f" and {more} more" if more > 0 else "") or "(none)"


def _text(record: Any, name: str, numbers: bool) -> str:
    value = _lookup(record, name)
    if isinstance(value, str):
        return value
    if numbers and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is _MISSING:
        nested = (f"{key}.{inner}" for key, found in record.items() if isinstance(found, dict) for inner in found)
        raise FieldError(f"an object with the fields {listed([*record, *(nested if '.' in name else ())])}")
    raise FieldError(f"an object whose field `{name}` is {_kind(value)}")


def _lookup(record: Any, name: str) -> Any:
    """Returns the value of a field, or `_MISSING`."""
    if name in record:
        return record[name]
    value = record
    for key in name.split("."):
        if not isinstance(value, dict) or key not in value:
            return _MISSING
        value = value[key]
    return value


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "a string")


TEXT = Fields()
"""The field `text`, as C4 has it."""
