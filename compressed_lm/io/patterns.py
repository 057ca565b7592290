"""Patterns of paths, local and remote: * ? [] within a part, ** for nested folders."""

import fnmatch
import glob
import os
import pathlib
import re

from etils import epath

from compressed_lm.io import remote
from compressed_lm.io.paths import is_remote

_MAGIC = re.compile(r"[*?[]")


def matching(pattern: str | os.PathLike, *, files: bool = False) -> list[pathlib.Path | epath.Path]:
    """Returns the sorted paths that a pattern matches: the path of exactly this name, otherwise the glob's matches.

    Leading folders that exist by name are taken literally: `runs[1]/*.jsonl` searches the folder `runs[1]` if it
    exists. `**` matches nested folders.

    Args:
        pattern: the pattern.
        files: leave out folders; remote objects need no request each for this.
    """
    if is_remote(pattern):
        return [epath.Path(path) for path in _remote(os.fspath(pattern), files=files)]
    parts = pathlib.Path(pattern).parts
    n = next((n for n in range(len(parts), 0, -1) if os.path.lexists(os.path.join(*parts[:n]))), 0)
    if n == len(parts):
        found = [pathlib.Path(pattern)]
    else:
        literal = [glob.escape(part) for part in parts[:n]]
        found = [pathlib.Path(path) for path in sorted(glob.glob(os.path.join(*literal, *parts[n:]), recursive=True))]
    return [path for path in found if not files or path.is_file()]


def _remote(pattern: str, *, files: bool) -> list[str]:
    """Returns the objects and folders that a remote pattern matches."""
    kind, _, rest = pattern.partition("://")
    bucket, *parts = [part for part in rest.split("/") if part]
    folders = {f"{kind}://{bucket}"}
    found: dict[str, dict] = {}
    try:
        entry = remote.stat(pattern)
        return [pattern.rstrip("/")] if not files or entry["type"] == "file" else []
    except FileNotFoundError:
        pass
    literal = 0  # leading parts that exist by name
    while literal < len(parts) - 1:
        below = "/".join([f"{kind}://{bucket}", *parts[: literal + 1]])
        if _MAGIC.search(parts[literal]) and not remote.is_folder(below):
            break
        folders, literal = {below}, literal + 1
    for i, part in enumerate(parts[literal:], start=literal):
        last = i == len(parts) - 1
        found = {}
        if part == "**":
            for folder in folders:
                found |= _tree(folder) | {folder: {"type": "directory"}}
        else:
            matches = re.compile(fnmatch.translate(part)).match
            for folder in folders:
                for name, entry in remote.entries(folder).items():
                    if matches(name) and (part.startswith(".") or not name.startswith(".")):
                        found[f"{folder}/{name}"] = entry
        folders = {path for path, entry in found.items() if last or entry["type"] == "directory"}
    return sorted(path for path in folders if not files or found[path]["type"] == "file")


def _tree(folder: str) -> dict[str, dict]:
    """Returns the entries below a folder, without hidden ones, as `glob` does."""
    found = {}
    for name, entry in remote.entries(folder).items():
        if not name.startswith("."):
            path = f"{folder}/{name}"
            found[path] = entry
            if entry["type"] == "directory":
                found |= _tree(path)
    return found
