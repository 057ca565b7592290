"""The training loop: one for M1, every M2 and every size.

Restart order: config.json is checked, the newest readable checkpoint restored, metrics.jsonl cut back to its step, and
the data goes on from the batch that its `next_index` names. A run that was killed and started again ends in the same
bits.
"""

import contextlib
import dataclasses
import math
import os
import pathlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
from jax.experimental import multihost_utils

from compressed_lm.errors import InputError
from compressed_lm.models import TransformerConfig, count_params
from compressed_lm.tracking import JSONLines, Tracker
from compressed_lm.tracking.progress import progress as default_progress
from compressed_lm.training import run_dir
from compressed_lm.training.checkpoints import Checkpoints
from compressed_lm.training.clock import Clock
from compressed_lm.training.config import TrainConfig
from compressed_lm.training.data import Batches
from compressed_lm.training.mesh import make_mesh
from compressed_lm.training.optimizers import schedule
from compressed_lm.training.step import Params, Program

EvalFn = Callable[[Params, int], Mapping[str, float]]


class TrainingDiverged(InputError):
    """The loss or the gradient became infinite or not a number."""


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """A finished run.

    Attributes:
        params: the parameter tree, on the mesh.
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
    init_params: Params | None = None,
    compilation_cache: str | os.PathLike | None = None,
) -> TrainResult:
    """Returns the result of a run, after training what is left of it.

    Args:
        config: the run.
        model_config: the model; its vocabulary must have room for the store's end-of-document id.
        store: a `corpora.TokenStore`.
        out: the run's folder. A run found there goes on from its newest checkpoint; a finished one is returned at once.
        mesh_shape: sizes of the mesh axes (data, fsdp, tensor); by default all devices on data.
        trackers: get the metrics every `log_every` steps and what `eval_fn` returns, as `out`/metrics.jsonl does.
        progress: context manager with the arguments of `tracking.progress.progress`.
        eval_fn: called with (params, step) every `eval_every` steps and at the end; returns named numbers.
        init_params: where to start, instead of random parameters; the optimizer starts afresh.
        compilation_cache: folder in which XLA keeps compiled programs for later processes.

    Raises:
        InputError: `out` holds another run, or the data, mesh and model do not fit each other.
        TrainingDiverged: loss or gradient are not finite.
        SystemExit: SIGTERM arrived; the state was saved first.
    """
    if compilation_cache is not None:
        jax.config.update("jax_compilation_cache_dir", os.fspath(compilation_cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    out = pathlib.Path(out)
    program = Program(config, model_config, store.eod_id, make_mesh(mesh_shape))
    record = run_dir.describe(config, model_config, store, init_params)
    run_dir.claim(out, record)
    identity = {"store_fingerprint": store.fingerprint, "config_hash": run_dir.config_hash(record)}
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(contextlib.closing(Checkpoints(out / run_dir.CHECKPOINTS, keep=config.keep)))
        state, data = checkpoints.restore(program.abstract_state) or (None, identity | {"next_index": 0})
        first = data["next_index"]
        if any(data[name] != value for name, value in identity.items()):
            raise InputError(
                f"The checkpoint of step {first} in {out} belongs to another token store or configuration than "
                f"{run_dir.CONFIG} beside it; restore the folder from a copy, or give another `out` folder."
            )
        clock = Clock(data.get("seconds"))
        if first < config.steps:
            batches = Batches(
                store,
                batch_size=config.batch_size,
                seq_len=config.seq_len,
                seed=config.seed,
                sharding=program.batch_sharding,
            )
            with clock.measure("compile"):
                step_fn = program.compile()
                state = state or jax.block_until_ready(program.init(init_params))
            if jax.process_index() == 0:
                log = stack.enter_context(contextlib.closing(JSONLines(out / run_dir.METRICS, last_step=first)))
                trackers = (log, *trackers)
            else:
                trackers = ()
            bar = stack.enter_context(progress(f"train {out.name}", config.steps, unit="steps", done=first))
            reader = stack.enter_context(contextlib.closing(batches.prefetch(first, config.steps)))
            stop = stack.enter_context(_sigterm())
            recorder = _Recorder(config, trackers, clock, bar, checkpoints)
        for step in range(first + 1, config.steps + 1):
            with clock.measure("input_wait"):
                targets = next(reader)
            with clock.measure("train"):
                state, metrics = step_fn(state, targets)
                recorder.push(step, metrics)
            last = step == config.steps
            evaluate = eval_fn and (last or config.eval_every and step % config.eval_every == 0)
            stopped = _stopped(stop, step)
            save = last or stopped or step % config.checkpoint_every == 0
            if evaluate or save:
                with clock.measure("train"):
                    recorder.flush()  # never evaluate or save what diverged
            with clock.measure("pause"):
                if evaluate:
                    recorder.report(step, eval_fn(state.params, step))
                if save:
                    data = identity | {
                        "next_index": step,
                        "loss_nats_per_token": recorder.loss,
                        "seconds": dict(clock.seconds),
                    }
                    checkpoints.save(state, data)
            if stopped and not last:
                checkpoints.wait()
                print(
                    f"Stopped by SIGTERM after step {step} of {config.steps}; saved. Start again to go on.", flush=True
                )
                raise SystemExit(128 + signal.SIGTERM)
    return TrainResult(
        params=state.params,
        step=config.steps,
        loss_nats_per_token=data["loss_nats_per_token"],
        n_params=count_params(model_config).total,
        n_tokens=config.steps * config.batch_size * config.seq_len,
        seconds=dict(clock.seconds),
    )


class _Recorder:
    """Fetches the metrics of a step after the next one was started, so that the device never waits for the host."""

    def __init__(self, config, trackers, clock, bar, checkpoints):
        self._config, self._trackers, self._clock, self._bar, self._checkpoints = (
            config,
            trackers,
            clock,
            bar,
            checkpoints,
        )
        self._rate = schedule(config)
        self._tokens_per_step = config.batch_size * config.seq_len
        self._pending = None
        self.loss = math.nan

    def push(self, step, metrics):
        self.flush()
        self._pending = step, metrics

    def flush(self):
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if not all(map(math.isfinite, values.values())):
            raise TrainingDiverged(self._diverged(step, values))
        self.loss = values["loss_nats_per_token"]
        self._bar.advance(1, loss=self.loss)
        if step % self._config.log_every == 0 or step == self._config.steps:
            rate = self._clock.rate(step * self._tokens_per_step)
            values |= {"learning_rate": float(self._rate(step - 1)), "tokens": step * self._tokens_per_step}
            left = self._clock.eta(step, self._config.steps)
            self.report(step, values | {"tokens_per_second": rate, "eta_seconds": left})

    def report(self, step, values):
        for tracker in self._trackers:
            tracker.scalars(step, values)

    def _diverged(self, step, values):
        self._checkpoints.wait()
        good = self._checkpoints.newest_step()
        kept = (
            "There is no checkpoint before it" if good is None else f"The last good checkpoint is that of step {good}"
        )
        numbers = ", ".join(f"{name} {value}" for name, value in values.items())
        return (
            f"Training diverged at step {step} ({numbers}). {kept} in {self._checkpoints.directory}. Start a new "
            "run with a lower learning_rate, a longer warm-up or a smaller grad_clip; this one would diverge again."
        )


@contextlib.contextmanager
def _sigterm() -> Iterator[threading.Event]:
    """Yields an event that SIGTERM sets inside the block, instead of ending the process."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # only the main thread may handle signals
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, previous)


def _stopped(event, step):
    """Returns whether to stop after this step; all processes of a run agree on the step."""
    return event.is_set() if jax.process_count() == 1 else multihost_utils.reached_preemption_sync_point(step)
