"""One process of `test_exact_host`: tables of the host's program, compiled for a chosen processor.

    NUMBA_CPU_NAME=haswell NUMBA_CPU_FEATURES=+avx2 python tests/exact/host_cases.py

It prints the name of the instructions and a SHA-256 for each way.
"""

import sys

import numpy as np
from exact_golden import SMALL, WIDE, digest, golden_inputs, golden_model

from compressed_lm.codecs import host_coder
from compressed_lm.exact import products
from compressed_lm.exact.host import HostModel


def host_logits(model: HostModel, inputs: np.ndarray, block: int) -> np.ndarray:
    """Returns int32[B, L, 257]: blocks of one row after the other, or for block 0 cached steps of all rows together."""
    batch, length = inputs.shape
    out = np.empty((batch, length, 257), np.int32)
    with model.state(length) as state:
        if block == 0:
            slots = len(state.keys)
            for first in range(0, batch, slots):
                rows = inputs[first : first + slots]
                n = len(rows)
                for position in range(length):
                    state.inputs[:n], state.slots[:n] = rows[:, position], np.arange(n)
                    state.positions[:n] = position
                    model.forward(state, n)
                    out[first : first + n, position] = state.logits[:n]
            return out
        for row in range(batch):
            for start in range(0, length, block):
                n = min(block, length - start)
                state.inputs[:n], state.slots[:n] = inputs[row, start : start + n], 0
                state.positions[:n] = np.arange(start, start + n)
                model.forward(state, n)
                out[row, start : start + n] = state.logits[:n]
    return out


def host_frequencies(logits: np.ndarray) -> np.ndarray:
    """Returns the tables of logits int32[B, L, 257]."""
    freqs = np.empty(logits.shape, np.int32)
    for row, out in zip(logits.reshape(-1, 257), freqs.reshape(-1, 257), strict=True):
        host_coder.table(row, 257, out)
    return freqs


def main() -> None:
    chosen = []
    original = products._instructions
    products._instructions = lambda context: chosen.append(original(context).__name__) or original(context)
    for name, config, batch, blocks in (("small", SMALL, 64, (0, 1, 7, 32)), ("wide", WIDE, 1, (0, 32))):
        model, inputs = HostModel(golden_model(config), config), golden_inputs(config, batch)
        for block in blocks:
            print(name, block, digest(host_frequencies(host_logits(model, inputs, block))))
    print("instructions", *sorted(set(chosen)), file=sys.stdout)


if __name__ == "__main__":
    main()
