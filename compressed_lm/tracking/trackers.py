"""Trackers of the numbers of a run: terminal, TensorBoard, Weights & Biases."""

import dataclasses
import os
import pathlib
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from etils import epath

from compressed_lm import io
from compressed_lm.errors import InputError
from compressed_lm.io import remote
from compressed_lm.tracking.json_lines import REWRITE_SECONDS

WANDB_ID = "wandb_id.txt"


class Tracker(Protocol):
    """Receiver of the numbers of a run. Steps never decrease."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Records named numbers of a step."""

    def text(self, step: int, name: str, value: str) -> None:
        """Records a named text of a step."""

    def close(self) -> None:
        """Writes buffered records. No records may follow."""


class Terminal:
    """Tracker that prints one line per record."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Prints named numbers of a step."""
        print(f"step {step:,}", *(f"{name} {value:.4g}" for name, value in values.items()), sep="  ", flush=True)

    def text(self, step: int, name: str, value: str) -> None:
        """Prints a named text of a step."""
        print(f"step {step:,}  {name}: {value}", flush=True)

    def close(self) -> None:
        """Does nothing."""


class TensorBoard:
    """Tracker that writes TensorBoard event files with tensorboardX, without TensorFlow.

    Args:
        directory: folder of the event files. In an object store (gs://, s3://) the files are written again at most
            every `REWRITE_SECONDS`, and by `close`.
        now: clock (seconds).

    Raises:
        InputError: tensorboardX is not installed.
    """

    def __init__(self, directory: str | os.PathLike, *, now: Callable[[], float] = time.monotonic):
        try:
            import tensorboardX
        except ImportError as error:
            raise InputError(
                "A TensorBoard tracker was requested, but the package tensorboardX is not installed; "
                "run `pip install compressed_lm[tensorboard]`."
            ) from error
        path = io.any_path(directory, "The folder of the TensorBoard events")
        self._remote = path if io.is_remote(path) else None
        self._made = tempfile.TemporaryDirectory(prefix="compressed-lm-events-") if self._remote else None
        self._local = pathlib.Path(self._made.name) if self._made else pathlib.Path(path)
        self._make = lambda: tensorboardX.SummaryWriter(os.fspath(self._local))
        self._writer: Any = None  # created with the first record, because it creates the folder
        self._now, self._uploaded = now, now()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes named numbers of a step."""
        self._writer = self._writer or self._make()
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._upload_when_due()

    def text(self, step: int, name: str, value: str) -> None:
        """Writes a named text of a step."""
        self._writer = self._writer or self._make()
        self._writer.add_text(name, value, step)
        self._upload_when_due()

    def close(self) -> None:
        """Closes the event file."""
        if self._writer:
            self._writer.close()
            self._upload()
        if self._made:
            self._made.cleanup()

    def _upload_when_due(self) -> None:
        if self._remote and self._now() - self._uploaded >= REWRITE_SECONDS:
            self._writer.flush()
            self._upload()

    def _upload(self) -> None:
        if self._remote:
            for file in self._local.iterdir():
                remote.upload(file, self._remote / file.name)
            self._uploaded = self._now()


class Wandb:
    """Tracker that sends records to Weights & Biases.

    With WANDB_MODE=offline, records are kept in `directory` for `wandb sync`. A restarted run continues the same W&B
    run: its id is created once and kept in the run's folder. (An id made from the folder's name would mix two runs of
    the same name.) W&B refuses steps below the last one it received; these are the steps that an exact restart repeats.

    Args:
        directory: folder of the run.
        **init: more keywords of `wandb.init`, such as project and config. By default, name and group are the names of
            the run's folder and of its parent.

    Raises:
        InputError: wandb is not installed.
    """

    def __init__(self, directory: str | os.PathLike, **init: Any):
        try:
            import wandb
        except ImportError as error:
            raise InputError(
                "A Weights & Biases tracker was requested, but the package wandb is not installed; "
                "run `pip install compressed_lm[wandb]`."
            ) from error
        folder = io.any_path(directory, "The folder of the run")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / WANDB_ID
        if not path.exists():
            made = uuid.uuid4().hex[:16]
            io.write_atomic(path, made)
        names = {"name": folder.name, "group": folder.parent.name or None}
        if not io.is_remote(folder):  # wandb writes its own files to local folders only
            names["dir"] = os.fspath(folder)
        self._run = wandb.init(id=path.read_text().strip(), resume="allow", **(names | init))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Sends named numbers of a step."""
        self._run.log(dict(values), step=step)

    def text(self, step: int, name: str, value: str) -> None:
        """Sends a named text of a step."""
        self._run.log({name: value}, step=step)

    def close(self) -> None:
        """Finishes the W&B run."""
        self._run.finish()


@dataclasses.dataclass(frozen=True)
class TrackerOption:
    """Option of `compressed-lm train` that adds a tracker.

    Attributes:
        argument: keywords of `argparse.ArgumentParser.add_argument`.
        make: (value of the option, folder of the run) -> tracker.
    """

    argument: Mapping[str, Any]
    make: Callable[[Any, epath.Path], Tracker]


TRACKERS: dict[str, TrackerOption] = {
    "tensorboard": TrackerOption(
        {"action": "store_true", "help": "also write TensorBoard events to OUT/tensorboard"},
        lambda value, out: TensorBoard(out / "tensorboard"),
    ),
    "wandb": TrackerOption(
        {"metavar": "PROJECT", "help": "also send the numbers to Weights & Biases"},
        lambda value, out: Wandb(out, project=value),
    ),
}
"""Trackers by the option that adds them."""
