"""Checks of path arguments before a command runs."""

import argparse
import re
from collections.abc import Mapping

from compressed_lm import io
from compressed_lm.errors import InputError
from compressed_lm.io import remote

READ = "file or folder to read"
FILE = "file to write"
FOLDER = "folder to write"
EITHER = "file or folder to write"
RUN = "run to read"
NEW_RUN = "run to write"
CORPUS = "corpus spec"

_URL = re.compile(r"(?<![^:,*])[A-Za-z][\w+.-]*://")  # at the start of a part of a corpus spec


def check(arguments: argparse.Namespace, known: Mapping[str, tuple[str, str]]) -> None:
    """Checks all paths of a parsed command line, and expands a leading `~`.

    Paths may be local or in an object store (gs://, s3://), whose bucket is asked whether it can be read or written.

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
        if not value:
            io.any_path(value, name)
        for found in _URL.finditer(value):
            io.any_path(value[found.start() :], f"In {name},")
        return value
    path = io.any_path(value, name)
    if kind in (FILE, FOLDER, EITHER, NEW_RUN):
        is_file = kind == FILE or (kind == EITHER and not io.is_remote(path) and path.is_file())
        io.check_output(value, name, folder=not is_file)
    elif io.is_remote(path):
        try:
            remote.check_readable(path)
        except InputError as error:
            raise InputError(f"{name} {error}") from error
    return str(path) if value.startswith("~") else value
