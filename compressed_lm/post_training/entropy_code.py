"""Entropy-coded runs: a finished run in one file, and back to a folder that `load_run` reads."""

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from compressed_lm import io, weights
from compressed_lm.coding import exp_golomb, levels
from compressed_lm.errors import InputError
from compressed_lm.io import folders, locks
from compressed_lm.post_training.quantize import write_record
from compressed_lm.tracking.progress import Job
from compressed_lm.tracking.progress import progress as default_progress
from compressed_lm.training.run_dir import CODEC, WEIGHTS, check_record, open_run, own_codec
from compressed_lm.weights import bitstream

if TYPE_CHECKING:  # training works without the packages that codecs need
    from compressed_lm.codecs.protocol import Codec


@dataclasses.dataclass(frozen=True)
class Coded:
    """Result of coding one parameter, all layers together.

    Attributes:
        name: path of the parameter.
        shape: of the parameter; the first axis is the layer.
        step: distance between its levels; None if it is stored in float32.
        n_levels: number of distinct levels; None in float32, as are the next three.
        entropy: entropy of the histogram of its levels (bits per weight).
        eg0: length under the exp-Golomb code of order 0 (bits per weight).
        error: mean squared error divided by mean square; 0 for a parameter of zeros.
        bits_per_weight: stored bits, tables included, divided by the number of weights.
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
    directory: str | os.PathLike,
    *,
    step: str | bitstream.Step,
    out: str | os.PathLike,
    coder: str = "range",
    progress: Callable[..., contextlib.AbstractContextManager[Job]] = default_progress,
) -> list[Coded]:
    """Entropy-codes the newest checkpoint of a run into one file.

    Each kernel and embedding is quantised with one step for all layers of a stack. Norm scales, biases and the learned
    parameters of representations stay float32. The file also holds the record of the run, and its codec if the run's
    folder has one that `bitstream.fits`.

    Args:
        directory: the run.
        step: distance between levels, such as 0.01 or 0.25std; see `bitstream.parse_step`.
        out: file to write, or - for the standard output; its size is the size of the packed run.
        coder: range, eg0, eg, rice, raw or float32; see `bitstream.pack`.
        progress: context manager with the arguments of `tracking.progress.progress`.

    Returns:
        One entry for each parameter.

    Raises:
        InputError: no run, an unknown coder, a step that cannot be parsed or is too small, weights that are not finite,
            or an `out` that exists.
    """
    parsed = bitstream.parse_step(step)
    with locks.held(out):
        io.check_output(out, "The packed file")
        if not io.is_stream(out) and io.any_path(out).exists():
            raise InputError(f"{out} was given for the packed run and exists; give a new file.")
        tensors, record, rows = _coded(directory, parsed, coder, progress)
        files = codec_files(directory)
        bitstream.save(out, tensors, record=record, files=files if bitstream.fits(files) else {})
    return rows


def codec_files(directory: str | os.PathLike) -> dict[str, bytes]:
    """Returns the files of the codec in the folder of a run by name; {} if there is none."""
    own = own_codec(directory)
    return {path.name: path.read_bytes() for path in own.iterdir() if path.is_file()} if own else {}


def _coded(directory, step, coder, progress):
    """Returns the coded parameters of a run, its record, and the descriptions of the parameters."""
    run = open_run(directory)
    tensors, rows = {}, []
    with progress("pack", sum(math.prod(shape) for shape in run.shapes.values()), unit="weights") as job:
        for name, shape in run.shapes.items():
            w = weights.to_float32(run.read(name))
            try:
                tensors[name] = bitstream.pack(w, step=step, coder=coder if _quantised(name) else "float32")
            except InputError as error:
                raise InputError(f"{directory}, {name}: {error}") from error
            rows.append(_row(name, w, tensors[name]))
            job.advance(math.prod(shape))
    record = dict(run.record)
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
    """Writes the run in a file of `pack_run` as a folder that `load_run` opens.

    Its parameters are exactly the quantised ones, in float32.

    Args:
        file: the file.
        out: new folder.
        codec: the run's codec, to be saved in the subfolder `codec`; by default the one in the file, if any.

    Raises:
        InputError: another codec, a file that `bitstream.load` rejects or that holds no run, or an `out` that is in
            use.
    """
    with folders.new(out, "The folder of the unpacked run") as new:
        _unpack(file, codec, new)


def _unpack(file, codec, out):
    from compressed_lm import codecs

    tensors, record, files = bitstream.load_with_files(file)
    if "packed" not in record:
        raise InputError(f"{file} holds coded weights but no run; give a file of `compressed-lm pack`.")
    check_record(record, file)
    if codec is not None:
        codecs.save(codec, out / CODEC)
    elif files:
        (out / CODEC).mkdir()
        for name, content in files.items():
            io.inside(out / CODEC, name).write_bytes(content)
        codec = codecs.load(out / CODEC)
    if codec is not None and codec.fingerprint != record["data"]["codec_fingerprint"]:
        raise InputError(
            f"The run in {file} was trained on {record['data']['codec_spec']}, but the codec {codec.spec} with "
            "another fingerprint was given. Give the codec that the run was trained with."
        )
    described = {name: (tensor.shape, np.float32) for name, tensor in tensors.items()}
    weights.save_dense(out / WEIGHTS, described, (bitstream.unpack(tensor) for tensor in tensors.values()))
    write_record(out, record)


def bits_per_weight(rows: list[Coded]) -> float:
    """Returns the stored bits per weight of the quantised parameters, or of all if none is quantised."""
    rows = [row for row in rows if row.step is not None] or rows
    sizes = [math.prod(row.shape) for row in rows]
    return sum(row.bits_per_weight * size for row, size in zip(rows, sizes, strict=True)) / sum(sizes)


def _quantised(name: str) -> bool:
    return name.rpartition("/")[2] in ("kernel", "embedding")


def _row(name, w, coded):
    """Returns the description of a coded parameter."""
    if coded.step is None:
        return Coded(name, w.shape, None, None, None, None, None, coded.bits_per_weight)
    found = bitstream.to_levels(w, coded.step)
    distinct, counts = levels.histogram(found)
    eg0 = (exp_golomb.code_lengths(exp_golomb.zigzag(distinct)) * counts).sum() / max(1, w.size)
    entropy = levels.empirical_entropy(found)
    restored = bitstream.from_levels(found, coded.step)
    del found
    w = w.astype(np.float64)
    square = np.mean(np.square(w)) if w.size else 0.0
    error = np.mean(np.square(np.subtract(restored, w, out=w), out=w)) / square if square else 0.0
    return Coded(name, w.shape, coded.step, len(distinct), entropy, float(eg0), float(error), coded.bits_per_weight)
