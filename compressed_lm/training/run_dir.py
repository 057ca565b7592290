"""Folder of a run: config.json, checkpoints/ and metrics.jsonl; or config.json and weights.clw if it is packed."""

import dataclasses
import hashlib
import json
import os
from typing import TYPE_CHECKING

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from compressed_lm import io, weights
from compressed_lm.errors import InputError
from compressed_lm.io import folders, strict_json
from compressed_lm.io.container import checksum
from compressed_lm.models import Transformer, TransformerConfig
from compressed_lm.models.partitioning import by_name, path_name
from compressed_lm.settings import LARGEST
from compressed_lm.training.checkpoints import folder, restore_params
from compressed_lm.training.config import FREE_FIELDS, LATER_FIELDS, TrainConfig
from compressed_lm.training.finite import check_finite, check_leaf
from compressed_lm.training.mesh import shardings
from compressed_lm.training.step import Start

if TYPE_CHECKING:  # training works without the packages that codecs need
    from compressed_lm.codecs.protocol import Codec
    from compressed_lm.training.data import TrainingStore

CONFIG, CHECKPOINTS, METRICS, WEIGHTS = "config.json", "checkpoints", "metrics.jsonl", "weights.clw"
CODEC = "codec"
"""Subfolder with the codec of an imported model, also in the runs derived from it."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A run with the parameters of its newest checkpoint.

    Attributes:
        params: the parameter tree, for `Transformer(model_config).apply({"params": params}, ...)`.
        model_config, train_config: as given to `train`.
        step: updates done; less than `train_config.steps` if the run is not finished.
        loss_nats_per_token: training loss of the last update; None for an imported run.
        codec_spec, codec_fingerprint: of the codec whose ids the model reads.
        store_fingerprint: of the token store it was trained on.
        eod_id: id of end-of-document, put before a row.
        packed: the entry "packed" of the record, with the format of the matrices and their stored bits per weight; None
            if the run is not packed.
    """

    params: dict
    model_config: TransformerConfig
    train_config: TrainConfig
    step: int
    loss_nats_per_token: float | None
    codec_spec: str
    codec_fingerprint: str
    store_fingerprint: str
    eod_id: int
    packed: dict | None = None

    @property
    def weights(self) -> str:
        """Spec of the matrices of the blocks: the packed format, or the representation of the model."""
        return self.packed["format"] if self.packed else self.model_config.weights


def load_run(
    directory: str | os.PathLike,
    *,
    codec: "Codec | None" = None,
    store: "TrainingStore | None" = None,
    mesh: Mesh | None = None,
) -> Run:
    """Returns the run in a folder with the parameters of its newest readable checkpoint.

    Args:
        directory: the folder.
        codec, store: codec and token store to use with the run, if any; their fingerprints are checked.
        mesh: devices for the parameters, which are placed by the sharding rules; by default the first device.

    Raises:
        InputError: the folder holds no run, no checkpoint or a run of another version; the run was trained with another
            codec or another configuration; or its weights are not finite.
    """
    return open_run(directory, codec=codec, store=store, mesh=mesh).load()


