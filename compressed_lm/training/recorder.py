"""Training metrics: fetched one step late, checked for NaN, sent to the trackers."""

import math
from collections.abc import Mapping, Sequence

import jax

from compressed_lm.errors import InputError
from compressed_lm.models import TransformerConfig, training_flops_per_token
from compressed_lm.tracking import Tracker
from compressed_lm.tracking.progress import Job
from compressed_lm.training.checkpoints import Checkpoints
from compressed_lm.training.clock import Clock
from compressed_lm.training.config import TrainConfig
from compressed_lm.training.durations import whole
from compressed_lm.training.optimizers import schedule


class TrainingDiverged(InputError):
    """Error raised if the loss or the gradient is infinite or NaN."""


class Recorder:
    """Fetches the metrics of a step after the next one was started, so that the device never waits for the host.

    Every `log_every` steps the trackers get loss_nats_per_token, grad_norm, learning_rate, tokens, bytes (of text),
    tokens_per_second, bytes_per_second, input_wait (share of the step time), eta_seconds and, if the chip's peak is
    known, mfu.

    Args:
        config: the run; durations are whole steps.
        model_config: its model.
        trackers: receive the metrics.
        clock: time by phase.
        bar: progress bar.
        checkpoints: of the run, to name the last good one.
        bytes_per_token: mean bytes of text in a token.
        peak_flops: bfloat16 FLOP/s of all devices together; None if not known.

    Attributes:
        loss: loss of the last fetched step (nats per token).
    """

    def __init__(
        self,
        config: TrainConfig,
        model_config: TransformerConfig,
        *,
        trackers: Sequence[Tracker],
        clock: Clock,
        bar: Job,
        checkpoints: Checkpoints,
        bytes_per_token: float,
        peak_flops: float | None = None,
    ):
        self._config, self._trackers, self._clock, self._bar = config, trackers, clock, bar
        self._checkpoints, self._bytes_per_token, self._peak = checkpoints, bytes_per_token, peak_flops
        self._flops_per_token = training_flops_per_token(model_config, seq_len=config.seq_len)
        self._rate = schedule(config)
        self._log_every, self._steps = whole(config.log_every), whole(config.steps)
        self._pending: tuple[int, Mapping[str, jax.Array]] | None = None
        self.loss = math.nan

    def push(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Stores the metrics of a step that was started, and fetches those of the step before.

        Raises:
            TrainingDiverged: a fetched number is not finite.
        """
        self.flush()
        self._pending = step, metrics

    def flush(self) -> None:
        """Fetches the pending metrics.

        Raises:
            TrainingDiverged: a number is not finite.
        """
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if not all(map(math.isfinite, values.values())):
            raise TrainingDiverged(self._diverged(step, values))
        self.loss = values["loss_nats_per_token"]
        self._bar.advance(1, loss=self.loss)
        if step % self._log_every == 0 or step == self._steps:
            self.report(step, values | self._speed(step))

    def report(self, step: int, values: Mapping[str, float]) -> None:
        """Sends the metrics of a step to every tracker."""
        for tracker in self._trackers:
            tracker.scalars(step, values)

    def _speed(self, step):
        tokens = step * self._config.batch_size * self._config.seq_len
        rate = self._clock.rate(tokens)
        values = {
            "learning_rate": float(self._rate(step - 1)),
            "tokens": tokens,
            "bytes": tokens * self._bytes_per_token,
            "tokens_per_second": rate,
            "bytes_per_second": rate * self._bytes_per_token,
            "input_wait": self._clock.seconds["input_wait"] / max(self._clock.steady(), 1e-9),
            "eta_seconds": self._clock.eta(step, self._steps),
        }
        return values | ({"mfu": rate * self._flops_per_token / self._peak} if self._peak else {})

    def _diverged(self, step, values):
        self._checkpoints.wait()
        good = self._checkpoints.newest_step()
        kept = "There is no earlier checkpoint" if good is None else f"The last good checkpoint is that of step {good}"
        numbers = ", ".join(f"{name} {value}" for name, value in values.items())
        return (
            f"Training diverged at step {step} ({numbers}). {kept} in {self._checkpoints.directory}. Start a new "
            "run with a lower learning_rate, a longer warm-up or a smaller grad_clip; this run would diverge again."
        )
