"""Exactly resumable training on a mesh: configuration, optimizers, step, data, checkpoints, loop."""

from compressed_lm.training.clock import Clock
from compressed_lm.training.config import TrainConfig
from compressed_lm.training.loop import TrainResult, train
from compressed_lm.training.mesh import make_mesh, use_cpu_devices
from compressed_lm.training.recorder import TrainingDiverged
from compressed_lm.training.run_dir import Run, load_run
from compressed_lm.training.step import Program, Start, TrainState, eval_step, token_nats, train_step

__all__ = [
    "Clock",
    "Program",
    "Run",
    "Start",
    "TrainConfig",
    "TrainResult",
    "TrainState",
    "TrainingDiverged",
    "eval_step",
    "load_run",
    "make_mesh",
    "token_nats",
    "train",
    "train_step",
    "use_cpu_devices",
]
