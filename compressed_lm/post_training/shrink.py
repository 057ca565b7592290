"""A smaller model out of a run: projected compression, and what it is compared with (papers/004), as a run again.

The folder OUT of a shrunk run holds

    selection.npz   what is kept of the large model, chosen once
    training/       the run that trains: metrics, checkpoints (of projections, where there are any)
    config.json, weights.clw   the small model, merged, in float32: `load_run`, and every verb, takes OUT like any run
"""

import contextlib
import dataclasses
import io
import json
import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from compressed_lm import models, settings, specs, weights
from compressed_lm.errors import InputError
from compressed_lm.io import local_path, locks, npz, write_atomic
from compressed_lm.models import width_pruning
from compressed_lm.models.partitioning import by_name
from compressed_lm.post_training import quantize
from compressed_lm.settings import setting
from compressed_lm.specs import Option
from compressed_lm.tracking.progress import progress as default_progress
from compressed_lm.training.checkpoints import digest, folder
from compressed_lm.training.config import TrainConfig
from compressed_lm.training.data import Batches
from compressed_lm.training.loop import train
from compressed_lm.training.mesh import make_mesh, on_host
from compressed_lm.training.run_dir import load_run, read_record
from compressed_lm.training.step import Start

METHODS = {
    "projected": {"w_a": Option(int, 1), "start": Option(str, "one_hot"), "base": Option(str, "frozen")},
    "pruned": {"start": Option(str, "one_hot")},
    "scratch": {},
    "low_rank": {},
}
"""Spellings of methods, such as "projected(w_a=0)": trained projections of the frozen weights, with the additive matrix
w_a or without, from a one_hot or an svd start, over the frozen base or over a random one; what they start from as plain
weights, which is hard pruning, or slicing where the start is svd; random weights; low-rank factors."""
CHOICES = {"w_a": (0, 1), "start": width_pruning.STARTS, "base": ("frozen", "random")}
IMPORTANCE = ("activations", "magnitude", "index")
SELECTION, TRAINING = "selection.npz", "training"


@dataclasses.dataclass(frozen=True)
class Shrink:
    """How a model is made smaller.

    Attributes:
        keep: share of its parameters, embeddings counted, that the small model has. An output layer that start=svd
            unties from the embedding is counted with the small model.
        method: spelling of one of `METHODS`.
        importance: what says which dimensions are kept: "activations" on calibration text, "magnitude" of the weights,
            or "index", the first ones (a control).
        calibration: rows of the training text for activations. The paper takes 8192 and finds that more do not help.
        aspect: d_ff / d_model of the small model; by default that of the large one.
        multiple: both widths are multiples of it.
    """

    keep: float = setting(above=0, high=1)
    method: str = "projected"
    importance: str = setting("activations", choices=IMPORTANCE)
    calibration: int = setting(512, low=1)
    aspect: float | None = setting(None, above=0)
    multiple: int = setting(8, low=1)

    def __post_init__(self):
        settings.check(self)
        _, options = self.parsed
        for name, value in options.items():
            if value not in CHOICES[name]:
                expected = ", ".join(map(str, CHOICES[name]))
                raise InputError(f"{name}={value} was given to the method {self.method!r}; expected {expected}.")
        if options.get("base") == "random" and not options["w_a"]:
            raise InputError(
                f"The method {self.method!r} has a random base and no w_a, so it would start from noise; expected "
                "w_a=1 with base=random."
            )

    @property
    def parsed(self) -> tuple[str, dict[str, Any]]:
        """Name and options of the method."""
        name, given = specs.parse(self.method, METHODS, noun="method", example="projected(w_a=0)")
        return name, {k: option.default for k, option in METHODS[name].items()} | given

    @property
    def selects(self) -> bool:
        """Whether the method begins with selected dimensions of the large model."""
        return self.parsed[0] in ("projected", "pruned")

    @property
    def turns(self) -> bool:
        """Whether the residual stream is turned to another basis first, which unties embedding and output layer."""
        return self.parsed[1].get("start") == "svd"


@dataclasses.dataclass(frozen=True)
class Shrunk:
    """A small model that is trained.

    Attributes:
        model_config: its shape.
        kept: share of the large model's parameters that it has (for low_rank: that its factors have).
        trainable, frozen: numbers that were trained and not.
        untied: those of an output layer that the large model has not: its embedding table is both.
        loss_nats_per_token: of the last batch.
    """

    model_config: models.TransformerConfig
    kept: float
    trainable: int
    frozen: int
    untied: int
    loss_nats_per_token: float


