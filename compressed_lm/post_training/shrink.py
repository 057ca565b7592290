"""Width pruning of a run: projected compression and its baselines (papers/004).

The folder OUT of a shrunk run holds

    selection.npz              selected dimensions of the large model
    training/                  the training run: metrics, checkpoints (of the projections, if any)
    config.json, weights.clw   the merged small model in float32; `load_run` and every command read OUT like any run
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
from compressed_lm.tracking.progress import Job
from compressed_lm.tracking.progress import progress as default_progress
from compressed_lm.training.checkpoints import digest, folder
from compressed_lm.training.config import TrainConfig
from compressed_lm.training.data import Batches, TrainingStore
from compressed_lm.training.loop import EvalFn, train
from compressed_lm.training.mesh import make_mesh, on_host
from compressed_lm.training.run_dir import load_run, read_record
from compressed_lm.training.step import Start

METHODS = {
    "projected": {"w_a": Option(int, 1), "start": Option(str, "one_hot"), "base": Option(str, "frozen")},
    "pruned": {"start": Option(str, "one_hot")},
    "scratch": {},
    "low_rank": {},
}
"""Methods and their options, in specs such as "projected(w_a=0)".

projected: trained projections of the frozen weights, with or without the additive matrix w_a, from a one_hot or svd
  start, over the frozen base or a random one.