def open_run(
    directory: str | os.PathLike,
    *,
    codec: "Codec | None" = None,
    store: "TrainingStore | None" = None,
    mesh: Mesh | None = None,
) -> "StoredRun":
    """Returns the run in a folder; the parameters of a packed run are read one at a time, as they are stored.

    Args and errors are those of `load_run`.
    """
    path = folder(directory)
    record = read_record(path)
    if record is None:
        raise InputError(f"{path} was given as a run, but it has no {CONFIG}; give the `out` folder of a training run.")
    if record.get("init", {}).get("projected"):
        raise InputError(
            f"{path} was given as a run, but it trains projections of a larger model; give the folder above it, "
            f"{path.parent}, which has the merged model when `compressed-lm shrink` is done."
        )
    try:
        model_config, train_config = TransformerConfig(**record["model"]), TrainConfig(**record["train"])
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path / CONFIG} has missing or unknown settings ({error}); load the run with the version of "
            "compressed_lm that trained it."
        ) from error
    shapes = jax.eval_shape(Transformer(model_config).init, jax.random.key(0), jax.ShapeDtypeStruct((1, 1), "int32"))
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    places = shardings(shapes["params"], mesh) if mesh else jax.tree.map(lambda _: device, shapes["params"])
    abstract = jax.tree.map(
        lambda shape, place: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place), shapes["params"], places
    )
    packed, params = record.get("packed"), None
    if packed:
        tensors, data = _tensors(io.inside(path, WEIGHTS), abstract, packed), packed
    else:
        tensors, restored = {}, restore_params(path / CHECKPOINTS, abstract)
        if restored is None:
            raise InputError(f"The run in {path} has no checkpoint yet; start it again, it resumes.")
        params, data = restored
    if data.get("config_hash", learned_hash(record)) != learned_hash(record):
        raise InputError(
            f"{path / CONFIG} was changed after the run began: its weights were trained with another configuration or "
            "on other data, so the model would give wrong results. Restore the file, or train again with these "
            "settings in another folder."
        )
    if params is not None:
        check_finite(params, path)
    _check_fingerprints(path, record["data"], codec, store)
    progress = data["next_index"], data["loss_nats_per_token"]
    return StoredRun(path, record, model_config, train_config, *progress, abstract, tensors, params)


