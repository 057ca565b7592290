"""Training configuration."""

import dataclasses
from typing import Any

from compressed_lm import settings
from compressed_lm.errors import InputError
from compressed_lm.settings import setting
from compressed_lm.training import durations, penalties
from compressed_lm.training.optimizers import OPTIMIZERS, SCHEDULES

HOST_FIELDS = ("log_every", "checkpoint_every", "checkpoint_minutes", "keep", "keep_every", "eval_every")
"""Fields that only the host reads: they do not shape the compiled step."""

# Fields of the run and the model that change what is learned only by rounding: a run may resume with other values.
FREE_FIELDS = (
    *HOST_FIELDS,
    *("micro_batches", "attention", "remat", "scan_layers"),
)
# Fields of the run and the model that were added later, with the values that describe older runs: a record with these
# values and one without the fields are the same run.
LATER_FIELDS = {
    "penalty": "none",
    "init_shape": 0,
    "distillation": 0.0,
    **dict(norm="rms", norm_eps=1e-6, bias="none", parallel_residual=False),
    **dict(rope_theta=10_000.0, rope_scaling="none", rotary_fraction=1.0),
    **dict(max_length=0, qk_norm_over="head", norm_place="before", local_rope_theta=0.0, window=0, layer_pattern=""),
    **dict(embed_scale=1.0, attention_scale=0.0, logit_softcap=0.0),
}
Duration = int | str


def _duration(default: Any = dataclasses.MISSING, *, low: int) -> Any:
    return setting(default, low=low, parse=durations.check)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Configuration of a training run, without its model and data.

    Durations are steps, or strings such as "20M tokens", "1.5 GB" (of raw text), "2 epochs", "10%" (of all steps).
    `train` converts them to steps by `durations.resolve`.

    Attributes:
        steps: number of updates, or a duration.
        batch_size: B, rows in a batch over all devices.
        seq_len: L, tokens in a row.
        micro_batches: parts of a batch whose gradients are summed one after the other, to save memory. 0 means one
            part; on a single CPU device it means parts of at least two rows and 512 tokens, which are faster there.
        learning_rate: its highest value, reached after the warm-up; for "rsqrt" the factor of 1/sqrt(step).
        warmup_steps: the learning rate grows linearly over these; for "rsqrt" it is constant (a duration).
        schedule: name of the learning-rate schedule, see `optimizers.SCHEDULES`.
        optimizer: name of the optimizer, see `optimizers.OPTIMIZERS`.
        weight_decay: decoupled, on matrices only; multiplied by the learning rate.
        b1, b2: decay rates of Adam's moments (adamw, and the parameters that muon trains by Adam).
        grad_clip: largest global norm of a gradient; 0 for no limit.
        penalty: penalty on the bits of the weights: "none", "backslash(rate=...)" or "l1(rate=...)", see
            `training.penalties`.
        distillation: share of the loss, 0 to 1, that is the divergence from a larger model (`compressed-lm shrink`).
        z_loss: weight of log(Z)^2 in the loss, which keeps logits from drifting (papers/000 section 4.2).
        seed: of the initial parameters and of the order of the data.
        log_every: steps between records in metrics.jsonl.
        checkpoint_every: duration between checkpoints; there is always one at the end.
        checkpoint_minutes: also save when the last checkpoint is this many minutes old; 0 for never.
        keep: number of the newest checkpoints that are kept.
        keep_every: duration between checkpoints that are kept permanently; 0 for none.
        eval_every: duration between calls of `eval_fn`; 0 for the end only.

    Raises:
        InputError: a value has the wrong type or is out of range.
    """

    steps: Duration = _duration(low=1)
    batch_size: int = setting(32, low=1)
    seq_len: int = setting(128, low=1)
    micro_batches: int = setting(0, low=0)
    learning_rate: float = setting(3e-3, low=0)
    warmup_steps: Duration = _duration(50, low=0)
    schedule: str = setting("cosine", choices=tuple(SCHEDULES))
    optimizer: str = setting("adamw", choices=tuple(OPTIMIZERS))
    weight_decay: float = setting(0.1, low=0)
    b1: float = setting(0.9, low=0, below=1)
    b2: float = setting(0.95, low=0, below=1)
    grad_clip: float = setting(1.0, low=0)
    z_loss: float = setting(1e-4, low=0)
    penalty: str = "none"
    distillation: float = setting(0.0, low=0, high=1)
    seed: int = setting(0, low=0)
    log_every: Duration = _duration(20, low=1)
    checkpoint_every: Duration = _duration(200, low=1)
    checkpoint_minutes: float = setting(0.0, low=0)
    keep: int = setting(2, low=1)
    keep_every: Duration = _duration(0, low=0)
    eval_every: Duration = _duration(0, low=0)

    def __post_init__(self) -> None:
        settings.check(self)
        object.__setattr__(self, "penalty", penalties.canonical(self.penalty))
        if self.micro_batches and self.batch_size % self.micro_batches:
            raise InputError(
                f"micro_batches={self.micro_batches} was given for batch_size={self.batch_size}; expected a number "
                "that divides it."
            )
