"""Objects of gs:// and s3:// paths: whole objects, exact ranges, listings.

Transient errors are retried. Errors are FileNotFoundError, InputError (bucket, credentials) and OSError.
"""

import contextlib
import functools
import os
import posixpath
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, TypeVar

from compressed_lm.io.object_stores import client
from compressed_lm.io.paths import is_remote, scheme
from compressed_lm.io.remote_input import RemoteInput
from compressed_lm.io.store_errors import TRUNCATED, StoreError, bucket_of, no_bucket, retried

_T = TypeVar("_T")
PROBE_SECONDS = 10.0  # for which a failing probe is repeated: the user waits for it


def open_input(path: str | os.PathLike) -> BinaryIO:
    """Opens a file or object for reading, seekable and with read-ahead.

    A remote object is read in blocks; a block that fails is requested again at the same offset.

    Raises:
        FileNotFoundError: there is no such file or object.
    """
    if not is_remote(path):
        return open(path, "rb")
    return RemoteInput(path, size(path), read_range).buffered()


def size(path: str | os.PathLike) -> int:
    """Returns the size of a file or object in bytes.

    Raises:
        FileNotFoundError: there is no such file or object.
    """
    return int(stat(path)["size"]) if is_remote(path) else os.path.getsize(path)


def read_bytes(path: str | os.PathLike) -> bytes:
    """Returns the content of an object."""
    return call(path, lambda store, key: store.cat_file(key))


def read_range(path: str | os.PathLike, start: int, stop: int) -> bytes:
    """Returns the bytes from `start` to `stop` (exclusive) of an object; may be called from several threads.

    Raises:
        OSError: the object is shorter, or the store does not answer.
        FileNotFoundError: there is no such object.
    """
    if not 0 <= start <= stop:
        raise ValueError(f"the range {start} to {stop} of {os.fspath(path)} is not a range of bytes")
    if start == stop:
        return b""

    def read(store, key):
        content = store.cat_file(key, start=start, end=stop)
        if len(content) != stop - start:
            raise StoreError(TRUNCATED, path)
        return content

    return call(path, read)


def upload(local_file: str | os.PathLike, path: str | os.PathLike) -> None:
    """Writes a local file to an object, which appears, or is replaced, when all of it has arrived.

    Parts that a killed process uploaded to s3:// are not visible; a lifecycle rule of the bucket deletes them.
    """
    os.stat(local_file)
    call(path, lambda store, key: store.put_file(os.fspath(local_file), key))


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Writes an object, which appears, or is replaced, when all of it has arrived."""
    call(path, lambda store, key: store.pipe_file(key, content))


def update(path: str | os.PathLike, change: Callable[[bytes], bytes]) -> None:
    """Replaces the content of an object by `change(content)`, b"" if it is missing.

    If another process changes the object at the same time, this starts over with the new content: nothing is lost.
    """
    new = None
    while True:
        version, content = _version(path)
        if content == new:  # written, though the answer was lost
            return
        new = change(content)
        try:
            call(path, functools.partial(_put_if, path, new, version))
            return
        except FileExistsError:
            time.sleep(random.uniform(0, 0.2))


def _version(path: str | os.PathLike) -> tuple[str | None, bytes]:
    """Returns (version, content) of an object, (None, b"") if it is missing; the content may be newer."""
    with contextlib.suppress(FileNotFoundError):
        found = stat(path)
        if found["type"] == "file":
            return str(found["generation" if scheme(path) == "gs" else "ETag"]), read_bytes(path)
    return None, b""


def _put_if(path: str | os.PathLike, content: bytes, version: str | None, store: Any, key: str) -> None:
    """Writes an object if it still has a version (None: if it is still missing)."""
    bucket, _, name = key.partition("/")
    if scheme(path) == "s3":
        condition = {"IfMatch": version} if version else {"IfNoneMatch": "*"}
        store.call_s3("put_object", Bucket=bucket, Key=name, Body=content, **condition)
        return
    store.call(
        "POST",
        _upload_url(store),
        bucket,
        uploadType="media",
        name=name,
        ifGenerationMatch=version or "0",
        data=content,
    )


def _upload_url(store: Any) -> str:
    return f"{store._location}/upload/storage/v1/b/{{}}/o"


@contextlib.contextmanager
def open_output(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Opens an object for writing; it appears, or is replaced, when the block ends without an error.

    The content is collected in a temporary file of this machine: a file of `fsspec` would upload what was written
    before an error.
    """
    with tempfile.NamedTemporaryFile(prefix="compressed-lm-") as file:
        yield file  # type: ignore[misc]
        file.flush()
        upload(file.name, path)


def stat(path: str | os.PathLike) -> dict[str, Any]:
    """Returns {"type": "file" or "directory", "size": bytes, ...} of an object or of a folder that has objects.

    Raises:
        FileNotFoundError: there is no such object or folder.
    """
    return call(path, lambda store, key: store.info(key))


