"""Speed of a training step, compared with PyTorch and with plain JAX.

    python benchmarks/train_step.py [--help]

The same model, batch, dtype and optimizer (AdamW, clipping, z-loss) in one process, in turns:

- ours: `training.Program(...).compile()`, as in `train`;
- floor: the same mathematics in hand-written JAX, without Flax and optax (benchmarks/jax_floor.py), with layers
  unrolled or in a loop and the batch in the same parts or whole, whichever is fastest. The extra time of ours is the
  overhead of the framework;
- eager, compiled: a plain PyTorch implementation (benchmarks/torch_model.py) with fused attention and fused AdamW,
  without and with torch.compile, which needs a C++ compiler.

First all start from the same parameters and make three steps on the same batches. The benchmark stops if losses,
gradient norms or parameter changes differ by more than the tolerance. Then each round runs one untimed and two timed
steps of each. `ours is` is the median over rounds of their time divided by ours: above 1, ours is faster. Both
libraries use all cores. Other programs distort the result, most of all for PyTorch: the last line gives the cores that
they used.
"""

import argparse
import collections
import contextlib
import dataclasses
import functools
import os
import pathlib
import statistics
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
import torch
from jax_floor import JaxFloor
from machine import print_cpu
from rich.console import Console
from rich.table import Table
from torch_model import TorchPeer, to_torch

from compressed_lm import models, training

CASES = ("nano:264:128:32", "mini:4104:128:16", "3m:264:256:8", "3m:264:512:4")
# Relative tolerances of: loss and gradient norm in the first step; losses after updates; the norm of the difference of
# parameter changes. Adam divides by the size of a gradient, so that rounding errors are large for gradients near 0.
# PyTorch keeps the residual stream of a bfloat16 model in float32.
TOLERANCES = {"float32": (1e-4, 1e-3, 5e-2), "bfloat16": (2e-2, 2e-2, 5e-1)}
TIMED = 2  # timed steps per turn


class Ours:
    """Our step, with the interface of the peers."""

    def __init__(self, program):
        self._program, self._step = program, program.compile()

    def load(self, params):
        self._state = dataclasses.replace(self._program, start=training.Start(params)).init()

    def step(self, targets):
        self._state, metrics = self._step(self._state, jax.device_put(targets, self._program.batch_sharding))
        metrics = jax.device_get(metrics)
        return float(metrics["loss_nats_per_token"]), float(metrics["grad_norm"])

    def params(self):
        return to_torch(jax.device_get(self._state.params))


class Floor:
    """Fastest plain JAX step: layers in a loop or unrolled, batch in parts or whole."""

    def __init__(self, config, model_config, eod_id, params, targets):
        parts = {config.micro_batches, 1}
        configs = [dataclasses.replace(config, micro_batches=n) for n in parts]
        floors = [JaxFloor(c, model_config, eod_id, scan_layers=scan) for c in configs for scan in (False, True)]

        def seconds(floor):
            floor.load(params)
            return min(_seconds(lambda: floor.step(targets)) for _ in range(4))

        self._floor = min(floors, key=seconds)

    def load(self, params):
        self._floor.load(params)

    def step(self, targets):
        return self._floor.step(targets)

    def params(self):
        return to_torch(jax.device_get(self._floor.params()))


def check_the_same(ways: dict, params, batches: np.ndarray, dtype: str) -> None:
    """Prints the differences to ours after the same steps; raises SystemExit if one exceeds the tolerance."""
    start, found = to_torch(params), {}
    for name, way in ways.items():
        way.load(params)
        first = way.step(batches[0])
        losses = [first[0], *(way.step(batch)[0] for batch in batches[1:])]
        found[name] = first, losses, {key: value - start[key] for key, value in way.params().items()}
    first, losses, change = found.pop("ours")
    norm = _norm(change.values())
    for name, (their_first, their_losses, their_change) in found.items():
        at_first = max(abs(a / b - 1) for a, b in zip(their_first, first, strict=True))
        at_last = max(abs(a / b - 1) for a, b in zip(their_losses, losses, strict=True))
        changed = _norm(their_change[key] - change[key] for key in change) / norm
        largest = max(float(np.abs(their_change[key] - change[key]).max()) for key in change)
        print(
            f"  {name} beside ours: first loss and gradient norm {at_first:.0e}, losses of {len(batches)} steps "
            f"{at_last:.0e}, change of the parameters {changed:.0e} (largest difference of one {largest:.0e})"
        )
        if not all(x < limit for x, limit in zip((at_first, at_last, changed), TOLERANCES[dtype], strict=True)):
            raise SystemExit(f"{name} does not compute what ours does: the limits in {dtype} are {TOLERANCES[dtype]}.")


