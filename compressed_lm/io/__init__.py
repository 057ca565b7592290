"""Files and folders: paths, atomic writes, locks, JSON, and safe readers of untrusted files.

| module | contents |
|---|---|
| `paths` | accepted paths: local, gs://, s3:// |
| `patterns` | paths that a pattern matches |
| `outputs` | checks of outputs before any work |
| `remote` | objects: reading, ranges, uploads, listings |
| `remote_input` | reader of an object with read-ahead |
| `remote_paths` | `epath` paths of objects through `remote` |
| `object_stores`, `store_errors` | clients of object stores; their errors and retries |
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
from compressed_lm.io.outputs import check_output
from compressed_lm.io.paths import (
    STANDARD,
    any_path,
    inside,
    is_remote,
    is_stdout,
    is_stream,
    local_path,
    read_bytes,
    scheme,
    shown,
)
from compressed_lm.io.patterns import matching
from compressed_lm.io.remote_paths import install as _install

_install()

__all__ = [
    "STANDARD",
    "any_path",
    "check_output",
    "flush_tree",
    "inside",
    "is_remote",
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
