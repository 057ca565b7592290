"""Where numbers of a run go: the terminal, a file of JSON lines, TensorBoard, Weights & Biases."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Protocol


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


class JSONLines:
    """Appends one JSON object a record to a file, flushed at once: `{"step": 20, "loss_nats_per_token": 3.1}`.

    Args:
        path: the file; it is made if missing.
        last_step: where a run resumes. Records of later steps, which the run will write again, and a last line cut
            short by a crash are removed first.
    """

    def __init__(self, path: str | os.PathLike, *, last_step: int | None = None):
        path = pathlib.Path(path)
        if last_step is not None and path.exists():
            kept = [line for line, record in _complete_lines(path) if record["step"] <= last_step]
            temporary = path.with_name(path.name + ".tmp")
            temporary.write_text("".join(kept), encoding="utf-8")
            temporary.replace(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._write({"step": step, **{name: float(value) for name, value in values.items()}})

    def text(self, step: int, name: str, value: str) -> None:
        self._write({"step": step, name: value})

    def close(self) -> None:
        self._file.close()

    def _write(self, record):
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()


def read_json_lines(path: str | os.PathLike) -> list[dict]:
    """Returns the records of a `JSONLines` file, without a last one that was cut short."""
    return [record for _, record in _complete_lines(pathlib.Path(path))]


def _complete_lines(path):
    """Yields (line, record) for each whole line."""
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            yield line, json.loads(line)


class TensorBoard:
    """Writes TensorBoard event files with tensorboardX, without TensorFlow.

    Raises:
        ValueError: tensorboardX is not installed.
    """

    def __init__(self, directory: str | os.PathLike):
        try:
            import tensorboardX
        except ImportError as error:
            raise ValueError(
                "A TensorBoard tracker was asked for, but the package tensorboardX is not installed; "
                "run `pip install compressed_lm[tensorboard]`."
            ) from error
        self._writer = tensorboardX.SummaryWriter(os.fspath(directory))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def text(self, step: int, name: str, value: str) -> None:
        self._writer.add_text(name, value, step)

    def close(self) -> None:
        self._writer.close()


class Wandb:
    """Sends records to Weights & Biases; the keywords are those of `wandb.init`.

    Raises:
        ValueError: wandb is not installed.
    """

    def __init__(self, **init):
        try:
            import wandb
        except ImportError as error:
            raise ValueError(
                "A Weights & Biases tracker was asked for, but the package wandb is not installed; "
                "run `pip install compressed_lm[wandb]`."
            ) from error
        self._run = wandb.init(**init)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def text(self, step: int, name: str, value: str) -> None:
        self._run.log({name: value}, step=step)

    def close(self) -> None:
        self._run.finish()
