"""Checkpoint manager: asynchronous atomic writes, checksums, fallback to an older checkpoint."""

import contextlib
import errno
import functools
import os
import re
import sys
import warnings
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from orbax.checkpoint import v1 as ocp

from compressed_lm import io
from compressed_lm.errors import InputError
from compressed_lm.training.mirror import Mirror
from compressed_lm.training.step import TrainState

_REASON_LETTERS = 300  # most letters shown of a storage error, which may have thousands
_FULL = re.compile("|".join(os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT)))


class Checkpoints:
    """The checkpoints of one run, a folder for each step.

    A checkpoint holds `params`, `optimizer` (optimizer state and step) and `data`, a dictionary of plain values. It
    gets its name only when it is complete, so a run may be killed at any time.

    Args:
        directory: folder of the checkpoints.
        keep: number of the newest checkpoints that are kept.
        keep_every: checkpoints at multiples of this step are kept permanently; 0 for none.

    Attributes:
        directory: folder of the checkpoints.
    """

    def __init__(self, directory: str | os.PathLike, *, keep: int, keep_every: int = 0):
        self.directory = folder(directory)
        self._mirror = None
        if io.scheme(self.directory) == "s3":
            self._mirror = Mirror(self.directory, keep=keep, keep_every=keep_every)
        policies = ocp.training.preservation_policies
        kept = [policies.LatestN(keep), *([policies.EveryNSteps(keep_every)] if keep_every else [])]
        self._orbax = ocp.training.Checkpointer(
            self._mirror.local if self._mirror else self.directory,
            preservation_policy=policies.AnyPreservationPolicy(kept),
            cleanup_tmp_directories=True,
        )
        self._saving: Any = None

    def save(self, state: TrainState, data: dict) -> None:
        """Starts to write the state; returns as soon as it may be overwritten. The next call reports a failure."""
        self.wait()
        _drop_late_callbacks()
        parts = {"params": state.params, "optimizer": (state.opt_state, state.step)}
        parts["data"] = data | {"digests": {name: digest(part) for name, part in parts.items()}}
        # A damaged checkpoint of the same step, which `restore` skipped, is replaced.
        step = int(data["next_index"])
        saving = self._orbax.save_checkpointables_async(step, parts, force=True, overwrite=True)
        self._saving = self._mirror.push_when(saving, step) if self._mirror else saving

    def wait(self) -> None:
        """Waits until the last checkpoint is on disk.

        Raises:
            InputError: it could not be written.
        """
        saving, self._saving = self._saving, None
        try:
            if saving is not None:
                saving.result()
        except Exception as error:  # a full disk raises an error type of the storage library
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:_REASON_LETTERS]
            action = "start the run again, it resumes"
            if full := _FULL.search(str(error)):
                reason, action = full[0], f"make room on the disk and {action}"
            raise InputError(
                f"A checkpoint could not be written to {self.directory} ({reason}). Earlier checkpoints are intact: "
                f"{action}."
            ) from error

    def newest_step(self) -> int | None:
        """Returns the step of the newest checkpoint, or None."""
        return max(_steps(self._orbax, self._mirror), default=None)

    def close(self) -> None:
        """Waits for the last checkpoint, then closes the folder."""
        try:
            self.wait()
        finally:
            with contextlib.suppress(Exception):  # raises a failed save again, which `wait` has already reported
                self._orbax.close()
            if self._mirror:
                self._mirror.close()

    def restore(self, abstract: TrainState) -> tuple[TrainState, dict] | None:
        """Returns (state without frozen parameters, data) of the newest readable checkpoint, None if there is none.

        Args:
            abstract: shapes, types and shardings of the state.

        Raises:
            InputError: there are checkpoints, but none can be read.
        """
        parts = {"params": abstract.params, "optimizer": (abstract.opt_state, abstract.step), "data": None}
        loaded = _newest(self._orbax, parts, self.directory, self._mirror)
        return (TrainState(loaded["params"], *loaded["optimizer"]), loaded["data"]) if loaded else None


