"""The folder of a run: config.json, checkpoints/, metrics.jsonl; or config.json and weights.clw, where it is packed."""

import dataclasses
import hashlib
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh

from compressed_lm import io, weights
from compressed_lm.errors import InputError
from compressed_lm.io import folders, strict_json
from compressed_lm.io.container import checksum
from compressed_lm.models import Transformer, TransformerConfig
from compressed_lm.models.partitioning import path_name
from compressed_lm.settings import LARGEST
from compressed_lm.training.checkpoints import folder, restore_params, write
from compressed_lm.training.config import FREE_FIELDS, LATER_FIELDS, TrainConfig
from compressed_lm.training.mesh import shardings
from compressed_lm.training.step import Start

CONFIG, CHECKPOINTS, METRICS, WEIGHTS = "config.json", "checkpoints", "metrics.jsonl", "weights.clw"
CODEC = "codec"
"""Folder of a run in which the codec of an imported model is, and of the runs that were made out of it."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A run as its newest checkpoint has it.

    Attributes:
        params: the parameter tree, for `Transformer(model_config).apply({"params": params}, ...)`.
        model_config, train_config: as given to `train`.
        step: updates done; below `train_config.steps` if the run is not finished.
        loss_nats_per_token: of the last of them.
        codec_spec, codec_fingerprint: of the codec whose ids the model reads.
        store_fingerprint: of the token store it was trained on.
        eod_id: id of end-of-document, put before a row.
        packed: format of the matrices and their stored bits per weight, where the run was packed (`training.packed`).
    """

    params: dict
    model_config: TransformerConfig
    train_config: TrainConfig
    step: int
    loss_nats_per_token: float
    codec_spec: str
    codec_fingerprint: str
    store_fingerprint: str
    eod_id: int
    packed: dict | None = None

    @property
    def weights(self) -> str:
        """Spelling of what the matrices of the blocks are, as they were packed or as the model makes them."""
        return self.packed["format"] if self.packed else self.model_config.weights


def load_run(directory: str | os.PathLike, *, codec=None, store=None, mesh: Mesh | None = None) -> Run:
    """Returns the run in a folder with the parameters of its newest readable checkpoint.

    Args:
        directory: the folder.
        codec, store: a codec and a token store that the run is to be used with, if any.
        mesh: where the parameters go, each to its place by the sharding rules; by default to the first device.

    Raises:
        InputError: the folder holds no run, no checkpoint, or a run of another version, one that was trained with
            another codec than those given or another configuration than the one there now, or weights that are not
            finite.
    """
    directory = folder(directory)
    record = read_record(directory)
    if record is None:
        raise InputError(
            f"{directory} was given as a run, but it has no {CONFIG}; give the `out` folder of a training run."
        )
    if record.get("init", {}).get("projected"):
        raise InputError(
            f"{directory} was given as a run, but what is trained there are projections of a larger model; give the "
            f"folder above it, {directory.parent}, which has the merged model once `compressed-lm shrink` is done."
        )
    try:
        model_config, train_config = TransformerConfig(**record["model"]), TrainConfig(**record["train"])
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{directory / CONFIG} lacks settings or has unknown ones ({error}); load the run with the "
            "version of compressed_lm that trained it."
        ) from error
    shapes = jax.eval_shape(Transformer(model_config).init, jax.random.key(0), jax.ShapeDtypeStruct((1, 1), "int32"))
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    places = shardings(shapes["params"], mesh) if mesh else jax.tree.map(lambda _: device, shapes["params"])
    abstract = jax.tree.map(
        lambda shape, place: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place), shapes["params"], places
    )
    packed = record.get("packed")
    restored = (_unpacked(io.inside(directory, WEIGHTS), abstract, packed), packed) if packed else None
    restored = restored or restore_params(directory / CHECKPOINTS, abstract)
    if restored is None:
        raise InputError(f"The run in {directory} has no checkpoint yet; start it again, it will go on by itself.")
    params, data = restored
    if data.get("config_hash", learned_hash(record)) != learned_hash(record):
        raise InputError(
            f"{directory / CONFIG} was changed after the run began: its weights were trained with another "
            "configuration or on other data, so the model would compute something else than it learned. Restore the "
            "file, or train again with these settings in another folder."
        )
    check_finite(params, directory)
    learned = params, model_config, train_config, data["next_index"], data["loss_nats_per_token"]
    run = Run(*learned, **record["data"], packed=packed)
    given = {
        "codec": getattr(codec, "fingerprint", None),
        "validation store": getattr(store, "codec_fingerprint", None),
    }
    for what, fingerprint in given.items():
        if fingerprint not in (None, run.codec_fingerprint):
            raise InputError(
                f"The run {directory} was trained on {run.codec_spec}, fingerprint {run.codec_fingerprint[:12]}, and "
                f"the {what} has fingerprint {fingerprint[:12]}: another M1, other options or another codec. Give the "
                "one that the run was trained with."
            )
    return run


