"""Errors of object stores: transient ones are retried, the others are raised with what to do."""

import errno
import os
import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

from compressed_lm.errors import InputError
from compressed_lm.io.paths import scheme

PATIENCE_SECONDS = 60.0
"""Time for which a failing request is repeated, after the retries of the store's own package (seconds)."""

TRUNCATED = "The object ends before the requested bytes: it was truncated, or replaced while it was read"
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.2, 8.0

_T = TypeVar("_T")
_TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}
_TRANSIENT_ERRNO = {errno.EBUSY, errno.EIO, getattr(errno, "EREMOTEIO", errno.EIO)}  # as s3fs translates HTTP status
_TRANSIENT = {  # base classes of the packages' connection errors, by name: not all of the packages are installed
    *("ConnectionError", "TimeoutError", "ClientError@aiohttp", "HTTPClientError", "IncompleteReadError"),
    *("IncompleteRead", "RequestException", "ChecksumError", "FSTimeoutError", "TransportError"),
}
_DENIED_STATUS = {401, 403}
_CHANGED_STATUS = {409, 412}  # of a request that is for a known version of the object
_DENIED = {
    "PermissionError",
    "NoCredentialsError",
    "PartialCredentialsError",
    "GoogleAuthError",
    "CredentialRetrievalError",
}
_NO_BUCKET = re.compile(r"NoSuchBucket|bucket does not exist", re.IGNORECASE)
_LOGIN = {
    "gs": "`gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to the file of a service "
    "account",
    "s3": "`aws configure`, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
}


class StoreError(OSError):
    """A store does not answer, or refuses a request."""

    def __init__(self, reason: str, path: str | os.PathLike):
        super().__init__(errno.EIO, reason, os.fspath(path))


def retried(call: Callable[[], _T], path: str | os.PathLike, *, patience: float | None = None) -> _T:
    """Returns the result of a request; transient errors are retried with exponential backoff and jitter.

    Args:
        call: the request; it may be repeated.
        path: the path it is about, for messages.
        patience: seconds for which it is repeated; `PATIENCE_SECONDS` by default.

    Raises:
        FileNotFoundError: there is no such object.
        InputError: the bucket does not exist, or the credentials are missing or do not suffice.
        StoreError: the store does not answer, or refuses the request for another reason.
    """
    limit = time.monotonic() + (PATIENCE_SECONDS if patience is None else patience)
    wait = FIRST_WAIT_SECONDS
    while True:
        try:
            return call()
        except Exception as error:  # each package has its own error types
            if not is_transient(error) or time.monotonic() + wait > limit:
                raise translated(error, path) from error
        time.sleep(wait * random.uniform(0.5, 1))
        wait = min(2 * wait, LONGEST_WAIT_SECONDS)


def is_transient(error: BaseException) -> bool:
    """Returns whether the same request may succeed later."""
    if isinstance(error, StoreError):
        return False
    status = _status(error)
    if status is not None:
        return status in _TRANSIENT_STATUS
    return bool(_names(error) & _TRANSIENT) or (isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNO)


def translated(error: Exception, path: str | os.PathLike) -> Exception:
    """Returns the error to raise for an error of a store's package."""
    if isinstance(error, InputError | StoreError):
        return error
    path = os.fspath(path)
    kind = scheme(path) or ""
    bucket = bucket_of(path)
    reason = _reason(error)
    if any(_NO_BUCKET.search(f"{type(e).__name__}: {e}") for e in _chain(error)):
        return no_bucket(path)
    status = _status(error)
    if isinstance(error, FileNotFoundError) or status == 404:
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    if status in _DENIED_STATUS or _names(error) & _DENIED:
        return InputError(
            f"{path} was given, but the store refuses access ({reason}). Credentials that may use the bucket {bucket} "
            f"are needed: run {_LOGIN.get(kind, 'the login command of the store')}."
        )
    if status in _CHANGED_STATUS:
        return FileExistsError(errno.EEXIST, "Another process changed the object at the same time", path)
    if status == 416:
        return StoreError(TRUNCATED, path)
    if is_transient(error):
        variable = {"gs": "STORAGE_EMULATOR_HOST", "s3": "AWS_ENDPOINT_URL"}.get(kind, "")
        endpoint = f" and {variable}={os.environ[variable]}" if os.environ.get(variable) else ""
        return StoreError(f"The object store does not answer ({reason}). Check the network{endpoint}", path)
    if isinstance(error, FileExistsError | IsADirectoryError | NotADirectoryError):
        return error
    return StoreError(f"The object store refuses the request: {reason}", path)


def no_bucket(path: str | os.PathLike) -> InputError:
    """Returns the error for a path whose bucket does not exist."""
    return InputError(
        f"{os.fspath(path)} was given, but the bucket {scheme(path)}://{bucket_of(path)} does not exist (or no longer "
        "exists). Check its name, or create it."
    )


def bucket_of(path: str | os.PathLike) -> str:
    """Returns the bucket in a path such as gs://bucket/folder."""
    return os.fspath(path).partition("://")[2].partition("/")[0]


def _chain(error: BaseException | None):
    """Yields an error and those that caused it."""
    for _ in range(10):
        if error is None:
            return
        yield error
        error = error.__cause__


def _status(error: BaseException) -> int | None:
    """Returns the HTTP status in an error or its causes."""
    for e in _chain(error):
        response = getattr(e, "response", None)  # botocore
        if isinstance(response, dict):
            found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        else:
            found = getattr(e, "code", None) or getattr(e, "status", None)  # gcsfs, aiohttp
        if str(found).isdigit():
            return int(str(found))
        if str(e).startswith("Forbidden: "):  # gcsfs
            return 403
    return None


def _names(error: BaseException) -> set[str]:
    """Returns the names of the classes of an error; aiohttp's ClientError gets a mark, botocore has the same name."""
    return {
        name
        for cls in type(error).__mro__
        for name in (cls.__name__, f"{cls.__name__}@{cls.__module__.partition('.')[0]}")
    }


def _reason(error: BaseException) -> str:
    text = str(error).strip() or ("no answer in time" if "Timeout" in type(error).__name__ else type(error).__name__)
    return " ".join(text.split())[:300].rstrip(".")
