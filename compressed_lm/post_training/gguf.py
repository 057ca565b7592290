"""Export of runs as GGUF files of llama.cpp."""

import contextlib
import functools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from compressed_lm import io
from compressed_lm.errors import InputError
from compressed_lm.io import locks
from compressed_lm.models.gguf.export import write_gguf
from compressed_lm.models.safetensors_files import Described
from compressed_lm.post_training.huggingface import source_of
from compressed_lm.tracking.progress import Job
from compressed_lm.tracking.progress import progress as default_progress

if TYPE_CHECKING:  # training works without the packages that codecs need
    from compressed_lm.codecs.protocol import Codec

SUFFIX = ".gguf"
DTYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "q8_0": "q8_0"}
"""Type of matrices in GGUF of each `dtype`."""


class Written(NamedTuple):
    """A GGUF file.

    Attributes:
        dtype: type of its matrices, one of `DTYPES`.
        codec_spec: spec of the codec of its ids.
        has_vocabulary: whether the file has the codec as its tokenizer.
    """

    dtype: str
    codec_spec: str
    has_vocabulary: bool


def export_gguf(
    directory: str | os.PathLike,
    *,
    out: str | os.PathLike,
    codec: "Codec | None" = None,
    dtype: str = "keep",
    progress: Callable[..., contextlib.AbstractContextManager[Job]] = default_progress,
) -> Written:
    """Writes the newest checkpoint of a run as one GGUF file. Matrices are written as the model uses them.

    Args:
        directory: the run.
        out: new file, whose name ends in .gguf.
        codec: the run's codec, for the vocabulary; by default the codec in the run's folder, if any.
        dtype: type of the matrices, one of `DTYPES`, or keep: the run's type if all matrices have the same, otherwise
            float32. Vectors are float32.
        progress: context manager with the arguments of `tracking.progress.progress`.

    Raises:
        InputError: no run, an architecture or a tokenizer that llama.cpp does not have, another codec, or an `out` that
            exists or has another name.
    """
    if dtype not in ("keep", *DTYPES):
        raise InputError(f"dtype={dtype!r:.50} was given; expected keep or one of {', '.join(DTYPES)}.")
    path = io.local_path(out, "The GGUF file")
    if path.suffix != SUFFIX:
        raise InputError(f"{out} was given for the GGUF file; expected a name that ends in {SUFFIX}.")
    with locks.held(path):
        io.check_output(path, "The GGUF file")
        if path.exists():
            raise InputError(f"{out} was given for the GGUF file and exists; give a new file.")
        source = source_of(directory, codec, "keep")
        if dtype == "keep":
            types = {tensor.dtype for tensor in source.tensors if len(tensor.shape) > 1}
            dtype = types.pop() if len(types) == 1 and types <= DTYPES.keys() else "float32"
        with progress("export", sum(tensor.nbytes for tensor in source.tensors), unit="B") as job:
            tensors = [(x.name, x.shape, functools.partial(_made, x, job)) for x in source.tensors]
            write_gguf(path, source.config, tensors, source.tokenizer or {}, dtype=DTYPES[dtype])
    spec: Any = source.config["compressed_lm"]["codec"]
    return Written(dtype, spec, bool(source.tokenizer))


def _made(tensor: Described, job: Job) -> np.ndarray:
    job.advance(tensor.nbytes)
    return tensor.make()
