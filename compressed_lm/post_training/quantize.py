"""Packed runs: a finished run as config.json and weights.clw, which `load_run` reads like any run."""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from compressed_lm import io, weights
from compressed_lm.io import folders
from compressed_lm.io.container import checksum
from compressed_lm.tracking.progress import Job
from compressed_lm.tracking.progress import progress as default_progress
from compressed_lm.training.run_dir import CONFIG, WEIGHTS, StoredRun, copy_codec, learned_hash, open_run

KEEP = "keep"
"""In place of a representation: the parameters as the run stores them."""


@dataclasses.dataclass(frozen=True)
class Matrix:
    """Result of packing the matrices of one name, all layers together.

    Attributes:
        name: path of the parameter.
        shape: [n_layers, inputs, outputs].
        bits_per_weight: stored bits, scales and indices included, divided by the number of weights.
        error: mean squared error divided by mean square; for Gaussian weights the format's GMSE.
    """

    name: str
    shape: tuple[int, ...]
    bits_per_weight: float
    error: float


def quantize_run(
    directory: str | os.PathLike,
    form: str | weights.Representation,
    *,
    out: str | os.PathLike,
    others: str = KEEP,
    progress: Callable[..., contextlib.AbstractContextManager[Job]] = default_progress,
) -> list[Matrix]:
    """Packs the newest checkpoint of a run.

    Args:
        directory: the run.
        form: representation of the matrices of its blocks, such as "int(b=4,g=32)"; see `weights.representation`.
        out: folder for the packed run, which `load_run` opens; its parameters are the quantised weights.
        others: representation of all other parameters: embeddings, output layer, norms, biases. keep: as the run
            stores them, which is float32 except for imported runs.
        progress: context manager with the arguments of `tracking.progress.progress`.

    Returns:
        One entry for each matrix of the blocks.

    Raises:
        InputError: no run, an unknown representation, one that cannot be stored, or an `out` that is in use.
    """
    block_format, other_format = (
        weights.representation(form),
        None if others == KEEP else weights.representation(others),
    )
    with folders.new(out, "The folder of the packed run") as new:
        run = open_run(directory)
        packed, matrices = _quantized(run, block_format, other_format, progress)
        n_weights = sum(math.prod(matrix.shape) for matrix in matrices)
        specs = {tensor.spec for name, tensor in packed.items() if name not in {matrix.name for matrix in matrices}}
        kept = specs.pop() if len(specs) == 1 else KEEP
        entry = {
            "format": str(block_format),
            "others": str(other_format or kept),
            "bits_per_weight": sum(8 * packed[matrix.name].nbytes for matrix in matrices) / n_weights,
        }
        record = _derived(run, entry, weights="dense")
        copy_codec(directory, new)
        weights.save_packed(new / WEIGHTS, packed)
        write_record(new, record)
    return matrices


def _quantized(run, form, others, progress):
    """Returns the packed parameters of a run by name, and the descriptions of its matrices."""
    packed, matrices, names = {}, [], list(run.shapes)
    with progress("quantize", sum(math.prod(shape) for shape in run.shapes.values()), unit="weights") as job:
        for name, shape in run.shapes.items():
            block = name.startswith("layers/")
            if block and name.endswith("/kernel"):
                leaf = weights.to_float32(run.read(name))
                learned = [k for k in names if k.startswith(f"{name[:-6]}weights_")]
                trained = {k.split("weights_")[1]: run.read(k) for k in learned}
                params = trained if run.model_config.weights == str(form) else form.init_params(leaf)
                packed[name] = weights.pack(leaf, form, params=params)
                error = _relative_error(weights.unpack(packed[name]), leaf)
                matrices.append(Matrix(name, leaf.shape, packed[name].bits_per_weight, error))
            elif "weights_" not in name:  # the packed values include the learned parameters of the representation
                leaf = run.read(name)
                packed[name] = weights.pack(leaf, others, axis=-1) if others else weights.pack_dense(leaf)
            job.advance(math.prod(shape))
    return packed, matrices


def _relative_error(restored: np.ndarray, leaf: np.ndarray) -> float:
    """Returns the mean squared error divided by the mean square; overwrites `restored`, to save memory."""
    restored = restored if restored.flags.writeable else restored.copy()
    restored -= leaf
    error = np.mean(np.square(restored, out=restored))
    return float(error / np.mean(np.square(leaf, out=restored)))


