"""Import and export of Hugging Face checkpoints, in local folders without network."""

import dataclasses
import json
import os
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from compressed_lm import io, weights
from compressed_lm.errors import InputError
from compressed_lm.io import folders, strict_json
from compressed_lm.models import huggingface
from compressed_lm.models.partitioning import by_name
from compressed_lm.models.safetensors_files import Tensors, write_tensors
from compressed_lm.post_training import quantize
from compressed_lm.training.checkpoints import folder
from compressed_lm.training.config import TrainConfig
from compressed_lm.training.run_dir import CODEC, Run, check_finite, load_run, own_codec, read_record

if TYPE_CHECKING:  # training works without the packages that codecs need
    from compressed_lm.codecs.protocol import Codec

CONFIG, GENERATION = "config.json", "generation_config.json"
LONGEST_ROW = 2048
FILE_BYTES = 5_000_000_000
_KEPT = ("model_type", "max_position_embeddings", "bos_token_id", "eos_token_id")  # not in our config


def import_run(
    source: str | os.PathLike,
    *,
    out: str | os.PathLike,
    codec: "Codec | None" = None,
    eod: int | None = None,
    seq_len: int | None = None,
) -> tuple[Run, "Codec"]:
    """Writes a Hugging Face checkpoint as a run that `load_run` opens.

    Args:
        source: folder with config.json, *.safetensors and, unless a codec is given, tokenizer.json or tokenizer.model.
        out: new folder for the run; the codec is saved in its subfolder `codec`.
        codec: codec of the model's ids; by default the model's tokenizer.
        eod: id of end-of-document; by default `eos_token_id` of config.json.
        seq_len: tokens in a row, for evaluation and further training; by default the model's length, at most 2048.

    Returns:
        The run as `load_run` returns it, and its codec.

    Raises:
        InputError: the folder holds no supported model, or `out` is in use.
    """
    with folders.new(out, "The folder of the imported run") as new:
        used = _import(io.local_path(source, "The checkpoint"), new, codec, eod, seq_len)
    return load_run(out), used


def _import(source, out, codec, eod, seq_len) -> "Codec":
    """Writes a checkpoint as a run to a folder, and returns its codec."""
    from compressed_lm import codecs

    _check_source(source)
    values = _read(source / CONFIG)
    config = huggingface.config_from(values)
    if codec is None:
        codec = codecs.read_tokenizer(source, eod=_end_of_text(source, values) if eod is None else eod)
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
    longest = huggingface.longest_text(values) or LONGEST_ROW
    train = TrainConfig(steps=1, seq_len=min(longest, LONGEST_ROW) if seq_len is None else seq_len)
    tensors = Tensors(source)
    leaves = huggingface.leaves_from(
        tensors.shapes, lambda name: tensors[name].astype(np.float32), config, kind=values["model_type"]
    )
    params = dict(leaves)
    record = {
        "train": dataclasses.asdict(train),
        "model": dataclasses.asdict(config),
        "data": {
            "codec_spec": codec.spec,
            "codec_fingerprint": codec.fingerprint,
            "store_fingerprint": "",  # the training data is not known
            "eod_id": int(end),
        },
        "imported": {name: values.get(name) for name in _KEPT},
        "packed": {
            "format": "dense",
            "others": "dense",
            "bits_per_weight": 32.0,
            "next_index": 0,
            "loss_nats_per_token": None,
        },
    }
    check_finite(params, source)
    codecs.save(codec, out / CODEC)
    quantize.write(out, record, quantize.dense(params))
    return codec


def export_run(
    directory: str | os.PathLike,
    *,
    out: str | os.PathLike,
    codec: "Codec | None" = None,
    file_bytes: int = FILE_BYTES,
) -> dict[str, Any]:
    """Writes the newest checkpoint of a run in the format of `AutoModelForCausalLM.from_pretrained`.

    Matrices are written in float32 as the model uses them: quantised, if it has a representation such as "int(b=4)".

    Args:
        directory: the run.
        out: new folder; it appears only when it is complete.
        codec: the run's codec, to write the tokenizer too; by default the codec in the run's folder, if any.
        file_bytes: largest size of a file of tensors (bytes).

    Returns:
        The content of config.json; in addition "files" has the names of all files, and "has_codec" whether there was a
        codec.

    Raises:
        InputError: no run, a model that no supported architecture expresses, another codec, or an `out` that is in use.
    """
    if file_bytes < 1:
        raise InputError(f"file_bytes={file_bytes} was given; expected a positive number of bytes.")
    with folders.new(out, "The folder of the exported run") as new:
        return _export(folder(directory), new, codec, file_bytes)