def shrink_run(
    directory: str | os.PathLike,
    store,
    shrink: Shrink,
    config: TrainConfig,
    *,
    out: str | os.PathLike,
    progress=default_progress,
    eval_fn_of=lambda model_config: None,
    accepted: Callable[[], None] = lambda: None,
    **settings,
) -> Shrunk:
    """Makes the model of a run smaller, trains it, and writes it as a run. Killed and started again, it goes on.

    Args:
        directory: the run.
        store: `corpora.TokenStore` of the run's codec: text for calibration, and to train on.
        shrink: how.
        config: the training. Its `distillation` makes the large model the teacher.
        out: the folder of the small run.
        progress: context manager with the arguments of `tracking.progress.progress`.
        accepted: called by process 0 once nothing refuses the run any more, before anything in `out` changes.
        eval_fn_of: from the small model's shape, the `eval_fn` of `train`.
        settings: of `train`: mesh_shape, trackers, compilation_cache, ...

    Raises:
        InputError: no run, another codec, a model or a share that the method does not fit, or an `out` with another
            run.
    """
    out = folder(local_path(out, "The folder of the small run"))
    with locks.held(out) if jax.process_index() == 0 else contextlib.nullcontext():
        return _shrink_run(directory, store, shrink, config, out, progress, eval_fn_of, accepted, settings)


def _shrink_run(directory, store, shrink, config, out, progress, eval_fn_of, accepted, settings):
    run = load_run(directory, store=store)
    if run.model_config.weights != "dense":
        raise InputError(
            f"The matrices of the run {directory} are {run.model_config.weights}, and a shrunk model starts from plain "
            f"ones. Run `compressed-lm quantize {directory} --format '{run.model_config.weights}' --out ...` first and "
            "shrink what that writes."
        )
    if "shrunk" not in (read_record(out) or {"shrunk"}):
        raise InputError(f"{out} holds a run that was not made by shrinking one; give another `out` folder.")
    small = shape(run.model_config, shrink)
    eval_fn, kept, save = eval_fn_of(small), None, accepted
    if shrink.selects:
        kept, write_selection = _chosen(run, store, shrink, config, small, path=out / SELECTION, progress=progress)

        def save():
            accepted()
            write_selection()

    start = start_of(run.params, run.model_config, shrink, config, kept)
    result = train(
        config,
        small,
        store,
        out=out / TRAINING,
        start=start,
        eval_fn=eval_fn,
        progress=progress,
        accepted=save,
        **settings,
    )
    trainable = _size(start.params if start.params is not None else result.params)
    found = Shrunk(
        model_config=small,
        kept=(trainable if small == run.model_config else _size(result.params)) / _size(run.params),
        trainable=trainable,
        frozen=_size(start.frozen),
        untied=untied(run.model_config, small),
        loss_nats_per_token=result.loss_nats_per_token,
    )
    params = on_host(result.params)
    if jax.process_index() == 0:
        record = {k: v for k, v in read_record(out / TRAINING).items() if k != "init"}
        record |= {k: v for k, v in read_record(folder(directory)).items() if k == "imported"}
        record["shrunk"] = dataclasses.asdict(shrink) | {
            "kept": found.kept,
            "trainable": found.trainable,
            "frozen": found.frozen,
            "steps": result.step,
            "base": {"d_model": run.model_config.d_model, "d_ff": run.model_config.d_ff, "step": run.step},
        }
        record["packed"] = {
            "format": "dense",
            "others": "dense",
            "bits_per_weight": 32.0,
            "next_index": result.step,
            "loss_nats_per_token": result.loss_nats_per_token,
        }
        stored = {name: weights.pack(x, "dense", axis=-1) for name, x in by_name(params).items()}
        quantize.write(out, record, stored, source=directory)
    return found


class Kept(NamedTuple):
    """What of the large model the small one begins with: a selection, and for svd starts the second moment of the
    residual stream, or None."""

    selection: models.Selection
    moment: np.ndarray | None = None


def shape(large: models.TransformerConfig, shrink: Shrink) -> models.TransformerConfig:
    """Returns the config of the small model; for low_rank it is the large one's, whose factors are small.

    Raises:
        InputError: a share of parameters that no width keeps, or start=svd for a model that has no other basis.
    """
    if shrink.parsed[0] == "low_rank":
        return large
    if shrink.turns:
        _check_turns(large, shrink)
    sizes = dict(keep=shrink.keep, aspect=shrink.aspect, multiple=shrink.multiple)
    found = models.widths(large, **sizes, untie=shrink.turns)
    return models.small_config(large, d_model=found.d_model, d_ff=found.d_ff, untie=shrink.turns)


def _check_turns(large, shrink):
    """Raises InputError for a model that computes something else when its residual stream is in another basis."""
    if large.norm == "layer":
        reason = "norm=layer, which subtracts a mean that another basis does not keep"
    elif large.activations != "dense":
        reason = f"activations={large.activations}, which another basis rounds to other levels"
    else:
        return
    raise InputError(f"The method {shrink.method!r} was given for a model with {reason}. Use start=one_hot.")


