"""Speed of a training step beside PyTorch's and beside plain JAX: python benchmarks/train_step.py [--help]

The same model, batch, type and optimizer (AdamW, clipping, z-loss) three times in one process, in turns:

- ours: `training.Program(...).compile()`, as `train` runs it;
- eager: a plain PyTorch implementation with its fused attention (benchmarks/torch_model.py);
- floor: the same mathematics in hand-written JAX, no Flax, no optax (benchmarks/jax_floor.py). What ours takes longer
  is what the framework adds.

First all three take three steps from the same parameters, and losses, norms of gradients and parameters are compared: a
difference above the tolerance ends the benchmark. Ratios are medians over rounds of (their time / our time) in the same
round: above 1, ours is faster. Both libraries get all cores; PyTorch suffers more when another program takes one.
"""

import argparse
import os
import statistics
import sys
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
from jax_floor import JaxFloor
from rich.console import Console
from rich.table import Table
from torch_model import TorchPeer, to_torch

from compressed_lm import models, training

TOLERANCE = 2e-3  # of losses, and of parameters in the mean, after three steps in float32
CASES = ("nano:264:128:32", "mini:4104:128:16", "3m:264:256:8", "3m:264:512:4")


class Ours:
    """Our step, with the interface of the peers."""

    def __init__(self, config, model_config, eod_id):
        self._program = training.Program(config, model_config, eod_id, training.make_mesh((1, 1, 1)))
        self._step = self._program.compile()

    def load(self, params):
        self._state = self._program.init(params)

    def step(self, targets):
        self._state, metrics = self._step(self._state, jax.device_put(targets, self._program.batch_sharding))
        metrics = jax.device_get(metrics)
        return float(metrics["loss_nats_per_token"]), float(metrics["grad_norm"])

    def params(self):
        return self._state.params


def compare(ways: dict, batches: np.ndarray) -> float:
    """Returns how far the ways differ from ours after a step on each batch: the most of losses and of parameters, the
    latter as root mean squares."""
    losses = {name: np.array([way.step(batch)[0] for batch in batches]) for name, way in ways.items()}
    params = {
        name: way.params() if name == "eager" else to_torch(jax.device_get(way.params())) for name, way in ways.items()
    }
    largest = max(np.abs(found - losses["ours"]).max() for found in losses.values())
    for found in params.values():
        largest = max(largest, *(np.sqrt(np.mean((found[k] - ours) ** 2)) for k, ours in params["ours"].items()))
    return float(largest)


def time_in_turns(ways: dict, batch: np.ndarray, rounds: int) -> dict[str, list[float]]:
    """Returns the seconds of a step of each way in each round."""
    seconds = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way.step(batch)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def main():
    """Prints a table for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=CASES, help="SIZE:V:L:B (default %(default)s)")
    parser.add_argument("--position", nargs="+", default=["relative", "rotary"], choices=("relative", "rotary"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=20, help="turns of each (default %(default)s)")
    options = parser.parse_args()
    table = Table(title=f"a training step, {options.dtype}, medians of {options.rounds} turns")
    for column in ("case", "ours ms", "tokens/s", "GFLOP/s", "eager / ours", "floor / ours", "fastest: eager", "floor"):
        table.add_column(column, justify="right")
    for case in options.cases:
        for position in options.position:
            size, vocab_size, length, rows = (int(part) if part.isdigit() else part for part in case.split(":"))
            model = models.model_config(size, vocab_size, position=position, dtype=options.dtype, scan_layers=False)
            config = training.TrainConfig(
                steps=10**6, batch_size=rows, seq_len=length, schedule="constant", warmup_steps=0
            )
            batches = np.random.default_rng(0).integers(0, vocab_size, (3, rows, length)).astype(np.int32)
            ways = {"ours": Ours, "eager": TorchPeer, "floor": JaxFloor}
            ways = {name: way(config, model, vocab_size - 1) for name, way in ways.items()}
            params = jax.device_get(training.Program(config, model, 0, training.make_mesh((1, 1, 1))).init().params)
            for way in ways.values():
                way.load(params)
            difference = compare(ways, batches)
            if options.dtype == "float32" and difference > TOLERANCE:
                sys.exit(
                    f"{case} {position}: the three differ by {difference:.1e} after three steps; expected the same."
                )
            seconds = time_in_turns(ways, batches[0], options.rounds)
            ours, tokens = statistics.median(seconds["ours"]), rows * length
            flops = models.training_flops_per_token(model, seq_len=length) * tokens
            ratios = [
                statistics.median(t / o for t, o in zip(seconds[name], seconds["ours"], strict=True))
                for name in ("eager", "floor")
            ]
            fastest = [min(seconds[name]) / min(seconds["ours"]) for name in ("eager", "floor")]
            table.add_row(
                *(f"{case} {position}", f"{1e3 * ours:.1f}", f"{tokens / ours:,.0f}", f"{flops / ours / 1e9:.1f}"),
                *(f"{ratio:.2f}x" for ratio in (*ratios, *fastest)),
            )
            print(f"{case} {position}: the same within {difference:.0e}", flush=True)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
