"""Import and export of pretrained checkpoints, in local files without network; one parameter at a time in memory."""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import ml_dtypes
import numpy as np

from compressed_lm import weights
from compressed_lm.errors import InputError
from compressed_lm.io import folders
from compressed_lm.models import TransformerConfig, count_params, huggingface
from compressed_lm.models.checkpoint import Checkpoint, open_checkpoint
from compressed_lm.models.safetensors_files import Described, write_described
from compressed_lm.post_training import imported, quantize
from compressed_lm.tracking.progress import Job
from compressed_lm.tracking.progress import progress as default_progress
from compressed_lm.training.checkpoints import folder
from compressed_lm.training.config import TrainConfig
from compressed_lm.training.finite import check_leaf
from compressed_lm.training.run_dir import CODEC, WEIGHTS, StoredRun, open_run, own_codec

if TYPE_CHECKING:  # training works without the packages that codecs need
    from compressed_lm.codecs.protocol import Codec

CONFIG, GENERATION = "config.json", "generation_config.json"
LONGEST_ROW = 2048
FILE_BYTES = 5_000_000_000
DTYPES = ("keep", "float32", "bfloat16")
"""Types of numbers: "keep" for those of the source."""

_KEPT_TYPES = ("float32", "bfloat16", "float16")  # others become float32
_PIECE = 1 << 22  # bytes
_Progress = Callable[..., contextlib.AbstractContextManager[Job]]


@dataclasses.dataclass(frozen=True)
class Imported:
    """Description of an imported run; `load_run` reads it.

    Attributes:
        model_config, train_config: its configs.
        eod_id: id of end-of-document.
        dtypes: type of each stored parameter, by name.
        nbytes: size of the file of parameters (bytes).
        source_nbytes: size of the checkpoint's files (bytes).
    """

    model_config: TransformerConfig
    train_config: TrainConfig
    eod_id: int
    dtypes: Mapping[str, str]
    nbytes: int
    source_nbytes: int


def import_run(
    source: str | os.PathLike,
    *,
    out: str | os.PathLike,
    codec: "Codec | None" = None,
    eod: int | None = None,
    seq_len: int | None = None,
    dtype: str = "keep",
    missing_bytes: str = "escape",
    progress: _Progress = default_progress,
) -> tuple[Imported, "Codec"]:
    """Writes a pretrained checkpoint as a run that `load_run` opens.

    Args:
        source: see `models.checkpoint.open_checkpoint`: a folder with config.json and *.safetensors, a GGUF file, or
            package:NAME.
        out: new folder for the run; the codec is saved in its subfolder `codec`.
        codec: codec of the model's ids; by default the model's tokenizer.
        eod: id of end-of-document; by default the first `eos_token_id` of the checkpoint.
        seq_len: tokens in a row, for evaluation and further training; by default the model's length, at most 2048.
        dtype: type of the stored parameters: float32, bfloat16, or keep for the type of each tensor. float64 and
            quantised GGUF tensors are kept as float32.
        missing_bytes: see `codecs.read_tokenizer`.
        progress: context manager with the arguments of `tracking.progress.progress`.

    Returns:
        The run's description, and its codec.

    Raises:
        InputError: there is no supported model, a number is not finite, or `out` is in use.
    """
    _check_dtype(dtype)
    with folders.new(out, "The folder of the imported run") as new:
        return _import(open_checkpoint(source), str(source), new, codec, eod, seq_len, dtype, missing_bytes, progress)


def _check_dtype(dtype):
    if dtype not in DTYPES:
        raise InputError(f"dtype={dtype!r} was given; expected one of {', '.join(DTYPES)}.")


def _import(checkpoint, source, out, codec, eod, seq_len, dtype, missing_bytes, progress):
    """Writes a checkpoint as a run to a folder, and returns the result of `import_run`."""
    from compressed_lm import codecs

    values = checkpoint.config
    config, entry = huggingface.config_from(values), imported.entry_of(checkpoint)
    longest = huggingface.longest_text(values) or LONGEST_ROW
    if config.position == "learned" and (seq_len or 0) > config.max_length:
        raise InputError(
            f"seq_len={seq_len} was given, and the model in {source} has {config.max_length} learned positions; "
            f"expected at most {config.max_length}."
        )
    if codec is None:
        ends = imported.ids_in(entry["eos_token_id"], "eos_token_id")
        end = (ends[0] if ends else None) if eod is None else eod
        codec = codecs.read_tokenizer(checkpoint.tokenizer_files(), eod=end, missing_bytes=missing_bytes)
    if codec is None:
        raise InputError(
            f"{source} has no tokenizer.json and no tokenizer.model. Copy the tokenizer there, or give the codec that "
            "the model was trained with: --codec DIR."
        )
    end, highest = codecs.eod_id(codec), max(codec.vocab_size - 1, codecs.eod_id(codec))
    if highest >= config.vocab_size:
        raise InputError(
            f"The codec {codec.spec} has ids up to {highest}, but the model in {source} has {config.vocab_size} rows "
            "of embeddings. Give the codec that the model was trained with."
        )
    train = TrainConfig(steps=1, seq_len=min(longest, LONGEST_ROW) if seq_len is None else seq_len)
    codecs.save(codec, out / CODEC)
    described = _write_weights(checkpoint, source, config, out, dtype, progress)
    record = {
        "train": dataclasses.asdict(train),
        "model": dataclasses.asdict(config),
        "data": {
            "codec_spec": codec.spec,
            "codec_fingerprint": codec.fingerprint,
            "store_fingerprint": "",  # the training data is not known
            "eod_id": int(end),
        },
        "imported": entry,
        "packed": _packed_entry(described),
    }
    quantize.write_record(out, record)
    dtypes = {name: str(kind) for name, (_, kind) in described.items()}
    size = (out / WEIGHTS).stat().st_size
    return Imported(config, train, int(end), dtypes, size, checkpoint.nbytes), codec


