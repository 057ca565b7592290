"""A finished run with its matrices packed: config.json and weights.clw, which `load_run` reads like any run."""

import dataclasses
import json
import math
import os

import jax
import numpy as np

from compressed_lm import io, weights
from compressed_lm.io import folders
from compressed_lm.io.container import checksum
from compressed_lm.models.partitioning import by_name
from compressed_lm.training.checkpoints import folder
from compressed_lm.training.run_dir import CONFIG, WEIGHTS, copy_codec, learned_hash, load_run, read_record


@dataclasses.dataclass(frozen=True)
class Matrix:
    """What packing did to the matrices of one name, those of all layers together.

    Attributes:
        name: path of the parameter.
        shape: [n_layers, inputs, outputs].
        bits_per_weight: stored bits, scales and indices included, over weights.
        error: mean squared error over mean square, which the format's GMSE is for Gaussian weights.
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
        out: folder for the packed run, which `load_run` opens; its parameters are what the formats make of the weights.
        others: representation of everything else: embeddings, output layer, norms, biases.

    Returns:
        One entry for each matrix of the blocks.

    Raises:
        InputError: no run, an unknown representation, one that cannot be stored, or an `out` that is in use.
    """
    form, others = weights.representation(form), weights.representation(others)
    with folders.new(out, "The folder of the packed run") as new:
        record, packed, matrices = _quantized(directory, form, others)
        write(new, record, packed, source=directory)
    return matrices


def _quantized(directory, form, others):
    """Returns the record, the parameters and the descriptions of a run's matrices in another form."""
    run = load_run(directory)
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
        elif "weights_" not in name:  # what the representation of training needed is in the packed values now
            packed[name] = weights.pack(leaf, others, axis=-1)
    record = read_record(folder(directory))
    record["model"] |= {"weights": "dense"}
    record["packed"] = {
        "format": str(form),
        "others": str(others),
        "bits_per_weight": sum(8 * packed[m.name].nbytes for m in matrices) / sum(math.prod(m.shape) for m in matrices),
        "next_index": run.step,
        "loss_nats_per_token": run.loss_nats_per_token,
    }
    return record, packed, matrices


def reshape_run(
    directory: str | os.PathLike, *, out: str | os.PathLike, pooled: bool = False, **settings
) -> dict[str, tuple[float, float]]:
    """Reshapes the matrices of the blocks of a run (DeepShape, `weights.reshape_weights`).

    Args:
        directory: the run.
        out: new folder for a run with these weights in float32, which `load_run` opens: to store, or to train on from.
        pooled: one fit for all matrices, as the authors have it, or one for each.
        settings: of `weights.reshape_weights`.

    Returns:
        Standard deviation of each matrix before and after, by its path and layer.

    Raises:
        InputError: no run, weights that cannot be reshaped, or an `out` that is in use.
    """
    with folders.new(out, "The folder of the reshaped run") as new:
        record, packed, widths = _reshaped(directory, pooled, settings)
        write(new, record, packed, source=directory)
    return widths


def _reshaped(directory, pooled, settings):
    """Returns the record and the parameters of a run with reshaped matrices, and their widths before and after."""
    run = load_run(directory)
    leaves = by_name(jax.device_get(run.params))
    kernels = {name: w for name, w in leaves.items() if name.startswith("layers/") and name.endswith("/kernel")}
    before = {f"{name}/{i}": layer for name, w in kernels.items() for i, layer in enumerate(w)}
    after = weights.reshape_tensors(before, pooled=pooled, **settings)
    leaves |= {name: np.stack([after[f"{name}/{i}"] for i in range(len(w))]) for name, w in kernels.items()}
    record = read_record(folder(directory))
    record["packed"] = {
        "format": run.weights,
        "reshaped": {"pooled": pooled, **settings},
        "bits_per_weight": 32.0,
        "next_index": run.step,
        "loss_nats_per_token": run.loss_nats_per_token,
    }
    packed = {name: weights.pack(w, "dense", axis=-1) for name, w in leaves.items()}
    return record, packed, {name: (float(before[name].std()), float(after[name].std())) for name in before}


def write(
    out, record: dict, packed: dict[str, weights.PackedTensor], *, source: str | os.PathLike | None = None
) -> None:
    """Writes the folder of a packed run: its record, with the entry "packed", and all of its parameters. A run that was
    made out of another one, `source`, keeps its codec."""
    if source is not None:
        copy_codec(source, out)
    weights.save_packed(out / WEIGHTS, packed)
    hashes = {"config_hash": learned_hash(record), "weights_checksum": checksum(out / WEIGHTS)}
    record = record | {"packed": record["packed"] | hashes}
    io.write_atomic(out / CONFIG, json.dumps(record, indent=2) + "\n")