def check_finite(params, directory):
    """Raises InputError that names the first parameter with a number that is not finite."""
    for keys, leaf in jax.tree.leaves_with_path(params):
        if n_wrong := int(leaf.size - jnp.isfinite(leaf).sum()):
            raise InputError(
                f"{n_wrong:,} of the {leaf.size:,} numbers of {path_name(keys)} in {directory} are NaN or infinite, so "
                "the model gives no numbers. Use a checkpoint from before the run diverged, or train it again with a "
                "lower learning rate."
            )


def _unpacked(path, abstract, packed):
    """Returns parameters out of a file of packed weights."""
    tensors = weights.load_packed(path)
    if packed.get("weights_checksum", found := checksum(path)) != found:
        raise InputError(
            f"{path} is not the file that {path.parent / CONFIG} was written with: it was replaced. Restore it, or "
            "pack the run again."
        )

    def place(keys, leaf):
        name = path_name(keys)
        if name not in tensors or tensors[name].shape != leaf.shape:
            raise InputError(
                f"{path} has no {name} of shape {leaf.shape}, which the model of {path.parent / CONFIG} needs; the two "
                "belong to different runs. Pack the run again."
            )
        return jax.device_put(weights.unpack(tensors[name]).astype(leaf.dtype), leaf.sharding)

    return jax.tree.map_with_path(place, abstract)


def describe(config: TrainConfig, model_config: TransformerConfig, store, start: Start | None = None) -> dict:
    """Returns the record of a run, what config.json holds; it names what the run starts from by hashes, where that is
    not random."""
    data = dict(
        codec_spec=store.codec_spec,
        codec_fingerprint=store.codec_fingerprint,
        store_fingerprint=store.fingerprint,
        eod_id=int(store.eod_id),
    )
    record = {"train": dataclasses.asdict(config), "model": dataclasses.asdict(model_config), "data": data}
    trees = {"params_sha256": start.params, "frozen_sha256": start.frozen} if start else {}
    hashes = {name: _hash(tree) for name, tree in trees.items() if tree is not None}
    if start and start.params and weights.holds_factors(start.params):
        hashes["projected"] = True
    return record | ({"init": hashes} if hashes else {})


def _hash(tree):
    digest = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(tree):
        digest.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
    return digest.hexdigest()


def config_hash(record: dict) -> str:
    """Returns a hex digest of what a run computes: its record without the settings that only observe it, and without
    those that older versions had not, where they say what these did."""

    def counts(name, value):
        return name not in FREE_FIELDS and (name not in LATER_FIELDS or value != LATER_FIELDS[name])

    learned = {part: {k: v for k, v in values.items() if counts(k, v)} for part, values in record.items()}
    return hashlib.sha256(json.dumps(learned, sort_keys=True).encode()).hexdigest()


def learned_hash(record: dict) -> str:
    """Returns `config_hash` of the run that the weights are from, whether they are packed or not."""
    return config_hash({part: values for part, values in record.items() if part != "packed"})


