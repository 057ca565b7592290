"""The training loop: one for M1, every M2 and every size.

Restart order: config.json is checked, the newest readable checkpoint restored, metrics.jsonl cut back to its step, and
the data goes on from the batch that its `next_index` names. A run that was killed and started again ends in the same
bits.
"""

import contextlib
import dataclasses
import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

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
from compressed_lm.tracking.progress import progress as default_progress
from compressed_lm.training import hardware, run_dir
from compressed_lm.training.checkpoints import Checkpoints, folder
from compressed_lm.training.clock import Clock
from compressed_lm.training.config import TrainConfig
from compressed_lm.training.data import Batches
from compressed_lm.training.durations import rates, resolve
from compressed_lm.training.mesh import make_mesh
from compressed_lm.training.recorder import Recorder
from compressed_lm.training.step import Params, Program, Start

EvalFn = Callable[[Params, int], Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """A finished run.

    Attributes:
        params: the parameter tree of the model, on the mesh.
        step: updates done.
        loss_nats_per_token: training loss of the last batch.
        n_params: number of parameters.
        n_tokens: tokens seen.
        seconds: where the time went, restarts included: compile, train, input_wait, pause.
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
    store,
    *,
    out: str | os.PathLike,
    mesh_shape: Sequence[int] | None = None,
    trackers: Sequence[Tracker] = (),
    progress=default_progress,
    eval_fn: EvalFn | None = None,
    start: Start | None = None,
    compilation_cache: str | os.PathLike | None = None,
    hang_seconds: float = 600.0,
    profile_steps: tuple[int, int] | None = None,
    debug: bool = False,
    accepted: Callable[[], None] = lambda: None,
) -> TrainResult:
    """Returns the result of a run, after training what is left of it.

    Args:
        config: the run.
        model_config: the model; its vocabulary must have room for the store's end-of-document id.
        store: a `corpora.TokenStore`.
        out: the run's folder, also `gs://...`. A run found there goes on from its newest checkpoint; a finished one is
            returned at once.
        mesh_shape: sizes of the mesh axes (data, fsdp, tensor); by default all devices on data.
        trackers: get the metrics every `log_every` steps and what `eval_fn` returns, as `out`/metrics.jsonl does.
        progress: context manager with the arguments of `tracking.progress.progress`.
        eval_fn: called with (params, step) every `eval_every` and at the end, by every process; returns named numbers.
        start: where to start, instead of random parameters; the optimizer starts afresh.
        compilation_cache: folder in which XLA keeps compiled programs for later processes.
        hang_seconds: a step that takes longer is reported, with the processes that are behind.
        profile_steps: first and last step of a trace that is written to `out`/profile.
        debug: nothing is compiled, layers run one by one, and the first number that is not finite raises where it
            arises. Slow; for one device.
        accepted: called by process 0 once the run is known to fit its folder, before anything in it changes.

    Raises:
        InputError: `out` holds another run, or the data, mesh and model do not fit each other.
        TrainingDiverged: loss or gradient are not finite.
        SystemExit: SIGTERM arrived, or the machine is about to be taken away; the state was saved first.
    """
    out, main_process = folder(out), jax.process_index() == 0
    if io.scheme(out) is None:
        io.check_output(out, "The folder of the run", folder=True)
    with contextlib.ExitStack() as stack:
        if main_process:
            stack.enter_context(locks.held(out))
        config = resolve(config, **rates(store))
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
        abstract = program.abstract_state  # may refuse, too; nothing has changed in `out` so far
        record = run_dir.describe(config, model_config, store, program.start)
        identity = {"store_fingerprint": store.fingerprint, "config_hash": run_dir.config_hash(record)}
        for what, value in identity.items():
            processes.check_same(what, value)
        if main_process:
            run_dir.check(out, record)
            accepted()
            run_dir.claim(out, record)
        processes.gather("run claimed", "")
        if compilation_cache is not None:
            jax.config.update("jax_compilation_cache_dir", os.fspath(compilation_cache))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
            reset_cache()  # JAX looks for its folder once, at the first program
        if debug:
            stack.enter_context(jax.disable_jit())
            stack.enter_context(jax.debug_nans(True))
        checkpoints = Checkpoints(out / run_dir.CHECKPOINTS, keep=config.keep, keep_every=config.keep_every)
        stack.enter_context(contextlib.closing(checkpoints))
        state, data = checkpoints.restore(abstract) or (None, identity | {"next_index": 0})
        if state is not None:
            state = state._replace(frozen=program.place_frozen())
        first = data["next_index"]
        if any(data[name] != value for name, value in identity.items()):
            raise InputError(
                f"The checkpoint of step {first} in {out} belongs to another token store or configuration than "
                f"{run_dir.CONFIG} beside it; restore the folder from a copy, or give another `out` folder."
            )
        clock = Clock(data.get("seconds"))
        if first < config.steps:
            with clock.measure("compile"):
                step_fn = program.step if debug else program.compile()
                state = state or jax.block_until_ready(program.init())
            trackers = [*trackers] if main_process else []
            if main_process:
                log = stack.enter_context(contextlib.closing(JSONLines(out / run_dir.METRICS, last_step=first)))
                trackers.insert(0, log)
            # The other processes would show the same bar again.
            show = progress if main_process else functools.partial(default_progress, console=Console(quiet=True))
            bar = stack.enter_context(show(f"train {out.name}", config.steps, unit="steps", done=first))
            reader = stack.enter_context(contextlib.closing(batches.prefetch(first, config.steps)))
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
        for step in range(first + 1, config.steps + 1):
            if profile_steps and step == profile_steps[0]:
                recorder.flush()
                jax.profiler.start_trace(os.fspath(out / "profile"))
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
            last = step == config.steps
            evaluate = eval_fn and (last or _due(step, config.eval_every))
            stopped = _stopped(stop, step)
            save = last or stopped or _due(step, config.checkpoint_every) or _due(step, config.keep_every)
            if config.checkpoint_minutes and step % config.log_every == 0:
                save |= _agreed(time.monotonic() - saved >= 60 * config.checkpoint_minutes)
            if evaluate or save:
                with clock.measure("train"):
                    recorder.flush()  # never evaluate or save what diverged
            watchdog.beat(step, "evaluation or checkpoint")
            with clock.measure("pause"):
                if evaluate:
                    recorder.report(step, eval_fn(program.model_params(state), step))
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
                        f"Stopped by SIGTERM after step {step} of {config.steps}; saved. Start again to go on.",
                        flush=True,
                    )
                raise SystemExit(128 + signal.SIGTERM)
    return TrainResult(
        params=program.model_params(state),
        step=config.steps,
        loss_nats_per_token=data["loss_nats_per_token"],
        n_params=count_params(model_config).total,
        n_tokens=config.steps * config.batch_size * config.seq_len,
        seconds=dict(clock.seconds),
    )


@contextlib.contextmanager
def _sigterm() -> Iterator[threading.Event]:
    """Yields an event that SIGTERM sets inside the block, instead of ending the process."""
    event = threading.Event()
    # Only the main thread may handle signals; in a run of several processes JAX does, and tells all of them.
    if threading.current_thread() is not threading.main_thread() or jax.process_count() > 1:
        yield event
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, previous)


def _stopped(event, step):
    """Returns whether to stop after this step; all processes of a run agree on the step."""
    return event.is_set() if jax.process_count() == 1 else multihost_utils.reached_preemption_sync_point(step)


def _due(step, every):
    """Returns whether something that happens every so many steps (0: never) happens after this one."""
    return bool(every) and step % every == 0


def _agreed(decision):
    """Returns what the first process decided, since clocks differ."""
    return decision if jax.process_count() == 1 else bool(multihost_utils.broadcast_one_to_all(np.int32(decision)))
