"""A finished run in one file of coded weights, and back into a folder that `load_run` reads like any run."""

import dataclasses
import math
import os
from typing import TYPE_CHECKING

import numpy as np

from compressed_lm import io, weights
from compressed_lm.coding import exp_golomb, levels
from compressed_lm.errors import InputError
from compressed_lm.io import folders, locks
from compressed_lm.models.partitioning import by_name
from compressed_lm.post_training.quantize import write
from compressed_lm.training.checkpoints import folder
from compressed_lm.training.run_dir import CODEC, check_record, load_run, read_record
from compressed_lm.weights import bitstream

if TYPE_CHECKING:  # training works without the packages that codecs need
    from compressed_lm.codecs.protocol import Codec


@dataclasses.dataclass(frozen=True)
class Coded:
    """What coding did to a parameter, that of all layers together.

    Attributes:
        name: path of the parameter.
        shape: of the parameter; layers come first.
        step: distance between its levels; None where it is kept in float32.
        n_levels: distinct levels that occur; None in float32, as are the next three.
        entropy: bits a weight of the histogram of its levels.
        eg0: bits a weight under the exp-Golomb code of order 0.
        error: mean squared error over mean square, 0 for a parameter of zeros.
        bits_per_weight: stored bits, tables included, over weights.
    """

    name: str
    shape: tuple[int, ...]
    step: float | None
    n_levels: int | None
    entropy: float | None
    eg0: float | None
    error: float | None
    bits_per_weight: float


def pack_run(
    directory: str | os.PathLike, *, step: str | bitstream.Step, out: str | os.PathLike, coder: str = "range"
) -> list[Coded]:
    """Codes the newest checkpoint of a run.

    Kernels and embeddings are quantised with a step each, one for all layers of a stack; norm scales, biases and what
    a representation of training needed stay float32. The file holds the record of the run, too.

    Args:
        directory: the run.
        step: distance between levels, such as 0.01 or 0.25std; see `bitstream.parse_step`.
        out: file to write, or - for the standard output; its size is that of the packed run.
        coder: range, eg0, eg, rice, raw or float32; see `bitstream.pack`.

    Returns:
        One entry for each parameter.

    Raises:
        InputError: no run, an unknown coder, a step that cannot be read or is too small, weights that are not finite,
            or an `out` that exists.
    """
    step = bitstream.parse_step(step)
    with locks.held(out):
        io.check_output(out, "The packed file")
        if not io.is_stream(out) and io.local_path(out).exists():
            raise InputError(f"{out} was given for the packed run and exists; give a new file.")
        tensors, record, rows = _coded(directory, step, coder)
        bitstream.save(out, tensors, record=record)
    return rows


def _coded(directory, step, coder):
    """Returns the parameters of a run as they are stored, its record, and their descriptions."""
    run = load_run(directory)
    tensors, rows = {}, []
    for name, leaf in by_name(run.params).items():
        w = np.asarray(leaf, np.float32)
        try:
            tensors[name] = bitstream.pack(w, step=step, coder=coder if _quantised(name) else "float32")
        except InputError as error:
            raise InputError(f"{directory}, {name}: {error}") from error
        rows.append(_row(name, w, tensors[name]))
    record = read_record(folder(directory))
    record["packed"] = {
        "format": run.model_config.weights,
        "step": str(step),
        "coder": coder,
        "bits_per_weight": bits_per_weight(rows),
        "next_index": run.step,
        "loss_nats_per_token": run.loss_nats_per_token,
    }
    return tensors, record, rows


def unpack_run(file: str | os.PathLike, *, out: str | os.PathLike, codec: "Codec | None" = None) -> None:
    """Writes the run of a file that `pack_run` wrote as a folder that `load_run` opens.

    Its parameters are the quantised ones, in float32, bit for bit.

    Args:
        file: the file.
        out: new folder.
        codec: the run's codec, to be saved in `codec` in it.

    Raises:
        InputError: another codec, a file that `bitstream.load` refuses or that holds no run, or an `out` that is in
            use.
    """
    with folders.new(out, "The folder of the unpacked run") as new:
        _unpack(file, codec, new)


def _unpack(file, codec, out):
    tensors, record = bitstream.load(file)
    if "packed" not in record:
        raise InputError(f"{file} holds coded weights but no run; give a file that `compressed-lm pack` wrote.")
    check_record(record, file)
    if codec is not None:
        if codec.fingerprint != record["data"]["codec_fingerprint"]:
            raise InputError(
                f"The run in {file} was trained on {record['data']['codec_spec']}, and the codec {codec.spec} with "
                "another fingerprint was given. Give the codec that it was trained with."
            )
        from compressed_lm import codecs

        codecs.save(codec, out / CODEC)
    restored = {name: weights.pack(bitstream.unpack(t), "dense", axis=-1) for name, t in tensors.items()}
    write(out, record, restored)


def bits_per_weight(rows: list[Coded]) -> float:
    """Returns the stored bits of the quantised parameters over their weights; of all, where none is quantised."""
    rows = [row for row in rows if row.step is not None] or rows
    sizes = [math.prod(row.shape) for row in rows]
    return sum(row.bits_per_weight * size for row, size in zip(rows, sizes, strict=True)) / sum(sizes)


def _quantised(name: str) -> bool:
    return name.rpartition("/")[2] in ("kernel", "embedding")


def _row(name, w, coded):
    """Returns the entry of a parameter."""
    if coded.step is None:
        return Coded(name, w.shape, None, None, None, None, None, coded.bits_per_weight)
    found = bitstream.to_levels(w, coded.step)
    distinct, counts = levels.histogram(found)
    eg0 = (exp_golomb.code_lengths(exp_golomb.zigzag(distinct)) * counts).sum() / max(1, w.size)
    w = w.astype(np.float64)
    square = np.mean(w * w) if w.size else 0.0
    error = np.mean(np.square(bitstream.from_levels(found, coded.step) - w)) / square if square else 0.0
    entropy = levels.empirical_entropy(found)
    return Coded(name, w.shape, coded.step, len(distinct), entropy, float(eg0), float(error), coded.bits_per_weight)
