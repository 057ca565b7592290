"""Files and folders: paths that users give, atomic writes, locks, JSON, and formats that others may have written.

| module | holds |
|---|---|
| `paths` | which paths are accepted, and checks before any work |
| `atomic` | writing a file, whole or not at all |
| `folders` | writing a folder, whole or not at all |
| `locks` | one command at a time in a folder |
| `limits` | how much memory a file may ask for |
| `strict_json`, `jsonl` | JSON and JSON lines |
| `npz` | NumPy files without pickle |
| `container` | named arrays and a JSON header under one checksum |
"""

from compressed_lm.io.atomic import (
    flush_tree,
    open_output,
    publish,
    remove_temporaries,
    replace,
    temporary_beside,
    write_atomic,
)
from compressed_lm.io.paths import (
    STANDARD,
    check_output,
    inside,
    is_stdout,
    is_stream,
    local_path,
    matching,
    read_bytes,
    scheme,
    shown,
)

__all__ = [
    "STANDARD",
    "check_output",
    "flush_tree",
    "inside",
    "is_stdout",
    "is_stream",
    "local_path",
    "matching",
    "open_output",
    "publish",
    "read_bytes",
    "remove_temporaries",
    "replace",
    "scheme",
    "shown",
    "temporary_beside",
    "write_atomic",
]
