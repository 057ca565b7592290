"""The paths among the arguments of a command: checked before any work, `~` expanded."""

import re

from compressed_lm import io

READ, WRITTEN, FOLDER, RUN, CORPUS = "file or folder to read", "file to write", "folder to write", "run", "corpus"
ARGUMENTS = {
    **dict.fromkeys(("input", "paths", "text", "file", "runs", "folder", "run_dir", "store"), READ),
    **dict.fromkeys(("gin", "codec", "m1", "tokens", "validation_tokens", "train_tokens"), READ),
    **dict.fromkeys(("output", "table", "report"), WRITTEN),
    "out": FOLDER,
    **dict.fromkeys(("run", "start", "model"), RUN),
    **dict.fromkeys(("corpus", "validation", "unseen"), CORPUS),
}
"""What an argument names, by its name in the parsed command line; all others are no paths."""

FILES = ("compile", "pack", "cram", "weights")
"""Commands whose `--out` is a file."""

_POSITIONAL = ("input", "output", "paths", "text", "file", "runs", "store", "folder", "run", "run_dir")
_URL = re.compile(r"(?<![^:,*])[A-Za-z][\w+.-]*://")  # at the start of one of the parts of a corpus


def check(arguments) -> None:
    """Checks every path of a parsed command line, and expands a leading `~`.

    Raises:
      InputError: a path with a scheme that is not supported there, an empty one, or an output that cannot be written.
    """
    for name, kind in ARGUMENTS.items():
        given = getattr(arguments, name, None)
        if given is None:
            continue
        what = name if name in _POSITIONAL or (arguments.verb, name) == ("build-codec", "codec") else f"--{name}"
        several = isinstance(given, list)
        kind = WRITTEN if name == "out" and arguments.verb in FILES else kind
        found = [_checked(value, what, kind, arguments.verb) for value in (given if several else [given])]
        setattr(arguments, name, found if several else found[0])


def _checked(value: str, what: str, kind: str, verb: str) -> str:
    if kind == CORPUS:
        found = _URL.search(value)
        if found or not value:
            io.local_path(value[found.start() :] if found else value, f"In {what}," if found else what)
        return value
    if io.scheme(value) == "gs" and len(value) > len("gs://") and (kind == RUN or (verb, what) == ("train", "--out")):
        return value
    path = io.local_path(value, what)
    if kind in (WRITTEN, FOLDER):
        io.check_output(value, what, folder=kind == FOLDER)
    return str(path) if value.startswith("~") else value
