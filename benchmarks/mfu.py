"""Model FLOPs utilisation of a training step on the local devices, and agreement of the attention kernels.

    python benchmarks/mfu.py --size 113m 403m --seq_len 512 2048                     # on GPUs or TPUs
    python benchmarks/mfu.py --size nano --seq_len 128 --tokens 2048 --dtype float32 # anywhere

One row per size, length and attention kernel: tokens per second over all devices, model FLOP/s (forward, backward,
output layer, attention below the diagonal; no recomputation), and their share of the bfloat16 peak if the peak of the
chip is known. The last column is the difference of the loss to that of the xla kernel, with the same parameters and
tokens. Tokens are random, since the time of a step does not depend on them.
"""

import argparse
import statistics
import time

import jax
import numpy as np
from machine import print_cpu
from rich.console import Console
from rich.table import Table

from compressed_lm import models, training
from compressed_lm.training import hardware


def measure(size: str, seq_len: int, attention: str, options: argparse.Namespace) -> dict:
    """Returns the median seconds of a step, its tokens, its FLOPs and the loss of the first batch."""
    model = models.model_config(
        size,
        models.model_vocab_size(options.vocab_size),
        dtype=options.dtype,
        position=options.position,
        attention=attention,
        remat=options.remat,
    )
    rows = max(options.tokens // seq_len, jax.device_count())
    config = training.TrainConfig(steps=10**6, batch_size=rows, seq_len=seq_len, optimizer=options.optimizer)
    program = training.Program(config, model, options.vocab_size, training.make_mesh())
    step, state = program.compile(), program.init()
    tokens = np.random.default_rng(0).integers(0, options.vocab_size, (rows, seq_len), np.int32)
    targets = jax.device_put(tokens, program.batch_sharding)
    state, metrics = step(state, targets)
    loss = float(metrics["loss_nats_per_token"])
    seconds = []
    for _ in range(options.rounds):
        start = time.perf_counter()
        for _ in range(options.steps):
            state, metrics = step(state, targets)
        jax.block_until_ready(metrics)
        seconds.append((time.perf_counter() - start) / options.steps)
    flops = models.training_flops_per_token(model, seq_len=seq_len) * rows * seq_len
    return {"seconds": statistics.median(seconds), "tokens": rows * seq_len, "flops": flops, "loss": loss}


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", default=["113m", "403m"], help="model sizes (default %(default)s)")
    parser.add_argument(
        "--seq_len", nargs="+", type=int, default=[512, 2048], help="row lengths L (default %(default)s)"
    )
    parser.add_argument("--tokens", type=int, default=65_536, help="tokens per update (default %(default)s)")
    parser.add_argument(
        "--vocab_size", type=int, default=32_000, help="vocabulary size of the codec (default %(default)s)"
    )
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--position", default="rotary", choices=("rotary", "relative"))
    parser.add_argument("--remat", default="none", choices=("none", "dots", "full"))
    parser.add_argument("--optimizer", default="adamw", choices=("adamw", "adafactor", "muon"))
    parser.add_argument("--steps", type=int, default=10, help="steps per round (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; the median is reported (default %(default)s)")
    options = parser.parse_args()
    print_cpu()
    device = jax.devices()[0]
    peak = hardware.peak_flops(device)
    kernels = ["xla", "cudnn"] if device.platform == "gpu" and options.dtype == "bfloat16" else ["xla"]
    table = Table(title=f"{jax.device_count()} x {device.device_kind}, {options.dtype}, {options.position}")
    for column in ("size", "L", "attention", "ms a step", "tokens/s", "TFLOP/s", "MFU", "loss beside xla's"):
        table.add_column(column, justify="right")
    for size in options.size:
        for seq_len in options.seq_len:
            found = {kernel: measure(size, seq_len, kernel, options) for kernel in kernels}
            for kernel, row in found.items():
                rate = row["flops"] / row["seconds"]
                table.add_row(
                    *(size, str(seq_len), kernel, f"{1e3 * row['seconds']:.1f}"),
                    *(f"{row['tokens'] / row['seconds']:,.0f}", f"{rate / 1e12:.2f}"),
                    f"{rate / peak / jax.device_count():.1%}" if peak else "peak unknown",
                    f"{row['loss'] - found['xla']['loss']:+.1e}",
                )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