def steps(way, batch) -> list[float]:
    """Returns the seconds of two steps, after an untimed one."""
    way.step(batch)
    return [_seconds(lambda: way.step(batch)) for _ in range(TIMED)]


def time_in_turns(turns: dict, rounds: int) -> dict[str, np.ndarray]:
    """Returns the seconds [rounds, TIMED] of each way."""
    seconds = collections.defaultdict(list)
    for _ in range(rounds):
        for name, turn in turns.items():
            seconds[name].append(turn())
    return {name: np.array(values) for name, values in seconds.items()}


def run_case(case: str, position: str, options, table: Table) -> None:
    """Adds the rows of one case to the table."""
    size, *numbers = case.split(":")
    vocab_size, length, rows = map(int, numbers)
    model = models.model_config(size, vocab_size, position=position, dtype=options.dtype)
    config = training.TrainConfig(
        steps=10**6,
        batch_size=rows,
        seq_len=length,
        schedule="constant",
        warmup_steps=0,
        micro_batches=options.micro_batches,
    )
    eod_id = vocab_size - 1
    program = training.Program(config, model, eod_id, training.make_mesh((1, 1, 1)))
    config = dataclasses.replace(config, micro_batches=program.micro_batches)
    whole = dataclasses.replace(config, micro_batches=1)  # PyTorch is slower with a split batch here
    print(f"{case}, {position}, {config.micro_batches} micro-batches", flush=True)
    params = jax.device_get(program.init().params)
    batches = np.random.default_rng(0).integers(0, vocab_size, (3, rows, length)).astype(np.int32)
    ways = {"ours": Ours(program), "floor": Floor(config, model, eod_id, params, batches[0])}
    ways |= {name: TorchPeer(whole, model, eod_id, compiled=name == "compiled") for name in options.peers}
    check_the_same(ways, params, batches, options.dtype)
    seconds = time_in_turns(
        {name: functools.partial(steps, way, batches[0]) for name, way in ways.items()}, options.rounds
    )
    tokens = rows * length
    flops = models.training_flops_per_token(model, seq_len=length) * tokens
    for name, values in seconds.items():
        low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
        ratio = statistics.median(np.median(values, axis=1) / np.median(seconds["ours"], axis=1))
        table.add_row(
            *((f"{case} {position}" if name == "ours" else ""), name),
            *(f"{1e3 * middle:.1f}", f"{1e3 * low:.1f} - {1e3 * high:.1f}"),
            *(f"{tokens / middle:,.0f}", f"{flops / middle / 1e9:.1f}"),
            "" if name == "ours" else f"{ratio:.3f}x",
        )
    table.add_section()


@contextlib.contextmanager
def other_programs():
    """Prints the CPU use of other programs inside the block (on Linux)."""
    stat = pathlib.Path("/proc/stat")
    if not stat.exists():
        yield
        return

    def others():
        user, nice, system, _, _, *rest = map(int, stat.read_text().split("\n")[0].split()[1:9])
        mine = os.times()
        return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK") - mine.user - mine.system

    before, start = others(), time.monotonic()
    yield
    taken = max(others() - before, 0) / (time.monotonic() - start)
    print(f"Other programs took {taken:.2f} of {os.cpu_count()} cores meanwhile.")


def _seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _norm(arrays) -> float:
    return float(np.sqrt(sum(np.sum(np.square(x, dtype=np.float64)) for x in arrays)))


def main():
    """Prints a table of all cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=CASES, help="SIZE:V:L:B, L tokens in B rows")
    parser.add_argument("--position", nargs="+", default=["relative", "rotary"], choices=("relative", "rotary"))
    parser.add_argument("--dtype", default="float32", choices=tuple(TOLERANCES))
    parser.add_argument(
        "--micro_batches", type=int, default=0, help="parts of a batch, except in PyTorch (default: ours)"
    )
    parser.add_argument("--peers", nargs="*", default=["eager"], choices=("eager", "compiled"))
    parser.add_argument("--rounds", type=int, default=10, help="rounds (default %(default)s)")
    options = parser.parse_args()
    print_cpu()
    torch.set_num_threads(os.cpu_count())
    table = Table(title=f"a training step, {options.dtype}, {options.rounds} rounds")
    table.add_column("case")
    table.add_column("way")
    for column in ("ms", "quartiles", "tokens/s", "GFLOP/s", "ours is"):
        table.add_column(column, justify="right")
    with other_programs():
        for case in options.cases:
            for position in options.position:
                run_case(case, position, options, table)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