pruned: the merged start of `projected` as plain weights: hard pruning for one_hot, slicing for svd.
scratch: random weights.
low_rank: trained low-rank factors.
"""
CHOICES = {"w_a": (0, 1), "start": width_pruning.STARTS, "base": ("frozen", "random")}
IMPORTANCE = ("activations", "magnitude", "index")
SELECTION, TRAINING = "selection.npz", "training"


@dataclasses.dataclass(frozen=True)
class Shrink:
    """Settings of shrinking.

    Attributes:
        keep: share of the large model's parameters, embeddings included, that the small model has. An output layer that
            start=svd unties from the embedding counts as part of the small model.
        method: spec of one of `METHODS`.
        importance: score by which dimensions are kept: "activations" on calibration text, "magnitude" of the weights,
            or "index", the first ones (a control).
        calibration: rows of the training text for activations. The paper uses 8192 and finds that more do not help.
        aspect: d_ff / d_model of the small model; by default that of the large one.
        multiple: both widths are multiples of it.

    Raises:
        InputError: an unknown method or option, or a value out of range.
    """

    keep: float = setting(above=0, high=1)
    method: str = "projected"
    importance: str = setting("activations", choices=IMPORTANCE)
    calibration: int = setting(512, low=1)
    aspect: float | None = setting(None, above=0)
    multiple: int = setting(8, low=1)

    def __post_init__(self) -> None:
        settings.check(self)
        _, options = self.parsed
        for name, value in options.items():
            if value not in CHOICES[name]:
                expected = ", ".join(map(str, CHOICES[name]))
                raise InputError(f"{name}={value} was given to the method {self.method!r}; expected {expected}.")
        if options.get("base") == "random" and not options["w_a"]:
            raise InputError(
                f"The method {self.method!r} has base=random without w_a, so it would start from noise; expected w_a=1 "
                "with base=random."
            )

    @property
    def parsed(self) -> tuple[str, dict[str, Any]]:
        """Name and options of the method."""
        name, given = specs.parse(self.method, METHODS, noun="method", example="projected(w_a=0)")
        return name, {k: option.default for k, option in METHODS[name].items()} | given

    @property
    def selects(self) -> bool:
        """Whether the method starts from selected dimensions of the large model."""
        return self.parsed[0] in ("projected", "pruned")

    @property
    def turns(self) -> bool:
        """Whether the basis of the residual stream is changed first, which unties embedding and output layer."""
        return self.parsed[1].get("start") == "svd"


@dataclasses.dataclass(frozen=True)
class Shrunk:
    """A trained small model.

    Attributes:
        model_config: its config.
        kept: its parameters divided by the large model's (for low_rank: the parameters of its factors).
        trainable, frozen: number of trained and of frozen parameters.
        untied: parameters of an output layer that the large model shares with its embedding table.
        loss_nats_per_token: training loss of the last batch.
    """

    model_config: models.TransformerConfig
    kept: float
    trainable: int
    frozen: int
    untied: int
    loss_nats_per_token: float


def shrink_run(
    directory: str | os.PathLike,
    store: TrainingStore,
    shrink: Shrink,
    config: TrainConfig,
    *,
    out: str | os.PathLike,
    progress: Callable[..., contextlib.AbstractContextManager[Job]] = default_progress,
    eval_fn_of: Callable[[models.TransformerConfig], EvalFn | None] = lambda model_config: None,
    accepted: Callable[[], None] = lambda: None,
    **settings: Any,
) -> Shrunk:
    """Makes the model of a run smaller, trains it, and writes it as a run. Resumes if interrupted.

    Args:
        directory: the run.
        store: token store of the run's codec, for calibration and training.
        shrink: settings of shrinking.
        config: the training; with `distillation` the large model is the teacher.
        out: folder of the small run.
        progress: context manager with the arguments of `tracking.progress.progress`.
        eval_fn_of: function from the small model's config to the `eval_fn` of `train`.
        accepted: called by process 0 after all checks, before anything in `out` changes.
        settings: of `train`: mesh_shape, trackers, compilation_cache, ...

    Raises:
        InputError: no run, another codec, a model or a share that does not suit the method, or an `out` with another
            run.
    """
    target = folder(local_path(out, "The folder of the small run"))
    with locks.held(target) if jax.process_index() == 0 else contextlib.nullcontext():
        return _shrink_run(directory, store, shrink, config, target, progress, eval_fn_of, accepted, settings)


def _shrink_run(directory, store, shrink, config, out, progress, eval_fn_of, accepted, settings):
    run = load_run(directory, store=store)
    if run.model_config.weights != "dense":
        raise InputError(
            f"The matrices of the run {directory} are {run.model_config.weights}; expected dense ones. First run "
            f"`compressed-lm quantize {directory} --format '{run.model_config.weights}' --out ...`, then shrink its "
            "output."
        )
    if "shrunk" not in (read_record(out) or {"shrunk"}):
        raise InputError(f"{out} holds a run that was not made by shrinking one; give another `out` folder.")
    small = shape(run.model_config, shrink)
    eval_fn, kept, write_selection = eval_fn_of(small), None, lambda: None
    if shrink.selects:
        kept, write_selection = _chosen(run, store, shrink, config, small, path=out / SELECTION, progress=progress)

    def save():
        accepted()
        write_selection()

    start = start_of(run.params, run.model_config, shrink, config, kept)
    large, large_size, large_step = run.model_config, _size(run.params), run.step
    del run, kept  # frees the large model's parameters, unless `start` has them
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
        kept=(trainable if small == large else _size(result.params)) / large_size,
        trainable=trainable,
        frozen=_size(start.frozen),
        untied=untied(large, small),
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
            "base": {"d_model": large.d_model, "d_ff": large.d_ff, "step": large_step},
        }
        record["packed"] = {
            "format": "dense",
            "others": "dense",
            "bits_per_weight": 32.0,
            "next_index": result.step,
            "loss_nats_per_token": result.loss_nats_per_token,
        }
        quantize.write(out, record, quantize.dense(by_name(params)), source=directory)
    return found


class Kept(NamedTuple):
    """Part of the large model that the small one starts from.

    Attributes:
        selection: the selected dimensions.
        moment: second moment of the residual stream, for svd starts.
    """

    selection: models.Selection
    moment: np.ndarray | None = None


def shape(large: models.TransformerConfig, shrink: Shrink) -> models.TransformerConfig:
    """Returns the config of the small model; for low_rank it is that of the large model.

    Raises:
        InputError: a share of parameters that no width has, or start=svd for a model that does not allow a change of
            basis.
    """
    if shrink.parsed[0] == "low_rank":
        return large
    if shrink.turns:
        _check_turns(large, shrink)
    found = models.widths(large, keep=shrink.keep, aspect=shrink.aspect, multiple=shrink.multiple, untie=shrink.turns)
    return models.small_config(large, d_model=found.d_model, d_ff=found.d_ff, untie=shrink.turns)


def _check_turns(large, shrink):
    """Raises InputError if a change of basis of the residual stream changes what a model computes."""
    if large.norm == "layer":
        reason = "norm=layer, which subtracts a mean that differs in another basis"
    elif large.activations != "dense":
        reason = f"activations={large.activations}, which another basis rounds to other levels"
    else:
        return
    raise InputError(f"The method {shrink.method!r} was given, but the model has {reason}. Use start=one_hot.")


def untied(large: models.TransformerConfig, small: models.TransformerConfig) -> int:
    """Returns the number of parameters of the small model's output layer if only the large model ties it, else 0."""
    return small.vocab_size * small.d_model if large.tie_embeddings and not small.tie_embeddings else 0


