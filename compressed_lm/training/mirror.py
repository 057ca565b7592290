"""Checkpoints in s3://, for which the checkpoint library has no driver: a local copy of the folder."""

import concurrent.futures
import contextlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath

from compressed_lm.errors import InputError
from compressed_lm.io import remote

DONE = "_UPLOADED"
"""Object that is written when all others of a checkpoint are there; it holds their names and sizes."""

THREADS = 8


class Mirror:
    """Local folder to which checkpoints are saved, and the folder in an object store to which they are copied.

    Args:
        directory: the folder in the store.
        keep, keep_every: as of `Checkpoints`.

    Attributes:
        local: the local folder, temporary; needs room for `keep` checkpoints.

    Raises:
        InputError: the run has several processes, which would need a folder that all of them see.
    """

    def __init__(self, directory: epath.Path, *, keep: int = 1, keep_every: int = 0):
        if jax.process_count() > 1:
            raise InputError(
                f"{directory} was given for the checkpoints of a run of {jax.process_count()} processes; in s3:// they "
                "are supported for one process. Give a folder that all processes see: gs://..., or a bucket that is "
                "mounted as a file system."
            )
        self._directory, self._keep, self._keep_every = directory, keep, keep_every
        self._made = tempfile.TemporaryDirectory(prefix="compressed-lm-checkpoints-")
        self.local = epath.Path(self._made.name)
        self._uploader = concurrent.futures.ThreadPoolExecutor(1, "upload")

    def steps(self) -> list[int]:
        """Returns the steps of the complete checkpoints in the store, the newest one first."""
        found = [step for step in self._folders() if remote.exists(self._directory / str(step) / DONE)]
        return sorted(found, reverse=True)

    @contextlib.contextmanager
    def fetched(self, step: int) -> Iterator[epath.Path]:
        """Copies a checkpoint to a temporary folder of checkpoints, and yields this folder.

        Raises:
            ValueError: an object has another size than when it was written, or a name outside of the checkpoint.
            FileNotFoundError: an object is missing.
        """
        source = self._directory / str(step)
        files = json.loads(remote.read_bytes(source / DONE))
        with tempfile.TemporaryDirectory(prefix="compressed-lm-checkpoint-") as made:
            target = pathlib.Path(made) / str(step)

            def copy(name: str) -> None:
                if {"", ".", ".."} & set(name.split("/")):
                    raise ValueError(f"{name!r:.100} is not the name of a file in {source}")
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                with remote.open_input(source / name) as file, open(target / name, "wb") as new:
                    shutil.copyfileobj(file, new, 1 << 20)
                if (target / name).stat().st_size != files[name]:
                    raise ValueError(f"{source / name} has another size than when it was written")

            with concurrent.futures.ThreadPoolExecutor(THREADS) as threads:
                list(threads.map(copy, files))
            yield epath.Path(made)

    def push_when(self, saving: Any, step: int) -> concurrent.futures.Future[None]:
        """Returns the future of copying a checkpoint to the store once it is saved, and of deleting old ones there.

        Args:
            saving: future of the local checkpoint.
            step: its step.
        """
        return self._uploader.submit(self._push, saving, step)

    def _push(self, saving: Any, step: int) -> None:
        saving.result()
        local, target = pathlib.Path(self.local) / str(step), self._directory / str(step)
        files = {file.relative_to(local).as_posix(): file for file in sorted(local.rglob("*")) if file.is_file()}
        if step in self._folders():
            self._delete(step)
        with concurrent.futures.ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(lambda name: remote.upload(files[name], target / name), files))
        remote.write_bytes(target / DONE, json.dumps({name: os.path.getsize(files[name]) for name in files}).encode())
        complete = self.steps()
        kept = {*complete[: self._keep], *(n for n in complete if self._keep_every and n % self._keep_every == 0)}
        for old in self._folders():
            if old not in kept:
                self._delete(old)

    def _delete(self, step: int) -> None:
        remote.delete(self._directory / str(step) / DONE)  # first: what is left is not complete
        if remote.exists(self._directory / str(step)):
            remote.delete_tree(self._directory / str(step))

    def _folders(self) -> list[int]:
        return [int(name) for name in remote.entries(self._directory) if name.isdigit()]

    def close(self) -> None:
        """Waits for uploads and removes the local folder."""
        self._uploader.shutdown()
        self._made.cleanup()