def reshape_run(
    directory: str | os.PathLike,
    *,
    out: str | os.PathLike,
    pooled: bool = False,
    progress: Callable[..., contextlib.AbstractContextManager[Job]] = default_progress,
    **settings: Any,
) -> dict[str, tuple[float, float]]:
    """Reshapes the matrices of the blocks of a run (DeepShape, `weights.reshape_weights`).

    Args:
        directory: the run.
        out: new folder for a run with these weights in float32, which `load_run` opens, to store or to train further.
        pooled: one fit for all matrices, as the authors do, or one for each, which needs less memory.
        progress: context manager with the arguments of `tracking.progress.progress`.
        settings: of `weights.reshape_weights`.

    Returns:
        Standard deviation of each matrix before and after, by path and layer.

    Raises:
        InputError: no run, weights that cannot be reshaped, or an `out` that is in use.
    """
    deviations: dict[str, tuple[float, float]] = {}
    with folders.new(out, "The folder of the reshaped run") as new:
        run = open_run(directory)
        entry = {"format": run.weights, "reshaped": {"pooled": pooled, **settings}, "bits_per_weight": 32.0}
        record = _derived(run, entry)
        copy_codec(directory, new)
        described = {name: (shape, np.float32) for name, shape in run.shapes.items()}
        weights.save_dense(new / WEIGHTS, described, _reshaped(run, pooled, settings, deviations, progress))
        write_record(new, record)
    return deviations


def _reshaped(run, pooled, settings, deviations, progress) -> Iterator[np.ndarray]:
    """Yields the parameters of a run with reshaped matrices; adds the standard deviations before and after."""
    kernels = [name for name in run.shapes if name.startswith("layers/") and name.endswith("/kernel")]

    def matrices(names):
        return {f"{name}/{i}": w for name in names for i, w in enumerate(weights.to_float32(run.read(name)))}

    with progress("reshape", sum(math.prod(run.shapes[name]) for name in kernels), unit="weights") as job:
        together = weights.reshape_tensors(matrices(kernels), pooled=True, **settings) if pooled else {}
        for name in run.shapes:
            if name not in kernels:
                yield weights.to_float32(run.read(name))
                continue
            before = matrices([name])
            after = {key: together.pop(key) for key in before} if pooled else None
            after = after or weights.reshape_tensors(before, pooled=False, **settings)
            deviations |= {key: (float(before[key].std()), float(after[key].std())) for key in before}
            job.advance(math.prod(run.shapes[name]))
            yield np.stack(list(after.values()))


def _derived(run: StoredRun, entry: dict[str, Any], **model: Any) -> dict[str, Any]:
    """Returns the record of a packed run that was derived from another one.

    Args:
        run: the original run.
        entry: the format, for the entry "packed".
        model: changed settings of the model.
    """
    packed = entry | {"next_index": run.step, "loss_nats_per_token": run.loss_nats_per_token}
    return run.record | {"model": run.record["model"] | model, "packed": packed}


def dense(leaves: Mapping[str, Any]) -> dict[str, weights.PackedTensor]:
    """Returns parameters packed in float32, by name."""
    return {name: weights.pack_dense(np.asarray(leaf, np.float32)) for name, leaf in leaves.items()}


def write(
    out: pathlib.Path | epath.Path,
    record: dict,
    packed: dict[str, weights.PackedTensor],
    *,
    source: str | os.PathLike | None = None,
) -> None:
    """Writes the folder of a packed run.

    Args:
        out: the folder.
        record: of the run, with the entry "packed".
        packed: all parameters by name.
        source: folder of the run that it was derived from, whose codec is copied.
    """
    if source is not None:
        copy_codec(source, out)
    weights.save_packed(out / WEIGHTS, packed)
    write_record(out, record)


def write_record(out: pathlib.Path | epath.Path, record: dict) -> None:
    """Writes the record of a packed run, with the checksum of its file of weights, which was written before."""
    hashes = {"config_hash": learned_hash(record), "weights_checksum": checksum(out / WEIGHTS)}
    record = record | {"packed": record["packed"] | hashes}
    io.write_atomic(out / CONFIG, json.dumps(record, indent=2) + "\n")