def _write_weights(checkpoint: Checkpoint, source, config, out, dtype, progress) -> dict[str, tuple[tuple, np.dtype]]:
    """Writes the parameters of a checkpoint; returns shape and type of each by name.

    A file of weights begins with a description of all, which is known at the end. So the parameters first go to a
    temporary file.
    """
    described: dict[str, tuple[tuple, np.dtype]] = {}
    raw = out / "parameters.tmp"
    kind = checkpoint.config["model_type"]
    with progress("import", count_params(config).total, unit="parameters") as job:
        leaves = huggingface.leaves_from(checkpoint.shapes, checkpoint.__getitem__, config, kind=kind)
        with raw.open("wb") as file:
            for name, leaf in leaves:
                leaf = _as_type(leaf, leaf.dtype.name if dtype == "keep" else dtype)
                check_leaf(leaf, name, source)
                described[name] = leaf.shape, leaf.dtype
                file.write(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
                job.advance(leaf.size)
        del leaf
        weights.save_dense(out / WEIGHTS, described, _pieces(raw))
    raw.unlink()
    return described


def _pieces(path: pathlib.Path) -> Iterator[bytes]:
    """Yields the content of a file."""
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def _as_type(array: np.ndarray, dtype: str) -> np.ndarray:
    """Returns an array in one of `_KEPT_TYPES`; float32 if the type is another one."""
    if dtype not in _KEPT_TYPES or dtype == "float32":
        return weights.to_float32(array)
    return array.astype(_numpy_type(dtype), copy=False)


def _packed_entry(described: Mapping[str, tuple[tuple, np.dtype]]) -> dict[str, Any]:
    """Returns the entry "packed" of the record of a run whose parameters are stored without quantisation."""
    blocks = {name: x for name, x in described.items() if name.startswith("layers/") and name.endswith("/kernel")}
    forms = {weights.dense_spec(kind) for _, kind in blocks.values()}
    others = {weights.dense_spec(kind) for name, (_, kind) in described.items() if name not in blocks}
    bits = sum(8 * kind.itemsize * math.prod(shape) for shape, kind in blocks.values())
    return {
        "format": forms.pop() if len(forms) == 1 else "dense",
        "others": others.pop() if len(others) == 1 else "keep",
        "bits_per_weight": bits / sum(math.prod(shape) for shape, _ in blocks.values()),
        "next_index": 0,
        "loss_nats_per_token": None,
    }


def export_run(
    directory: str | os.PathLike,
    *,
    out: str | os.PathLike,
    codec: "Codec | None" = None,
    file_bytes: int = FILE_BYTES,
    dtype: str = "keep",
    tokenizer_of: Callable[..., Mapping[str, bytes] | None] | None = None,
    progress: _Progress = default_progress,
) -> dict[str, Any]:
    """Writes the newest checkpoint of a run in the format of `AutoModelForCausalLM.from_pretrained`.

    Matrices are written as the model uses them: quantised, if it has a representation such as "int(b=4)".

    Args:
        directory: the run.
        out: new folder; it appears only when it is complete.
        codec: the run's codec, to write the tokenizer too; by default the codec in the run's folder, if any.
        file_bytes: largest size of a file of tensors (bytes).
        dtype: type of the tensors: float32, bfloat16, or keep for the types that the run stores: those of the imported
            checkpoint; float32 for quantised numbers and for runs that were trained here.
        tokenizer_of: (codec, special=ids by name or None, model_type=that of config.json) -> files of the tokenizer by
            path, or None; by default `codecs.tokenizer_files`.
        progress: context manager with the arguments of `tracking.progress.progress`.

    Returns:
        The content of config.json; in addition "files" has the names of all files, and "has_codec" whether there was a
        codec.

    Raises:
        InputError: no run, a model that no supported architecture expresses, another codec, or an `out` that is in use.
    """
    _check_dtype(dtype)
    if file_bytes < 1:
        raise InputError(f"file_bytes={file_bytes} was given; expected a positive number of bytes.")
    with folders.new(out, "The folder of the exported run") as new:
        return _export(directory, new, codec, file_bytes, dtype, tokenizer_of, progress)


class Source(NamedTuple):
    """A run to export.

    Attributes:
        codec: its codec, None if there is none.
        config: content of config.json.
        generation: content of generation_config.json.
        tokenizer: files of the tokenizer by path; None if the codec has none.
        tensors: the tensors.
    """

    codec: "Codec | None"
    config: dict[str, Any]
    generation: dict[str, Any]
    tokenizer: Mapping[str, bytes] | None
    tensors: list[Described]


def source_of(
    directory: str | os.PathLike,
    codec: "Codec | None",
    dtype: str,
    tokenizer_of: Callable[..., Mapping[str, bytes] | None] | None = None,
) -> Source:
    """Returns the run in a folder with Hugging Face's names; arguments and errors are those of `export_run`."""
    from compressed_lm import codecs

    directory = folder(directory)
    if codec is None and (own := own_codec(directory)):
        codec = codecs.load(own)
    run = open_run(directory, codec=codec)
    config, entry, data = run.model_config, run.record.get("imported", {}), run.record["data"]
    kind = entry.get("model_type")
    length = entry.get("max_position_embeddings") or run.train_config.seq_len
    values = huggingface.config_of(config, max_length=length, eod_id=data["eod_id"], kind=kind)
    fields, generation = imported.to_export(entry, values)
    values |= fields
    special = {name: fields[name] for name in imported.IDS if name in fields}
    tokenizer = None
    if codec is not None:
        make = tokenizer_of or codecs.tokenizer_files
        tokenizer = make(codec, special=special or None, model_type=values["model_type"])
    tensors = list(_tensors(run, kind, dtype, entry.get("dtype")))
    types = {tensor.dtype for tensor in tensors}
    values["torch_dtype"] = types.pop() if len(types) == 1 else "float32"
    values["compressed_lm"] = {"codec": data["codec_spec"], "codec_fingerprint": data["codec_fingerprint"]}
    return Source(codec, values, generation, tokenizer, tensors)


def _export(directory, out, codec, file_bytes, dtype, tokenizer_of, progress):
    """Writes a run to a folder, and returns the result of `export_run`."""
    codec, values, generation, tokenizer, tensors = source_of(directory, codec, dtype, tokenizer_of)
    with progress("export", sum(tensor.nbytes for tensor in tensors), unit="B") as job:
        write_described(out, tensors, max_bytes=file_bytes, advance=job.advance)
    for name, content in {CONFIG: values, GENERATION: generation}.items():
        (out / name).write_text(json.dumps(content, indent=2) + "\n")
    for name, content in (tokenizer or {}).items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    return values | {"files": files, "has_codec": codec is not None}


def _tensors(run: StoredRun, kind: str | None, dtype: str, before: str | None) -> Iterator[Described]:
    """Yields the tensors of the export of a run; `before` is the type of the imported checkpoint's tensors."""
    form, names = weights.representation(run.model_config.weights), run.shapes
    shapes = {name: shape for name, shape in names.items() if "weights_" not in name}

    def as_used(name: str) -> np.ndarray:
        """Returns a parameter as the model uses it: quantised, if the model has a representation."""
        leaf = run.read(name)
        if str(form) == "dense" or not (name.startswith("layers/") and name.endswith("/kernel")):
            return leaf
        learned: dict[str, Any] = {
            k.split("weights_")[1]: run.read(k) for k in names if k.startswith(f"{name[:-6]}weights_")
        }
        return weights.unpack(weights.pack(leaf, form, params=learned))

    def empty(name: str) -> np.ndarray:
        """Returns zeros of a parameter's shape and type, which take no memory."""
        return np.broadcast_to(np.zeros((), _numpy_type(run.dtypes[name])), shapes[name])

    typed = huggingface.tensors_of(shapes, empty, run.model_config, kind=kind)
    real = huggingface.tensors_of(shapes, as_used, run.model_config, kind=kind)
    for (name, shape, make), (_, _, make_empty) in zip(real, typed, strict=True):
        found = make_empty().dtype.name if dtype == "keep" else dtype
        if dtype == "keep" and found == "float32" and len(shape) == 1 and before in _KEPT_TYPES:
            # Arithmetic such as Gemma's 1 + scale is in float32. If undoing it is exact, the checkpoint had this type.
            vector = make()
            narrow = _as_type(vector, before)
            found = before if np.array_equal(weights.to_float32(narrow), vector) else found
        yield Described(name, shape, found, make)


def _numpy_type(name: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, name, name))