def untied(large: models.TransformerConfig, small: models.TransformerConfig) -> int:
    """Returns how many numbers the small model's output layer has where the large one's is its embedding table; 0 where
    both or neither have one of their own."""
    return small.vocab_size * small.d_model if large.tie_embeddings and not small.tie_embeddings else 0


def start_of(
    params: dict, large: models.TransformerConfig, shrink: Shrink, config: TrainConfig, kept: Kept | None
) -> Start:
    """Returns what the training of a small model starts from.

    Args:
        params: of the large model.
        large: its shape.
        shrink, config: as for `shrink_run`.
        kept: needed by methods that select (`Shrink.selects`).
    """
    method, options = shrink.parsed
    start = Start()
    if method == "low_rank":
        start = Start(models.low_rank(params, keep=shrink.keep), {})
    elif method == "pruned" and options["start"] == "one_hot":
        start = Start(models.hard_pruned(params, kept.selection))
    elif shrink.selects:
        w_a = bool(options.get("w_a"))
        projected = models.projected(params, kept.selection, w_a=w_a, start=options["start"], moment=kept.moment)
        start = Start(weights.merge(projected, params)) if method == "pruned" else Start(projected, params)
        if options.get("base") == "random" and config.distillation:
            raise InputError(
                f"distillation={config.distillation} was given with the method {shrink.method!r}, whose large model is "
                "noise and has nothing to teach; expected 0."
            )
        if options.get("base") == "random":
            start = Start(*models.random_base(params, projected, key=jax.random.key(config.seed)))
    return dataclasses.replace(start, frozen=params, frozen_config=large) if config.distillation else start


def shapes_of(
    params: dict, large: models.TransformerConfig, shrink: Shrink, config: TrainConfig
) -> tuple[models.TransformerConfig, Start]:
    """Returns (the small model's shape, the shapes of what its training starts from), without computing anything."""
    small = shape(large, shrink)
    kept = Kept(models.select(models.index_scores(large), d_model=small.d_model, d_ff=small.d_ff))

    def trees(params):
        start = start_of(params, large, shrink, config, kept)
        return start.params, start.frozen

    return small, Start(*jax.eval_shape(trees, params), frozen_config=large)


def _chosen(run, store, shrink, config, small, *, path, progress):
    """Returns what is kept, from the file at `path` if it is there, and a function that writes this file: calibration
    is not done twice, and a run goes on from what it began with."""
    settings = dataclasses.asdict(shrink) | {"seq_len": config.seq_len, "seed": config.seed}
    base = {"base": digest(run.params), "store": store.fingerprint}
    asked = json.dumps(settings | base, sort_keys=True)
    if not path.exists():
        kept = _choose(run, store, shrink, config, small, progress)
        arrays = kept.selection._asdict() | ({} if kept.moment is None else {"moment": kept.moment})
        content = io.BytesIO()
        np.savez(content, **arrays, asked=asked)
        return kept, lambda: write_atomic(path, content.getvalue())
    try:
        saved = npz.read_arrays(path.read_bytes())
        same = str(saved["asked"]) == asked
    except (ValueError, KeyError) as error:
        raise InputError(
            f"{path} cannot be read ({error}). Remove it to choose anew what is kept, if nothing was trained yet; else "
            "restore it."
        ) from error
    if same:
        selection = models.Selection(saved["d_model"], saved["d_ff"])
        return Kept(selection, saved.get("moment")), lambda: None
    raise InputError(
        f"{path} was made from another model, other text or other settings. Give those that {path.parent} was started "
        "with to go on, or another `out` folder to start anew."
    )


def _choose(run, store, shrink, config, small, progress):
    params, large, moment = run.params, run.model_config, None
    if shrink.importance == "magnitude":
        scores = models.magnitude_scores(params)
    elif shrink.importance == "index":
        scores = models.index_scores(large)
    else:
        rows = _calibration(store, run, shrink.calibration, config)
        with progress("calibrate", len(rows), unit="rows") as bar:
            advance = lambda done: bar.advance(done - bar.done)  # noqa: E731
            scores = models.activation_scores(params, rows, config=large, progress=advance)
        if shrink.turns:
            moment = models.residual_moment(params, rows, config=large)
    return Kept(models.select(scores, d_model=small.d_model, d_ff=small.d_ff), moment)


def _calibration(store, run, n_rows, config):
    """Returns the first rows of training as the model reads them, int32[N, L]."""
    here = jax.sharding.NamedSharding(
        make_mesh((1, 1, 1), devices=jax.local_devices()[:1]), jax.sharding.PartitionSpec()
    )
    batches = Batches(store, batch_size=1, seq_len=config.seq_len, seed=config.seed, sharding=here)
    rows = np.stack([np.asarray(batches[i])[0] for i in range(min(n_rows, batches.rows_per_epoch))])
    return np.asarray(models.shift_right(rows, run.eod_id))


def _size(tree) -> int:
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))
