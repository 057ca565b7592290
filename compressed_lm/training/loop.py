"""Training loop for M1 and M2 of every size.

On restart: config.json is checked, the newest readable checkpoint is restored, metrics.jsonl is truncated to its step,
and the data continues at the batch `next_index`. A killed and restarted run ends with the same bits.
"""

import contextlib
import dataclasses
import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from rich.console import Console

from compressed_lm import io
from compressed_lm.distributed import processes
from compressed_lm.distributed.watchdog import Watchdog
from compressed_lm.errors import InputError
from compressed_lm.io import locks
from compressed_lm.models import TransformerConfig, count_params
from compressed_lm.tracking import JSONLines, Tracker
from compressed_lm.tracking.progress import Job
from compressed_lm.tracking.progress import progress as default_progress
from compressed_lm.training import hardware, run_dir
from compressed_lm.training.checkpoints import Checkpoints, folder
from compressed_lm.training.clock import Clock
from compressed_lm.training.config import TrainConfig
from compressed_lm.training.data import Batches, TrainingStore
from compressed_lm.training.durations import rates, resolve, whole
from compressed_lm.training.mesh import make_mesh
from compressed_lm.training.recorder import Recorder
from compressed_lm.training.step import Params, Program, Start, TrainState

EvalFn = Callable[[Params, int], Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """Result of a finished run.

    Attributes:
        params: the parameter tree of the model, on the mesh.
        step: updates done.
        loss_nats_per_token: training loss of the last batch.
        n_params: number of parameters.
        n_tokens: tokens seen.
        seconds: seconds by phase, restarts included: compile, train, input_wait, pause.
    """

    params: Params
    step: int
    loss_nats_per_token: float
    n_params: int
    n_tokens: int
    seconds: Mapping[str, float]


def train(
    config: TrainConfig,
    model_config: TransformerConfig,
    store: TrainingStore,
    *,
    out: str | os.PathLike,
    mesh_shape: Sequence[int] | None = None,
    trackers: Sequence[Tracker] = (),
    progress: Callable[..., AbstractContextManager[Job]] = default_progress,
    eval_fn: EvalFn | None = None,
    start: Start | None = None,
    compilation_cache: str | os.PathLike | None = None,
    hang_seconds: float = 600.0,
    profile_steps: tuple[int, int] | None = None,
    debug: bool = False,
    accepted: Callable[[], None] = lambda: None,
) -> TrainResult:
    """Trains a run to its end, resuming from its newest checkpoint, and returns the result.

    Args:
        config: the run.
        model_config: the model; its vocabulary must include the store's end-of-document id.
        store: the training data.
        out: folder of the run, also `gs://...` or `s3://...`. An unfinished run in it resumes; a finished one is
            returned at once.
        mesh_shape: sizes of the mesh axes (data, fsdp, tensor); by default all devices on data.
        trackers: receive the metrics every `log_every` steps and the results of `eval_fn`, like `out`/metrics.jsonl.
        progress: context manager with the arguments of `tracking.progress.progress`.
        eval_fn: called with (params, step) every `eval_every` and at the end, by every process; returns named numbers.
        start: initial parameters, instead of random ones; the optimizer state is new.
        compilation_cache: folder in which XLA keeps compiled programs for later processes.
        hang_seconds: a step that takes longer is reported, with the processes that are behind.
        profile_steps: first and last step of a trace that is written to `out`/profile.
        debug: run without compilation, layer by layer; the first NaN raises where it arises. Slow; for one device.
        accepted: called by process 0 after all checks, before anything in the folder changes.

    Raises:
        InputError: `out` holds another run, or the data, mesh and model do not fit each other.
        TrainingDiverged: loss or gradient are not finite.
        SystemExit: SIGTERM arrived, or the machine is about to be preempted; the state was saved first.
    """
    directory, main_process = folder(out), jax.process_index() == 0
    io.check_output(directory, "The folder of the run", folder=True)
    with contextlib.ExitStack() as stack:
        if main_process:
            stack.enter_context(locks.held(directory))
        config = resolve(config, **rates(store))
        n_steps, log_every, keep_every = whole(config.steps), whole(config.log_every), whole(config.keep_every)
        checkpoint_every, eval_every = whole(config.checkpoint_every), whole(config.eval_every)
        program = Program(
            config, model_config, store.eod_id, make_mesh((1, 1, 1) if debug else mesh_shape), start or Start()
        )
        batches = Batches(
            store,
            batch_size=config.batch_size,
            seq_len=config.seq_len,
            seed=config.seed,
            sharding=program.batch_sharding,
        )
        abstract = program.abstract_state  # may raise too; nothing has changed in the folder yet
        record = run_dir.describe(config, model_config, store, program.start)
        identity = {"store_fingerprint": store.fingerprint, "config_hash": run_dir.config_hash(record)}
        for what, value in identity.items():
            processes.check_same(what, value)
        if main_process:
            run_dir.check(directory, record)
            accepted()
            run_dir.claim(directory, record)
        processes.gather("run claimed", "")
        if compilation_cache is not None:
            jax.config.update("jax_compilation_cache_dir", os.fspath(compilation_cache))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
            reset_cache()  # JAX reads the folder's name only once, at the first program
        if debug:
            stack.enter_context(jax.disable_jit())
            stack.enter_context(jax.debug_nans(True))
        checkpoints = Checkpoints(directory / run_dir.CHECKPOINTS, keep=config.keep, keep_every=keep_every)
        stack.enter_context(contextlib.closing(checkpoints))
        state: TrainState | None
        data: dict[str, Any]
        state, data = checkpoints.restore(abstract) or (None, identity | {"next_index": 0})
        if state is not None:
            state = state._replace(frozen=program.place_frozen())
        first = data["next_index"]
        if any(data[name] != value for name, value in identity.items()):
            raise InputError(
                f"The checkpoint of step {first} in {directory} belongs to another token store or configuration than "
                f"its {run_dir.CONFIG}; restore the folder from a copy, or give another `out` folder."
            )
        clock = Clock(data.get("seconds"))
        if state is None or first < n_steps:
            with clock.measure("compile"):
                step_fn = program.step if debug else program.compile()
                state = state or jax.block_until_ready(program.init())
            trackers = [*trackers] if main_process else []
            if main_process:
                log = stack.enter_context(contextlib.closing(JSONLines(directory / run_dir.METRICS, last_step=first)))
                trackers.insert(0, log)
            # One bar for all processes.
            show = progress if main_process else functools.partial(default_progress, console=Console(quiet=True))
            bar = stack.enter_context(show(f"train {directory.name}", n_steps, unit="steps", done=first))
            reader = stack.enter_context(contextlib.closing(batches.prefetch(first, n_steps)))
            stop = stack.enter_context(_sigterm())
            watchdog = stack.enter_context(Watchdog(hang_seconds))
            peak = hardware.peak_flops(program.mesh.devices.flat[0])
            recorder = Recorder(
                config,
                model_config,
                trackers=trackers,
                clock=clock,
                bar=bar,
                checkpoints=checkpoints,
                bytes_per_token=rates(store)["bytes_per_token"],
                peak_flops=peak and peak * program.mesh.size,
            )
            saved = time.monotonic()
            for step in range(first + 1, n_steps + 1):
                if profile_steps and step == profile_steps[0]:
                    recorder.flush()
                    jax.profiler.start_trace(os.fspath(directory / "profile"))
                watchdog.beat(step, "input")
                with clock.measure("input_wait"):
                    targets = next(reader)
                watchdog.beat(step, "step")
                with clock.measure("train"):
                    state, metrics = step_fn(state, targets)
                    recorder.push(step, metrics)
                if profile_steps and step == profile_steps[1]:
                    recorder.flush()
                    jax.profiler.stop_trace()
                last = step == n_steps
                evaluate = eval_fn if last or _due(step, eval_every) else None
                stopped = _stopped(stop, step)
                save = last or stopped or _due(step, checkpoint_every) or _due(step, keep_every)
                if config.checkpoint_minutes and step % log_every == 0:
                    save |= _agreed(time.monotonic() - saved >= 60 * config.checkpoint_minutes)
                if evaluate or save:
                    with clock.measure("train"):
                        recorder.flush()  # do not evaluate or save a diverged state
                watchdog.beat(step, "evaluation or checkpoint")
                with clock.measure("pause"):
                    if evaluate:
                        recorder.report(step, evaluate(program.model_params(state), step))
                    if save:
                        saved = time.monotonic()
                        if main_process:
                            log.flush()
                        data = identity | {
                            "next_index": step,
                            "loss_nats_per_token": recorder.loss,
                            "seconds": dict(clock.seconds),
                        }
                        checkpoints.save(state, data)
                if stopped and not last:
                    checkpoints.wait()
                    if main_process:
                        print(
                            f"Stopped by SIGTERM after step {step} of {n_steps}; saved. Start again to resume.",
                            flush=True,
                        )
                    raise SystemExit(128 + signal.SIGTERM)
    return TrainResult(
        params=program.model_params(state),
        step=n_steps,
        loss_nats_per_token=data["loss_nats_per_token"],
        n_params=count_params(model_config).total,
        n_tokens=n_steps * config.batch_size * config.seq_len,
        seconds=dict(clock.seconds),
    )


@contextlib.contextmanager
def _sigterm() -> Iterator[threading.Event]:
    """Yields an event; in the block SIGTERM sets it instead of ending the process."""
    event = threading.Event()
    # Only the main thread may handle signals. In a run of several processes JAX handles them and notifies all.
    if threading.current_thread() is not threading.main_thread() or jax.process_count() > 1:
        yield event
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, previous)


def _stopped(event, step):
    """Returns whether to stop after this step, the same in all processes."""
    return event.is_set() if jax.process_count() == 1 else multihost_utils.reached_preemption_sync_point(step)


def _due(step, every):
    """Returns whether this step is a multiple of `every`; 0 means never."""
    return bool(every) and step % every == 0


def _agreed(decision):
    """Returns the decision of the first process, because clocks differ."""
    return decision if jax.process_count() == 1 else bool(multihost_utils.broadcast_one_to_all(np.int32(decision)))
