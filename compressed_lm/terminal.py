"""Text of others on a terminal: shown literally, never obeyed."""

from rich.text import Text

_KEPT = "\n\t"
_CONTROLS = [*range(0x20), *range(0x7F, 0xA0), 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_ESCAPES = {code: ascii(chr(code))[1:-1] for code in _CONTROLS if chr(code) not in _KEPT}
"""Control characters, and those that turn the direction of writing, with what stands for them."""


def literal(text: str) -> str:
    r"""The text with escapes such as `\x1b` in place of characters that a terminal obeys; lines and tabs stay."""
    return text.translate(_ESCAPES)


def cell(value) -> Text:
    """A cell or title of a rich table: `literal`, and brackets are no markup."""
    return Text(literal(str(value)))


def print_flush(line: str) -> None:
    """Prints a line and flushes, so that log files show it at once."""
    print(line, flush=True)
