"""Speed of text generation on CPU: the compiled loop of 16 tokens beside slower ways to run the same step.

    python benchmarks/generate.py [--help]

- loop: as in `evaluation.sample_tokens`, 16 tokens in one call, each layer's parameters as an argument of its own;
- stack: the same loop, which takes each layer from the stacked parameters and so copies all layers for each token;
- calls: one call of the compiled step for each token, so that the cost of calls (dispatch) is seen.

All ways sample the same tokens, which is checked. `GB/s` is the size of the parameters (without the input embedding)
over the time of a token: the memory traffic that no way can avoid. Ratios are within one round, medians over rounds.
Models have random weights.
"""

import argparse
import collections
import functools
import os
import statistics
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
from machine import print_cpu
from rich.console import Console
from rich.table import Table

from compressed_lm import models
from compressed_lm.evaluation.generate import TOKENS_PER_CALL, _advance_fn, _layers

CASES = ("nano:264", "nano:4104", "nano:65544", "3m:264", "25m:264")
TOKENS = 96  # of a sample


def ways(config: models.TransformerConfig, params: dict, n_ids: int) -> dict:
    """Returns functions of (carry, int32[TOKENS] forced inputs) -> int32[TOKENS] sampled, by name."""
    advance = _advance_fn(config, n_ids, 0.8, 0)
    layers = _layers(params, config.n_layers)

    def run(layers, n_tokens, carry, forced):
        found = []
        for first in range(0, TOKENS, n_tokens):
            carry, tokens = advance(params, layers, carry, forced[first : first + n_tokens])
            found.append(np.asarray(tokens))
        return np.concatenate(found)

    per_call = TOKENS_PER_CALL
    chosen = {"loop": (layers, per_call), "stack": (None, per_call), "calls": (layers, 1)}
    return {name: functools.partial(run, *arguments) for name, arguments in chosen.items()}


def run_case(case: str, rounds: int, table: Table) -> None:
    """Adds the row of one case to the table."""
    size, vocab_size = case.split(":")
    config = models.model_config(size, int(vocab_size))
    params = jax.jit(models.Transformer(config).init)(jax.random.key(0), jnp.zeros((1, 1), "int32"))["params"]
    carry = jnp.int32(0), jnp.int32(0), models.init_cache(config, 1, TOKENS), jax.random.key(0)
    forced = np.append(config.vocab_size - 1, np.full(TOKENS - 1, -1)).astype(np.int32)
    first, seconds, found = {}, collections.defaultdict(list), {}
    for i in range(rounds + 1):
        for name, way in ways(config, params, config.vocab_size).items():
            start = time.perf_counter()
            found[name] = way(carry, forced)
            taken = time.perf_counter() - start
            if i:
                seconds[name].append(taken)
            else:
                first[name] = taken
    if any((tokens != found["loop"]).any() for tokens in found.values()):
        raise SystemExit(f"The ways sample different tokens: {found}.")
    token = statistics.median(seconds["loop"]) / TOKENS
    read = 4 * (models.count_params(config).total - config.vocab_size * config.d_model)
    ratios = {name: statistics.median(np.divide(seconds[name], seconds["loop"])) for name in ("stack", "calls")}
    table.add_row(
        *(case.replace(":", ", "), f"{first['loop']:.1f}", f"{1e6 * token:,.0f}", f"{read / token / 1e9:.0f}"),
        *(f"{ratio:.2f}x" for ratio in ratios.values()),
    )


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=CASES, help="SIZE:V")
    parser.add_argument("--rounds", type=int, default=9, help="rounds (default %(default)s)")
    options = parser.parse_args()
    print_cpu()
    table = Table(title=f"generation, one text of {TOKENS} tokens, float32, {options.rounds} rounds")
    table.add_column("size, V")
    for column in ("first sample, s", "us a token", "GB/s", "stack / loop", "calls / loop"):
        table.add_column(column, justify="right")
    for case in options.cases:
        run_case(case, options.rounds, table)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