def check(directory: epath.Path, record: dict) -> None:
    """Raises InputError where a folder holds a run with other settings or data than a record."""
    found = read_record(directory)
    if found is not None and config_hash(found) != config_hash(record):
        changes = [
            f"{section}.{name} {before!r} -> {value!r}"
            for section in record
            for name, value in record[section].items()
            if (before := found.get(section, {}).get(name, LATER_FIELDS.get(name))) != value and name not in FREE_FIELDS
        ]
        what = "token store" if found["data"] != record["data"] else "configuration"
        raise InputError(
            f"The run in {directory} was started with another {what} ({'; '.join(changes)}). Give the values it was "
            "started with to go on with it, or another `out` folder to start a new run."
        )


def claim(directory: epath.Path, record: dict) -> None:
    """Writes a run's record to its folder, which `check` has accepted."""
    if read_record(directory) != record:
        write(directory / CONFIG, json.dumps(record, indent=2) + "\n")


def own_codec(directory: str | os.PathLike) -> epath.Path | None:
    """Returns the folder of the codec that an imported run, or one that was made out of it, holds."""
    directory = folder(directory)
    read_record(directory)  # tells of a bucket that cannot be reached
    return directory / CODEC if (directory / CODEC).exists() else None


def check_record(record: dict, path) -> None:
    """Raises InputError unless what was read as the record of a run, out of a file, has the parts of one."""
    texts = ("codec_spec", "codec_fingerprint", "store_fingerprint")
    data, packed = record.get("data"), record.get("packed", {})
    wrong = [part for part in ("train", "model", "data") if part not in record]
    wrong += [part for part, values in record.items() if not isinstance(values, dict)]
    if not wrong:
        wrong += [f"data.{name}" for name in texts if not isinstance(data.get(name), str)]
        wrong += [f"data.{name}" for name in data if name not in (*texts, "eod_id")]
        wrong += ["data.eod_id"] * (type(data.get("eod_id")) is not int or not 0 <= data["eod_id"] <= LARGEST)
    if not wrong and packed:
        loss = packed.get("loss_nats_per_token", "")
        wrong += ["packed.format"] * (not isinstance(packed.get("format"), str))
        wrong += ["packed.next_index"] * (type(packed.get("next_index")) is not int or packed["next_index"] < 0)
        wrong += ["packed.loss_nats_per_token"] * (loss is not None and type(loss) not in (int, float))
    if wrong:
        raise InputError(
            f"{path} does not describe a run: {', '.join(map(str, wrong))[:200]} {'is' if len(wrong) == 1 else 'are'} "
            "missing, unknown or of another type. Restore the file; a run of another version is loaded with the "
            "version of compressed_lm that trained it."
        )


def read_record(directory: epath.Path) -> dict | None:
    """Returns the record of the run in a folder, or None if there is none."""
    try:
        record = strict_json.parse(io.inside(directory, CONFIG).read_text())
        check_record(record, directory / CONFIG)
        return record
    except InputError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise InputError(
            f"{directory / CONFIG} is not JSON ({error}); restore it, or remove the run's folder."
        ) from error
    except Exception as error:
        if io.scheme(directory) is None:
            raise
        raise InputError(
            f"{directory} cannot be reached ({type(error).__name__}: {str(error).splitlines()[0]}). Check the name of "
            "the bucket, the network, and the credentials (gcloud auth application-default login)."
        ) from error


def copy_codec(source: str | os.PathLike, out: str | os.PathLike) -> None:
    """Copies the codec in the folder of a run, where there is one, to the folder of a run that was made out of it."""
    own, target = own_codec(source), folder(out) / CODEC
    if not own or target.exists():
        return
    if io.scheme(target) is None:
        with folders.new(target, "The folder of the codec") as new:
            _copy_files(own, new)
    else:
        target.mkdir(parents=True)
        _copy_files(own, target)


def _copy_files(source, target):
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
