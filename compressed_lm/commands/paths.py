"""Checks of path arguments before a command runs."""

import argparse
import re
from collections.abc import Mapping

from compressed_lm import io

READ = "file or folder to read"
FILE = "file to write"
FOLDER = "folder to write"
RUN = "run to read, local or in Google Cloud Storage"
NEW_RUN = "run to write, local or in Google Cloud Storage"
CORPUS = "corpus spec"

_URL = re.compile(r"(?<![^:,*])[A-Za-z][\w+.-]*://")  # at the start of a part of a corpus spec


def check(arguments: argparse.Namespace, known: Mapping[str, tuple[str, str]]) -> None:
    """Checks all paths of a parsed command line, and expands a leading `~`.

    Args:
        arguments: the parsed command line; its paths are replaced.
        known: destination -> (name of the argument, kind).

    Raises:
        InputError: a path has an unsupported scheme, is empty, or is an output that cannot be written.
    """
    for destination, (name, kind) in known.items():
        given = getattr(arguments, destination)
        if isinstance(given, list):
            setattr(arguments, destination, [_checked(value, name, kind) for value in given])
        elif given is not None:
            setattr(arguments, destination, _checked(given, name, kind))


def _checked(value: str, name: str, kind: str) -> str:
    if kind == CORPUS:
        found = _URL.search(value)
        if found or not value:
            io.local_path(value[found.start() :] if found else value, f"In {name}," if found else name)
        return value
    if io.scheme(value) == "gs" and len(value) > len("gs://") and kind in (RUN, NEW_RUN):
        return value
    path = io.local_path(value, name)
    if kind in (FILE, FOLDER, NEW_RUN):
        io.check_output(value, name, folder=kind != FILE)
    return str(path) if value.startswith("~") else value
