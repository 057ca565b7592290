"""Safe output of untrusted text on a terminal."""

from rich.text import Text

_KEPT = "\n\t"
_CONTROLS = [*range(0x20), *range(0x7F, 0xA0), 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_ESCAPES = {code: ascii(chr(code))[1:-1] for code in _CONTROLS if chr(code) not in _KEPT}
"""Control characters and direction marks, with their escapes."""


def literal(text: str) -> str:
    r"""Returns the text with control characters escaped, such as `\x1b`; newlines and tabs are kept."""
    return text.translate(_ESCAPES)


def cell(value: object) -> Text:
    """Returns a cell or title of a rich table: escaped by `literal`, and brackets are not markup."""
    return Text(literal(str(value)))


def print_flush(line: str) -> None:
    """Prints a line and flushes, so that log files show it immediately."""
    print(line, flush=True)