def _export(directory, out, codec, file_bytes):
    """Writes a run to a folder, and returns the result of `export_run`."""
    from compressed_lm import codecs

    if codec is None and (own := own_codec(directory)):
        codec = codecs.load(own)
    run = load_run(directory, codec=codec)
    config, tokenizer = run.model_config, codecs.tokenizer_files(codec) if codec else None
    imported = read_record(directory).get("imported", {})
    kind = imported.get("model_type")
    known = {k: v for k, v in imported.items() if v is not None and k in _KEPT[1:]}
    length = known.get("max_position_embeddings", run.train_config.seq_len)
    values = huggingface.config_of(config, max_length=length, eod_id=run.eod_id, kind=kind) | known
    values["compressed_lm"] = {"codec": run.codec_spec, "codec_fingerprint": run.codec_fingerprint}
    generation = {name: values[name] for name in ("bos_token_id", "eos_token_id")}
    used = _as_used(run)
    shapes = {name: leaf.shape for name, leaf in used.items()}
    tensors = huggingface.tensors_of(shapes, lambda path: np.asarray(used[path], np.float32), config, kind=kind)
    write_tensors(out, {name: make() for name, _, make in tensors}, max_bytes=file_bytes)
    for name, content in {CONFIG: values, GENERATION: generation}.items():
        (out / name).write_text(json.dumps(content, indent=2) + "\n")
    for name, content in (tokenizer or {}).items():
        (out / name).write_bytes(content)
    return values | {"files": sorted(path.name for path in out.iterdir()), "has_codec": codec is not None}


def _as_used(run):
    """Returns the parameters by name as the model uses them: quantised, without parameters of representations."""
    form, leaves = weights.representation(run.model_config.weights), by_name(jax.device_get(run.params))
    used = {}
    for name, leaf in leaves.items():
        if name.startswith("layers/") and name.endswith("/kernel") and str(form) != "dense":
            learned = {k.split("weights_")[1]: v for k, v in leaves.items() if k.startswith(f"{name[:-6]}weights_")}
            used[name] = weights.unpack(weights.pack(leaf, form, params=learned))
        elif "weights_" not in name:
            used[name] = leaf
    return used


def _check_source(source):
    """Raises InputError if `source` is not the folder of a checkpoint; the message says what it is."""
    wanted = "give the folder of the checkpoint, with config.json and *.safetensors, as `save_pretrained` writes it"
    if source.is_file():
        with source.open("rb") as file:
            start = file.read(8)
        if start.startswith(b"GGUF"):
            what = "a GGUF file, which is not supported yet"
        elif start.startswith(b"PK") or start.startswith(b"\x80") or source.suffix in (".bin", ".pt", ".pth"):
            what = "a pickled checkpoint, which is not supported because it could run any code"
        else:
            what = "a file of a checkpoint" if source.suffix in (".safetensors", ".json", ".model") else "a file"
        raise InputError(f"{source} is {what}; {wanted}.")
    if source.is_dir() and not (source / CONFIG).exists() and (found := sorted(source.glob("*.gguf"))):
        raise InputError(f"{source} holds {found[0].name}, a GGUF file, which is not supported yet; {wanted}.")
    if not source.is_dir():
        raise InputError(f"There is no folder {source}; {wanted}. Nothing is downloaded.")


def _end_of_text(source, values):
    """Returns the first `eos_token_id` of a checkpoint, or None."""
    if values.get("eos_token_id") is None and (source / GENERATION).exists():
        values = _read(source / GENERATION)
    named = values.get("eos_token_id")
    ids = named if isinstance(named, list) else [named]
    found = ids[0] if ids else None
    if found is not None and (type(found) is not int or found < 0):
        raise InputError(
            f"{source} has eos_token_id {found!r:.60}; expected the id of a token. Restore its {CONFIG}, or give the "
            "id: --eod ID."
        )
    return found


def _read(path):
    """Returns the object in a JSON file."""
    try:
        return strict_json.parse(io.inside(path.parent, path.name).read_text(encoding="utf-8"))
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(
            f"{path.parent} was given as a Hugging Face checkpoint, but has no {path.name}; give a folder with "
            "config.json and *.safetensors, as `save_pretrained` writes it."
        ) from None
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}). Copy it again.") from error