@functools.cache  # once per process
def _drop_late_callbacks() -> None:
    """Silences the storage library's threads after a failed save.

    Each thread would print a traceback through `sys.unraisablehook`, because its event loop is already closed. The
    failure itself is raised by `wait`.
    """
    before = sys.unraisablehook

    def hook(unraisable):
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = hook


def restore_params(directory: str | os.PathLike, abstract_params: Any) -> tuple[dict, dict] | None:
    """Returns (params, data) of the newest readable checkpoint in a folder, None if there is none.

    Args:
        directory: folder of the checkpoints.
        abstract_params: shapes, types and shardings of the parameters.

    Raises:
        InputError: there are checkpoints, but none can be read.
    """
    path = folder(directory)
    if not path.is_dir():
        return None
    with contextlib.ExitStack() as stack:
        mirror = stack.enter_context(contextlib.closing(Mirror(path))) if io.scheme(path) == "s3" else None
        reader = stack.enter_context(ocp.training.Checkpointer(mirror.local if mirror else path))
        loaded = _newest(reader, {"params": abstract_params, "data": None}, path, mirror)
        return (loaded["params"], loaded["data"]) if loaded else None


def folder(path: str | os.PathLike) -> epath.Path:
    """Returns the path of a run's folder: absolute if it is local, unchanged if it is in an object store.

    Raises:
        InputError: another scheme than gs:// and s3://, or one without the package that reads it.
    """
    found = io.any_path(path, "The folder of a run")
    if io.scheme(path) == "gs" and (emulator := os.environ.get("STORAGE_EMULATOR_HOST", "default")) != "default":
        # TensorStore writes the arrays of checkpoints, and has a variable of its own.
        os.environ["TENSORSTORE_GCS_HTTP_URL"] = emulator if "://" in emulator else f"http://{emulator}"
    return epath.Path(found) if io.is_remote(found) else epath.Path(found).absolute()


def digest(tree: Any) -> int:
    """Returns the sum of all 32-bit words of a tree of arrays modulo 2**32; any single damaged number changes it.

    The storage format has no checksum of the numbers. Integer sums are the same on every mesh.
    """
    return sum(int(words) for words in jax.device_get([_sum_words(leaf) for leaf in jax.tree.leaves(tree)])) % 2**32


@jax.jit
def _sum_words(x):
    if x.dtype != bool:
        x = jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}")
    return jnp.sum(x, dtype=jnp.uint32)


def _steps(checkpointer: ocp.training.Checkpointer, mirror: Mirror | None) -> list[int]:
    """Returns the steps of all checkpoints, the newest one first."""
    steps = mirror.steps() if mirror else [checkpoint.step for checkpoint in checkpointer.checkpoints]
    return sorted(steps, reverse=True)


def _load(
    checkpointer: ocp.training.Checkpointer, mirror: Mirror | None, step: int, parts: dict[str, Any]
) -> dict[str, Any]:
    if mirror is None:
        return checkpointer.load_checkpointables(step, parts)
    with mirror.fetched(step) as copy, ocp.training.Checkpointer(copy) as reader:
        return reader.load_checkpointables(step, parts)


def _newest(
    checkpointer: ocp.training.Checkpointer, parts: dict[str, Any], directory: epath.Path, mirror: Mirror | None
) -> dict[str, Any] | None:
    """Returns the parts of the newest readable checkpoint, None if there is none; warns of each damaged one."""
    steps = _steps(checkpointer, mirror)
    for step in steps:
        try:
            loaded = _load(checkpointer, mirror, step, parts)
            for name in parts.keys() - {"data"}:
                if digest(loaded[name]) != loaded["data"]["digests"][name]:
                    raise ValueError(f"the checksum of {name} differs")
            return loaded
        except Exception as error:  # a damaged file may raise any error; the next older checkpoint is tried
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            warnings.warn(
                f"The checkpoint of step {step} cannot be read and is skipped ({reason[:200]}).", stacklevel=3
            )
    if steps:
        raise InputError(
            f"None of the checkpoints in {directory} (steps {steps}) can be read; the warnings say why. "
            "Restore the folder from a copy, or remove the run's folder to start from the beginning."
        )
    return None
