"""Speed of cramming 32 texts at once, compared with one at a time.

    python benchmarks/cramming.py [--help]

`batched` crams all texts in one program with 32 slots. `alone` calls the same function for one text at a time, with one
slot. `plain loop` works like published code: one text, one call of a compiled step, then a check whether it has
finished. All run the same number of steps. The unit is texts x steps per second: all ways in turns in one process,
median of the rounds. Models are random, since training does not change the speed.
"""

import argparse
import functools
import os
import statistics
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
from machine import print_cpu
from rich.console import Console
from rich.table import Table

from compressed_lm import models
from compressed_lm.cramming import CramConfig, FrozenModel, cram
from compressed_lm.cramming import batch_slots as slots_
from compressed_lm.cramming.frozen import bucket, padded
from compressed_lm.cramming.vectors import Mapping, initial

TEXTS = 32
CASES = ("nano:4", "nano:8", "nano:32", "3m:4", "3m:8", "3m:32", "25m:4")  # size : tokens of a text


def frozen(size: str) -> FrozenModel:
    config = models.model_config(size, 264, position="rotary")
    params = models.Transformer(config).init(jax.random.key(0), jax.numpy.zeros((1, 1), "int32"))["params"]
    return FrozenModel(params, config, eod_id=256)


def plain_loop(model, texts, config):
    """Crams one text after the other, with a call and a check per step."""
    mapping = Mapping.of(config, model.config.d_model)
    step = _compiled(model.config, config, mapping)
    for ids in texts:
        numbers = initial(config, mapping.width, std=model.embedding_std, text=ids, seed=0)[None]
        state = slots_.start(config, numbers, padded([ids], bucket(len(ids))), np.array([len(ids)]))
        while np.asarray(state.active).any():
            state = step(model.params, state)


@functools.cache
def _compiled(model_config, config, mapping):
    return jax.jit(lambda params, state: slots_._step(model_config, config, mapping, params, state))


def rates(size: str, length: int, steps: int, rounds: int) -> dict[str, float]:
    """Returns the texts x steps per second of each way."""
    model, rng = frozen(size), np.random.default_rng(0)
    texts = [rng.integers(0, 256, length).astype(np.int32) for _ in range(TEXTS)]
    config = CramConfig(
        steps=steps, patience=steps, margin=1e9
    )  # a margin that no text reaches, so that none stops early
    few = texts[: TEXTS // 8]
    ways = {
        "batched": (lambda: cram(model, texts, config, slots=TEXTS), len(texts)),
        "alone": (lambda: [cram(model, [ids], config) for ids in few], len(few)),
        "plain loop": (lambda: plain_loop(model, few, config), len(few)),
    }
    found = {name: [] for name in ways}
    for round_ in range(rounds + 1):
        for name, (run, n_texts) in ways.items():
            start = time.perf_counter()
            run()
            if round_:  # the first one compiles
                found[name].append(n_texts * steps / (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=CASES, help="size : tokens per text (default %(default)s)")
    parser.add_argument("--steps", type=int, default=40, help="steps per text (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default %(default)s)")
    arguments = parser.parse_args()
    print_cpu()
    table = Table("model", "tokens", "batched", "alone", "plain loop", "over alone", "over plain loop")
    table.title = f"{TEXTS} texts, one vector each: texts x steps a second"
    for case in arguments.cases:
        size, length = case.split(":")
        found = rates(size, int(length), arguments.steps, arguments.rounds)
        batched, alone, plain = found.values()
        table.add_row(
            size,
            length,
            *(f"{rate:,.0f}" for rate in found.values()),
            f"{batched / alone:.2f}",
            f"{batched / plain:.2f}",
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
