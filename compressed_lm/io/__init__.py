"""Files and folders: paths, atomic writes, locks, JSON, and safe readers of untrusted files.

| module | contents |
|---|---|
| `paths` | accepted paths, and checks before any work |
| `atomic` | atomic writes of a file |
| `folders` | atomic writes of a folder |
| `locks` | one command at a time in a folder |
| `limits` | memory limits for untrusted files |
| `strict_json`, `jsonl` | JSON and JSON lines |
| `npz` | NumPy files without pickle |
| `checksums`, `container` | files with a checksum; named arrays and a JSON header in such a file |
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
