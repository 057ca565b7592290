"""Command data type and its argument parser."""

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any


class Parser(argparse.ArgumentParser):
    """Argument parser that records which arguments are paths.

    Attributes:
        paths: destination -> (name of the argument on the command line, its kind in `commands.paths`).
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.paths: dict[str, tuple[str, str]] = {}

    def add_path(self, name: str, *, kind: str, **options) -> argparse.Action:
        """Adds a path argument, which is checked before the command runs.

        Args:
            name: as for `add_argument`.
            kind: one of the kinds in `commands.paths`.
            **options: as for `add_argument`.
        """
        action = self.add_argument(name, **options)
        self.paths[action.dest] = (name, kind)
        return action


@dataclasses.dataclass(frozen=True)
class Command:
    """Command of `compressed-lm`.

    Attributes:
        name: name on the command line.
        summary: one line of help.
        example: a complete command.
        add_arguments: adds the arguments to the parser; lists in help texts are read from the registries.
        run: takes the parsed arguments; returns the exit status, or None for 0.
        writes: whether it writes to `--out`, which only one command at a time may do.
    """

    name: str
    summary: str
    example: str
    add_arguments: Callable[[Parser], None]
    run: Callable[[argparse.Namespace], int | None]
    writes: bool = False

    def parser(self) -> Parser:
        """Returns the parser of this command."""
        parser = Parser(
            prog=f"compressed-lm {self.name}",
            description=f"{self.summary[0].upper()}{self.summary[1:]}.",
            epilog=f"example: {self.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.add_arguments(parser)
        if self.writes:
            parser.add_argument(
                "--wait", action="store_true", help="if another command writes to --out, wait until it has ended"
            )
        return parser