@dataclasses.dataclass(frozen=True)
class StoredRun:
    """A run on disk.

    Attributes:
        path: its folder.
        record: content of its config.json.
        model_config, train_config, step, loss_nats_per_token: as in `Run`.
        abstract: tree of the parameters' shapes, types and shardings.
        tensors: packed parameters by name; {} if they are in a checkpoint.
        params: parameters of a checkpoint, None if they are packed.
    """

    path: epath.Path
    record: dict
    model_config: TransformerConfig
    train_config: TrainConfig
    step: int
    loss_nats_per_token: float | None
    abstract: dict
    tensors: dict[str, weights.PackedTensor]
    params: dict | None

    @property
    def packed(self) -> dict | None:
        """The entry "packed" of the record, None if there is none."""
        return self.record.get("packed")

    @property
    def weights(self) -> str:
        """Spec of the matrices of the blocks, as `Run.weights`."""
        return self.packed["format"] if self.packed else self.model_config.weights

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each parameter, by name."""
        return {name: leaf.shape for name, leaf in by_name(self.abstract).items()}

    @property
    def dtypes(self) -> dict[str, str]:
        """Type of the array that `read` returns of each parameter, by name."""
        found = {name: weights.stored_dtype(tensor) for name, tensor in self.tensors.items()}
        return {name: found.get(name, "float32") for name in self.shapes}

    def read(self, name: str) -> np.ndarray:
        """Returns a parameter: one that is stored unquantised in its own type, any other one in float32.

        Raises:
            InputError: it is damaged, or a number is not finite.
        """
        if self.params is not None:
            return np.asarray(jax.device_get(by_name(self.params)[name]))
        leaf = weights.stored(self.tensors[name])
        check_leaf(leaf, name, self.path)
        return leaf

    def load(self) -> Run:
        """Returns the run with its parameters in float32, placed on devices."""
        params = self.params
        if params is None:
            params = jax.tree.map_with_path(self._place, self.abstract)
        learned = params, self.model_config, self.train_config, self.step, self.loss_nats_per_token
        return Run(*learned, **self.record["data"], packed=self.packed)

    def _place(self, keys, leaf):
        array = weights.to_float32(self.read(path_name(keys)))
        return jax.device_put(array, leaf.sharding, may_alias=False)  # not a view of the file


def _check_fingerprints(path, data, codec, store):
    """Raises InputError if a run was trained on another codec."""
    given: dict[str, str | None] = {
        "codec": getattr(codec, "fingerprint", None),
        "validation store": getattr(store, "codec_fingerprint", None),
    }
    for what, fingerprint in given.items():
        if fingerprint is not None and fingerprint != data["codec_fingerprint"]:
            raise InputError(
                f"The run {path} was trained on {data['codec_spec']}, fingerprint {data['codec_fingerprint'][:12]}, "
                f"and the {what} has fingerprint {fingerprint[:12]}: another M1, other options or another codec. Give "
                "the one that the run was trained with."
            )


def _tensors(path, abstract, packed):
    """Returns the tensors of a file of packed weights by name, which have the shapes of the model."""
    tensors = weights.load_packed(path)
    if packed.get("weights_checksum", found := checksum(path)) != found:
        raise InputError(
            f"{path} is not the file that {path.parent / CONFIG} was written with. Restore it, or pack the run again."
        )
    for name, leaf in by_name(abstract).items():
        if name not in tensors or tensors[name].shape != leaf.shape:
            raise InputError(
                f"{path} has no {name} of shape {leaf.shape}, which the model of {path.parent / CONFIG} needs; the two "
                "files belong to different runs. Pack the run again."
            )
    return tensors


def describe(
    config: TrainConfig, model_config: TransformerConfig, store: "TrainingStore", start: Start | None = None
) -> dict[str, dict]:
    """Returns the record of a run, the content of config.json, with hashes of the parameters of `start` if given."""
    data = dict(
        codec_spec=store.codec_spec,
        codec_fingerprint=store.codec_fingerprint,
        store_fingerprint=store.fingerprint,
        eod_id=int(store.eod_id),
    )
    record = {"train": dataclasses.asdict(config), "model": dataclasses.asdict(model_config), "data": data}
    trees = {"params_sha256": start.params, "frozen_sha256": start.frozen} if start else {}
    hashes: dict[str, str | bool] = {name: _hash(tree) for name, tree in trees.items() if tree is not None}
    if start and start.params and weights.holds_factors(start.params):
        hashes["projected"] = True
    return record | ({"init": hashes} if hashes else {})


def _hash(tree):
    digest = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(tree):
        digest.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
    return digest.hexdigest()


def config_hash(record: dict) -> str:
    """Returns the SHA-256 (hex) of the settings that change what a run computes.

    Left out are `FREE_FIELDS`, and `LATER_FIELDS` with the values that describe older versions.
    """

    def counts(name, value):
        return name not in FREE_FIELDS and (name not in LATER_FIELDS or value != LATER_FIELDS[name])

    learned = {part: {k: v for k, v in values.items() if counts(k, v)} for part, values in record.items()}
    return hashlib.sha256(json.dumps(learned, sort_keys=True).encode()).hexdigest()


def learned_hash(record: dict) -> str:
    """Returns `config_hash` without the entry "packed", so that a packed run has the hash of the original run."""
    return config_hash({part: values for part, values in record.items() if part != "packed"})


def check(directory: epath.Path, record: dict) -> None:
    """Raises InputError if a folder holds a run with other settings or data than the record."""
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
            f"The run in {directory} was started with another {what} ({'; '.join(changes)}). Give its original values "
            "to resume it, or another `out` folder to start a new run."
        )


def claim(directory: epath.Path, record: dict) -> None:
    """Writes the record of a run to its folder; call `check` first."""
    if read_record(directory) != record:
        io.write_atomic(directory / CONFIG, json.dumps(record, indent=2) + "\n")


def own_codec(directory: str | os.PathLike) -> epath.Path | None:
    """Returns the folder of the codec in a run that was imported or derived from an imported one, None if none."""
    path = folder(directory)
    read_record(path)  # reports a bucket that cannot be reached
    return path / CODEC if (path / CODEC).exists() else None


def check_record(record: dict, path: str | os.PathLike) -> None:
    """Raises InputError unless a dictionary is the record of a run.

    Args:
        record: as read from a file.
        path: the file, for the message.
    """
    texts = ("codec_spec", "codec_fingerprint", "store_fingerprint")
    data, packed = record.get("data", {}), record.get("packed", {})
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
            "missing, unknown or of another type. Restore the file, or load the run with the version of "
            "compressed_lm that trained it."
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


def copy_codec(source: str | os.PathLike, out: str | os.PathLike) -> None:
    """Copies the codec of a run, if its folder has one, to the folder of a run derived from it."""
    own, target = own_codec(source), folder(out) / CODEC
    if not own or target.exists():
        return
    with folders.new(target, "The folder of the codec") as new:
        for path in own.iterdir():
            if path.is_file():
                (new / path.name).write_bytes(path.read_bytes())
