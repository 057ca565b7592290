"""Messages for errors caused by users, one paragraph each; other errors are bugs and keep their traceback."""

import errno
import os
import sys

from compressed_lm.errors import CorruptStream, InputError

REPORT = (
    "This is a bug in compressed_lm, not in the input. Please report it with the command, these lines and the "
    "output of `compressed-lm doctor`."
)
_AGAIN = "Finished shards, checkpoints and files are kept: run the same command again."
_ADVICE = {
    errno.ENOENT: "Check the path.",
    errno.ENOTDIR: "A part of the path is a file where a folder is needed: check the path.",
    errno.EISDIR: "A file is needed: check the path.",
    errno.EEXIST: "Give another path, or remove what is there.",
    errno.ENOTEMPTY: "Give another folder, or empty this one.",
    errno.EACCES: "Give a path that this user may use, or change its permissions.",
    errno.EPERM: "Give a path that this user may use, or change its permissions.",
    errno.EROFS: "Give a path on a file system that can be written.",
    errno.ENAMETOOLONG: "Give a shorter path.",
    errno.ELOOP: "A symbolic link in the path points to itself: check the path.",
    errno.EINVAL: "The file system refuses this path or operation: give another path.",
    errno.EMFILE: f"Allow more open files (ulimit -n). {_AGAIN}",
    errno.ENOSPC: f"Free space on that disk. {_AGAIN}",
    errno.EDQUOT: f"Free space within the quota. {_AGAIN}",
}

_STORES = ("botocore", "aiobotocore", "gcsfs", "aiohttp", "google", "fsspec", "s3fs")
"""Packages of object stores; `io.remote` translates their errors, other libraries raise them unchanged."""


def explain(error: Exception) -> str | None:
    """Returns the message for an error, or None for a bug."""
    if isinstance(error, InputError | CorruptStream):
        return str(error)
    if isinstance(error, OSError):
        return _os_error(error)
    if type(error).__module__.partition(".")[0] in _STORES:
        return _store_error(error)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        first = (str(error) or "no memory is left").splitlines()[0]
        return (
            f"Out of memory ({first}). Give a smaller model, batch_size or seq_len, more micro_batches, or a machine "
            f"with more memory; `compressed-lm train --dry_run` reports what a run needs. {_AGAIN}"
        )
    return _platform(error)


def _os_error(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    return f"{(error.strerror or str(error) or type(error).__name__).rstrip('.')}{where}. " + (
        _ADVICE.get(error.errno or 0, _AGAIN)
    )


def _store_error(error: Exception) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300].rstrip(".")
    return (
        f"An object store refused a request, or did not answer ({type(error).__name__}: {reason}). Check the bucket's "
        f"name, the network and the credentials (gcloud auth application-default login, or aws configure). {_AGAIN}"
    )


def _platform(error: Exception) -> str | None:
    """Returns a message if JAX cannot start on the platform of JAX_PLATFORMS, else None."""
    asked = os.environ.get("JAX_PLATFORMS")
    if not asked or "jax" not in sys.modules or not isinstance(error, RuntimeError | AssertionError):
        return None
    import jax

    try:
        jax.devices()
        return None
    except (RuntimeError, AssertionError):  # AssertionError: the plugin of a known platform is not installed
        jax.config.update("jax_platforms", None)
    there = sorted({device.platform for device in jax.devices()} | {"cpu"})
    return (
        f"JAX_PLATFORMS={asked} was given, but JAX cannot start on it on this machine; it can start on "
        f"{', '.join(there)}. Unset JAX_PLATFORMS or set it to one of these; a GPU needs its driver and `pip install "
        "'jax[cuda13]'`, a TPU `pip install 'compressed_lm[tpu]'`."
    )
