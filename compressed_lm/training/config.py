"""What a training run is told."""

import dataclasses

from compressed_lm.errors import InputError

# Fields that do not change what is learned: a run may be resumed with other values of them.
FREE_FIELDS = ("log_every", "checkpoint_every", "eval_every", "keep")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A training run, apart from its model and data.

    Attributes:
        steps: number of updates.
        batch_size: B, rows in a batch over all devices.
        seq_len: L, tokens in a row.
        learning_rate: its highest value, reached after the warm-up.
        warmup_steps: the learning rate grows linearly over these.
        schedule: after the warm-up "cosine" (to a tenth), "rsqrt" (falls as 1/sqrt(step)), "wsd" (stays, then falls
            linearly to 0 over the last fifth) or "constant".
        optimizer: "adamw", "adafactor" or "muon".
        weight_decay: decoupled, on matrices only; multiplied by the learning rate.
        b1, b2: decay rates of Adam's moments (adamw, and muon's part that is not a matrix).
        grad_clip: largest global norm of a gradient; 0 for no limit.
        z_loss: weight of log(Z)^2 in the loss, which keeps logits from drifting (papers/000 section 4.2).
        seed: of the initial parameters and of the order of the data.
        log_every: steps between records in metrics.jsonl.
        checkpoint_every: steps between checkpoints; there is always one at the end.
        eval_every: steps between calls of `eval_fn`; 0 for the end only.
        keep: number of checkpoints that stay on disk.
    """

    steps: int
    batch_size: int = 32
    seq_len: int = 128
    learning_rate: float = 3e-3
    warmup_steps: int = 50
    schedule: str = "cosine"
    optimizer: str = "adamw"
    weight_decay: float = 0.1
    b1: float = 0.9
    b2: float = 0.95
    grad_clip: float = 1.0
    z_loss: float = 1e-4
    seed: int = 0
    log_every: int = 20
    checkpoint_every: int = 200
    eval_every: int = 0
    keep: int = 2

    def __post_init__(self):
        for field in ("steps", "batch_size", "seq_len", "log_every", "checkpoint_every", "keep"):
            if getattr(self, field) < 1:
                raise InputError(f"{field}={getattr(self, field)} was given; expected a positive integer.")
        for field in ("learning_rate", "warmup_steps", "weight_decay", "grad_clip", "z_loss", "eval_every"):
            if getattr(self, field) < 0:
                raise InputError(f"{field}={getattr(self, field)} was given; expected 0 or more.")