def exists(path: str | os.PathLike) -> bool:
    """Returns whether there is such an object, or a folder that has objects."""
    try:
        stat(path)
        return True
    except FileNotFoundError:
        return False


def is_folder(path: str | os.PathLike) -> bool:
    """Returns whether there is a folder that has objects."""
    try:
        return stat(path)["type"] == "directory"
    except FileNotFoundError:
        return False


def entries(folder: str | os.PathLike) -> dict[str, dict[str, Any]]:
    """Returns name -> entry (type, size) of the objects and folders directly in a folder; {} if there is none."""
    try:
        found = call(folder, lambda store, key: store.ls(key, detail=True, refresh=True))
    except FileNotFoundError:
        return {}
    parent = os.fspath(folder).partition("://")[2].rstrip("/")
    named = {entry["name"].rstrip("/"): entry for entry in found}
    return {posixpath.basename(name): entry for name, entry in named.items() if posixpath.dirname(name) == parent}


def sizes(folder: str | os.PathLike) -> dict[str, int]:
    """Returns name -> size (bytes) of the files directly in a local or remote folder; {} if the folder is missing."""
    if is_remote(folder):
        return {name: entry["size"] for name, entry in entries(folder).items() if entry["type"] == "file"}
    with contextlib.suppress(FileNotFoundError), os.scandir(os.fspath(folder)) as found:
        return {entry.name: entry.stat().st_size for entry in found if entry.is_file()}
    return {}


def delete(path: str | os.PathLike) -> None:
    """Deletes a file or object, if there is one."""
    with contextlib.suppress(FileNotFoundError):
        call(path, lambda store, key: store.rm_file(key)) if is_remote(path) else os.unlink(path)


def delete_tree(path: str | os.PathLike) -> None:
    """Deletes an object, or all objects below a folder.

    Raises:
        FileNotFoundError: there is neither.
    """
    call(path, lambda store, key: store.rm(key, recursive=True))


def copy(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """Copies a file or object, or all objects below a remote folder within one scheme; one side may be local."""
    if not is_remote(source):
        upload(source, target)
    elif not is_remote(target):
        call(source, lambda store, key: store.get_file(key, os.fspath(target)))
    elif scheme(source) != scheme(target):
        with open_input(source) as file, open_output(target) as new:
            shutil.copyfileobj(file, new, 1 << 20)
    elif is_folder(source):
        for name in entries(source):
            copy(posixpath.join(os.fspath(source), name), posixpath.join(os.fspath(target), name))
    else:
        call(source, lambda store, key: store.cp_file(key, os.fspath(target).partition("://")[2]))


def check_readable(path: str | os.PathLike, *, patience: float | None = PROBE_SECONDS) -> None:
    """Raises InputError if the bucket does not exist or may not be listed, StoreError if the store does not answer."""

    def probe():
        store, bucket = client(scheme(path)), bucket_of(path)
        if scheme(path) == "s3":
            return store.call_s3("list_objects_v2", Bucket=bucket, MaxKeys=1)
        return store.call("GET", "b/{}/o", bucket, maxResults=1, timeout=patience)  # gcsfs would repeat it for 33 s

    try:
        retried(probe, path, patience=patience)
    except FileNotFoundError as error:
        raise no_bucket(path) from error


def check_writable(path: str | os.PathLike) -> None:
    """Raises InputError if no object can be written there; starts an upload without content, so nothing appears."""

    def probe(store, key):
        bucket, _, name = key.partition("/")
        name = posixpath.join(name, ".compressed-lm-probe")
        if scheme(path) == "s3":
            target = {"Bucket": bucket, "Key": name}
            started = store.call_s3("create_multipart_upload", **target)["UploadId"]
            return store.call_s3("abort_multipart_upload", UploadId=started, **target)
        # The started upload expires by itself.
        options = {"uploadType": "resumable", "json": {"name": name}, "timeout": PROBE_SECONDS}
        return store.call("POST", _upload_url(store), bucket, **options)

    call(path, probe, patience=PROBE_SECONDS)


def call(path: str | os.PathLike, request: Callable[[Any, str], _T], *, patience: float | None = None) -> _T:
    """Returns `request(file system, bucket/key)`, as `store_errors.retried` does.

    Raises:
        FileNotFoundError: there is no such object.
        InputError: the bucket does not exist, or the credentials are missing or do not suffice.
        StoreError: the store does not answer, or refuses the request for another reason.
    """
    key = os.fspath(path).partition("://")[2].rstrip("/")
    try:
        return retried(lambda: request(client(scheme(path)), key), path, patience=patience)
    except FileNotFoundError:
        check_readable(path, patience=patience)  # gcsfs does not tell a missing bucket from a missing object
        raise