def start_of(
    params: dict, large: models.TransformerConfig, shrink: Shrink, config: TrainConfig, kept: Kept | None
) -> Start:
    """Returns the initial parameters of the training of a small model.

    Args:
        params: of the large model.
        large: its config.
        shrink, config: as for `shrink_run`.
        kept: required by methods that select (`Shrink.selects`).

    Raises:
        InputError: `kept` is missing, or distillation from a random base.
    """
    method, options = shrink.parsed
    start = Start()
    if method == "low_rank":
        start = Start(models.low_rank(params, keep=shrink.keep), {})
    elif not shrink.selects:
        pass
    elif kept is None:
        raise InputError(f"The method {shrink.method!r} was given without `kept`; expected selected dimensions.")
    elif method == "pruned" and options["start"] == "one_hot":
        start = Start(models.hard_pruned(params, kept.selection))
    else:
        w_a = bool(options.get("w_a"))
        projected = models.projected(params, kept.selection, w_a=w_a, start=options["start"], moment=kept.moment)
        start = Start(weights.merge(projected, params)) if method == "pruned" else Start(projected, params)
        if options.get("base") == "random" and config.distillation:
            raise InputError(
                f"distillation={config.distillation} was given with the method {shrink.method!r}, whose large model is "
                "random and has nothing to teach; expected 0."
            )
        if options.get("base") == "random":
            start = Start(*models.random_base(params, projected, key=jax.random.key(config.seed)))
    return dataclasses.replace(start, frozen=params, frozen_config=large) if config.distillation else start


def shapes_of(
    params: dict, large: models.TransformerConfig, shrink: Shrink, config: TrainConfig
) -> tuple[models.TransformerConfig, Start]:
    """Returns (config of the small model, shapes of its initial parameters), without computing them."""
    small = shape(large, shrink)
    kept = Kept(models.select(models.index_scores(large), d_model=small.d_model, d_ff=small.d_ff))

    def trees(params):
        start = start_of(params, large, shrink, config, kept)
        return start.params, start.frozen

    trained, frozen = jax.eval_shape(trees, params)
    return small, Start(trained, frozen, large)


def _chosen(run, store, shrink, config, small, *, path, progress):
    """Returns what is kept, from the file at `path` if it exists, and a function that writes this file.

    So calibration runs only once, and a run resumes with its own selection.
    """
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
            f"{path} cannot be read ({error}). Restore it, or remove it to select again if nothing was trained yet."
        ) from error
    if same:
        selection = models.Selection(saved["d_model"], saved["d_ff"])
        return Kept(selection, saved.get("moment")), lambda: None
    raise InputError(
        f"{path} was made from another model, other text or other settings. Give the original ones of {path.parent} to "
        "resume, or another `out` folder to start a new run."
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
    """Returns the first rows of training as inputs of the model, int32[N, L]."""
    here = jax.sharding.NamedSharding(
        make_mesh((1, 1, 1), devices=jax.local_devices()[:1]), jax.sharding.PartitionSpec()
    )
    batches = Batches(store, batch_size=1, seq_len=config.seq_len, seed=config.seed, sharding=here)
    rows = np.stack([np.asarray(batches[i])[0] for i in range(min(n_rows, batches.rows_per_epoch))])
    return np.asarray(models.shift_right(rows, run.eod_id))


def _size(tree) -> int:
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))
