"""Where numbers of a run go, beside its file of JSON lines: the terminal, TensorBoard, Weights & Biases."""

import os
import uuid
from collections.abc import Mapping
from typing import Protocol

from etils import epath

from compressed_lm import io
from compressed_lm.errors import InputError

WANDB_ID = "wandb_id.txt"


class Tracker(Protocol):
    """Receives the numbers of a run. Steps never decrease."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Records named numbers of one step."""

    def text(self, step: int, name: str, value: str) -> None:
        """Records a named text of one step."""

    def close(self) -> None:
        """Writes out what is still held back; the tracker receives nothing afterwards."""


class Terminal:
    """Prints one line a record."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        print(f"step {step:,}", *(f"{name} {value:.4g}" for name, value in values.items()), sep="  ", flush=True)

    def text(self, step: int, name: str, value: str) -> None:
        print(f"step {step:,}  {name}: {value}", flush=True)

    def close(self) -> None:
        pass


class TensorBoard:
    """Writes TensorBoard event files with tensorboardX, without TensorFlow.

    Raises:
        InputError: tensorboardX is not installed.
    """

    def __init__(self, directory: str | os.PathLike):
        try:
            import tensorboardX
        except ImportError as error:
            raise InputError(
                "A TensorBoard tracker was asked for, but the package tensorboardX is not installed; "
                "run `pip install compressed_lm[tensorboard]`."
            ) from error
        if io.scheme(directory) == "gs":
            try:
                import google.cloud.storage  # noqa: F401  which tensorboardX writes with
            except ImportError as error:
                raise ValueError(
                    f"TensorBoard events were to be written to {os.fspath(directory)}, but the package "
                    "google-cloud-storage is not installed; run `pip install google-cloud-storage`."
                ) from error
        # Made with the first record, since it makes the folder.
        self._writer, self._make = None, lambda: tensorboardX.SummaryWriter(os.fspath(directory))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._writer = self._writer or self._make()
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def text(self, step: int, name: str, value: str) -> None:
        self._writer = self._writer or self._make()
        self._writer.add_text(name, value, step)

    def close(self) -> None:
        if self._writer:
            self._writer.close()


class Wandb:
    """Sends records to Weights & Biases; with WANDB_MODE=offline it keeps them in `directory` for `wandb sync`.

    A run that is started again goes on in the same W&B run: its id is made once and stays in the run's folder. (An id
    made out of the folder's name would mix two runs of that name, on two machines or one after the other.) W&B refuses
    steps below the last one it saw; those are the ones that an exact restart repeats.

    Args:
        directory: the run's folder.
        init: more keywords of `wandb.init`, such as project and config. Name and group are by default the names of the
            run's folder and of the folder around it.

    Raises:
        InputError: wandb is not installed.
    """

    def __init__(self, directory: str | os.PathLike, **init):
        try:
            import wandb
        except ImportError as error:
            raise InputError(
                "A Weights & Biases tracker was asked for, but the package wandb is not installed; "
                "run `pip install compressed_lm[wandb]`."
            ) from error
        directory = epath.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / WANDB_ID
        if not path.exists():
            made = uuid.uuid4().hex[:16]
            path.write_text(made) if "://" in os.fspath(path) else io.write_atomic(path, made)
        names = {"name": directory.name, "group": directory.parent.name or None}
        if "://" not in os.fspath(directory):  # wandb's own files stay on this machine
            names["dir"] = os.fspath(directory)
        self._run = wandb.init(id=path.read_text().strip(), resume="allow", **(names | init))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def text(self, step: int, name: str, value: str) -> None:
        self._run.log({name: value}, step=step)

    def close(self) -> None:
        self._run.finish()
