"""Packed runs: a finished run as config.json and weights.clw, which `load_run` reads like any run."""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from compressed_lm import io, weights
from compressed_lm.io import folders
from compressed_lm.io.container import checksum
from compressed_lm.models.partitioning import by_name
from compressed_lm.training.checkpoints import folder
from compressed_lm.training.run_dir import CONFIG, WEIGHTS, copy_codec, learned_hash, load_run, read_record


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
    directory: str | os.PathLike, form: str | weights.Representation, *, out: str | os.PathLike, others: str = "dense"
) -> list[Matrix]:
    """Packs the newest checkpoint of a run.

    Args:
        directory: the run.
        form: representation of the matrices of its blocks, such as "int(b=4,g=32)"; see `weights.representation`.
        out: folder for the packed run, which `load_run` opens; its parameters are the quantised weights.
        others: representation of all other parameters: embeddings, output layer, norms, biases.

    Returns:
        One entry for each matrix of the blocks.

    Raises:
        InputError: no run, an unknown representation, one that cannot be stored, or an `out` that is in use.
    """
    block_format, other_format = weights.representation(form), weights.representation(others)
    with folders.new(out, "The folder of the packed run") as new:
        run = load_run(directory)
        packed, matrices = _quantized(run, block_format, other_format)
        n_weights = sum(math.prod(matrix.shape) for matrix in matrices)
        entry = {
            "format": str(block_format),
            "others": str(other_format),
            "bits_per_weight": sum(8 * packed[matrix.name].nbytes for matrix in matrices) / n_weights,
        }
        _write_derived(new, directory, run, packed, entry, weights="dense")
    return matrices


def _quantized(run, form, others):
    """Returns the packed parameters of a run by name, and the descriptions of its matrices."""
    leaves = by_name(jax.device_get(run.params))
    packed, matrices = {}, []
    for name, leaf in leaves.items():
        block = name.startswith("layers/")
        if block and name.endswith("/kernel"):
            trained = {k.split("weights_")[1]: v for k, v in leaves.items() if k.startswith(f"{name[:-6]}weights_")}
            params = trained if run.model_config.weights == str(form) else form.init_params(leaf)
            packed[name] = weights.pack(leaf, form, params=params)
            error = np.mean(np.square(weights.unpack(packed[name]) - leaf)) / np.mean(np.square(leaf))
            matrices.append(Matrix(name, leaf.shape, packed[name].bits_per_weight, float(error)))
        elif "weights_" not in name:  # the packed values include the learned parameters of the representation
            packed[name] = weights.pack(leaf, others, axis=-1)
    return packed, matrices


def reshape_run(
    directory: str | os.PathLike, *, out: str | os.PathLike, pooled: bool = False, **settings: Any
) -> dict[str, tuple[float, float]]:
    """Reshapes the matrices of the blocks of a run (DeepShape, `weights.reshape_weights`).

    Args:
        directory: the run.
        out: new folder for a run with these weights in float32, which `load_run` opens, to store or to train further.
        pooled: one fit for all matrices, as the authors do, or one for each.
        settings: of `weights.reshape_weights`.

    Returns:
        Standard deviation of each matrix before and after, by path and layer.

    Raises:
        InputError: no run, weights that cannot be reshaped, or an `out` that is in use.
    """
    with folders.new(out, "The folder of the reshaped run") as new:
        run = load_run(directory)
        leaves, deviations = _reshaped(run, pooled, settings)
        entry = {"format": run.weights, "reshaped": {"pooled": pooled, **settings}, "bits_per_weight": 32.0}
        _write_derived(new, directory, run, dense(leaves), entry)
    return deviations


def _reshaped(run, pooled, settings):
    """Returns the parameters of a run by name with reshaped matrices, and the standard deviations before and after."""
    leaves = by_name(jax.device_get(run.params))
    kernels = {name: w for name, w in leaves.items() if name.startswith("layers/") and name.endswith("/kernel")}
    before = {f"{name}/{i}": layer for name, w in kernels.items() for i, layer in enumerate(w)}
    after = weights.reshape_tensors(before, pooled=pooled, **settings)
    leaves |= {name: np.stack([after[f"{name}/{i}"] for i in range(len(w))]) for name, w in kernels.items()}
    return leaves, {name: (float(before[name].std()), float(after[name].std())) for name in before}


def _write_derived(out, source, run, packed, entry, **model):
    """Writes the packed run that was derived from `run`, which is in the folder `source`.

    Args:
        out: folder to write.
        source: folder of the original run.
        run: the original run.
        packed: the packed parameters by name.
        entry: the format, for the entry "packed" of the record.
        model: changed settings of the model.
    """
    record = read_record(folder(source))
    record["model"] |= model
    record["packed"] = entry | {"next_index": run.step, "loss_nats_per_token": run.loss_nats_per_token}
    write(out, record, packed, source=source)


def dense(leaves: Mapping[str, Any]) -> dict[str, weights.PackedTensor]:
    """Returns parameters packed in float32, by name."""
    return {name: weights.pack(leaf, "dense", axis=-1) for name, leaf in leaves.items()}


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
    hashes = {"config_hash": learned_hash(record), "weights_checksum": checksum(out / WEIGHTS)}
    record = record | {"packed": record["packed"] | hashes}
    io.write_atomic(out / CONFIG, json.dumps(record, indent=2) + "\n")
