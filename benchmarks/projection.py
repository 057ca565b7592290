"""Cost of training projections compared with training the small model.

    python benchmarks/projection.py [--help]

A large model is made smaller (papers/004 section 4). `pruned` trains the small model directly; `projected` computes it
from the frozen matrices in every step and backpropagates through the projections. Both cost the same per token;
projections add a cost per step, whose share falls with the tokens per step. Both run in one process in turns: each
round runs one untimed and two timed steps of each. `measured` is the median over rounds of the ratio of times; `by
FLOPs` is the ratio of FLOPs by formula. `memory` is the ratio of state and temporaries, as reported by the compiler.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
from machine import print_cpu
from rich.console import Console
from rich.table import Table

from compressed_lm import models, training
from compressed_lm.dry_run.program import dry_run
from compressed_lm.post_training.shrink import Kept, Shrink, shape, start_of

CASES = ("0.5:16", "0.5:64", "0.1:16")  # share kept : rows of 128 tokens
LARGE = models.model_config("3m", 264, n_layers=5, position="rotary", activation="silu", gated_mlp=True)


class Turn:
    """Training program with its state."""

    def __init__(self, program):
        self._program, self._state, self._step = program, program.init(), program.compile()
        rows = program.config.batch_size, program.config.seq_len
        self._targets = jax.device_put(jax.random.randint(jax.random.key(0), rows, 0, 256), program.batch_sharding)

    def __call__(self):
        """Returns the seconds per step: the mean of two steps after an untimed one."""
        self._advance()
        start = time.perf_counter()
        self._advance()
        self._advance()
        return (time.perf_counter() - start) / 2

    def _advance(self):
        self._state, metrics = self._step(self._state, self._targets)
        jax.block_until_ready(metrics)


def measure(keep: float, rows: int, rounds: int):
    """Returns the values of a table row."""
    config = training.TrainConfig(steps=100, batch_size=rows, seq_len=128, optimizer="adamw")
    params = models.Transformer(LARGE).init(jax.random.key(0), jax.numpy.zeros((1, 1), "int32"))["params"]
    mesh, turns, flops, memory = training.make_mesh((1, 1, 1)), [], [], []
    for method in ("projected", "pruned"):
        shrink = Shrink(keep=keep, method=method)
        small = shape(LARGE, shrink)
        kept = Kept(models.select(models.magnitude_scores(params), d_model=small.d_model, d_ff=small.d_ff))
        start = start_of(params, LARGE, shrink, config, kept)
        found = dry_run(config, small, eod_id=256, mesh=mesh, start=start)
        flops.append(found.executed_flops)
        m = found.memory
        memory.append(m.params + m.frozen + m.optimizer + m.temporaries)
        turns.append(Turn(training.Program(config, small, 256, mesh, start)))
    ratios = [turns[0]() / turns[1]() for _ in range(rounds)]
    return statistics.median(ratios), flops[0] / flops[1], memory[0] / memory[1], small


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "cases", nargs="*", default=CASES, help="share to keep : rows of 128 tokens (default %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=7, help="rounds (default %(default)s)")
    arguments = parser.parse_args()
    print_cpu()
    size = f"{models.count_params(LARGE).total:,}"
    table = Table(
        "kept", "tokens a step", "measured", "by FLOPs", "memory", title=f"projected / pruned, of {size} parameters"
    )
    for case in arguments.cases:
        keep, rows = case.split(":")
        measured, flops, memory, small = measure(float(keep), int(rows), arguments.rounds)
        table.add_row(
            f"{keep} ({small.d_model}, {small.d_ff})",
            f"{128 * int(rows):,}",
            f"{measured:.2f}",
            f"{flops:.2f}",
            f"{memory:.2f}",
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
