"""Clients of object stores: gcsfs for gs://, s3fs for s3://.

Endpoints, credentials and regions come from the packages' own variables: STORAGE_EMULATOR_HOST and
GOOGLE_APPLICATION_CREDENTIALS; AWS_ENDPOINT_URL and the other AWS_ variables.
"""

import importlib.util
import logging
import os
import threading
from typing import Any

from compressed_lm.errors import InputError

PACKAGES = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}
"""Scheme -> (package that reads it, extra of `compressed_lm` that installs the package)."""

_clients: dict[tuple, Any] = {}
_lock = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: globals().update(_clients={}, _lock=threading.Lock()))


def check_package(scheme: str, path: str | os.PathLike, what: str) -> None:
    """Raises InputError if the package of a scheme is not installed."""
    package, extra = PACKAGES[scheme]
    if importlib.util.find_spec(package) is None:
        raise InputError(
            f"{what} {os.fspath(path)} was given, but {scheme}:// needs the package {package}, which is not installed. "
            f"Install it: pip install 'compressed_lm[{extra}]'."
        )


def client(scheme: str | None) -> Any:
    """Returns the `fsspec` file system of a scheme, without a cache of listings: other processes write, too.

    There is one for each process and setting of the environment. It is safe in threads, and made anew after a fork.
    """
    assert scheme in PACKAGES, scheme
    prefix = {"gs": ("STORAGE_EMULATOR_HOST", "GOOGLE_"), "s3": ("AWS_",)}[scheme]
    key = (scheme, *sorted((k, v) for k, v in os.environ.items() if k.startswith(prefix)))
    with _lock:
        if key not in _clients:
            _clients[key] = _made(scheme)
        return _clients[key]


def _made(scheme: str) -> Any:
    check_package(scheme, f"{scheme}://...", "A path")
    options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if scheme == "s3":
        import s3fs

        return s3fs.S3FileSystem(**options)
    from gcsfs.core import GCSFileSystem  # not `gcsfs.GCSFileSystem`, which asks a second service about each bucket

    if (logger := logging.getLogger("gcsfs")).level == logging.NOTSET:  # prints the traceback of each failed request
        logger.setLevel(logging.CRITICAL)
    if os.environ.get("STORAGE_EMULATOR_HOST", "default") not in ("", "default"):
        options["token"] = "anon"  # otherwise credentials are looked for in the network
    return GCSFileSystem(**options)
