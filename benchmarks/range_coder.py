"""Speed and code length of the range coder beside constriction's, on one core.

    python benchmarks/range_coder.py

Both code the same symbols under the same tables: one table per symbol, as from a language model, or one table for all.
constriction reads a table as probabilities (`Categorical(perfect=False)`, a float32 matrix or one float64 row), ours as
cumulative integers, the output of M1. Speeds are medians over interleaved repetitions.
"""

import argparse
import time

import constriction
import numpy as np
from machine import print_cpu

from compressed_lm.coding import range_coder, tables

N_SYMBOLS = 257
CONCENTRATIONS = {"peaked": 0.01, "middling": 0.05, "flat": 1.0}
"""Shapes of the gamma distribution of the symbol weights: about 2.5, 4.5 and 7.4 bits per symbol."""


def workload(concentration: float, length: int, *, shared: bool, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns symbols int32[T] drawn from random tables, and the frequencies uint32[T, S] or uint32[S]."""
    rng = np.random.default_rng(seed)
    weights = rng.gamma(concentration, size=(1 if shared else length, N_SYMBOLS)) + 1e-9
    weights = np.ceil(weights * (tables.MAX_WEIGHT / weights.max(-1, keepdims=True))).astype(np.uint32)
    freqs = tables.frequencies(weights)
    below = tables.cumulative(freqs)[:, 1:]
    targets = rng.integers(0, tables.TABLE_TOTAL, length)
    if shared:
        return np.searchsorted(below[0], targets, side="right").astype(np.int32), freqs[0]
    return (below <= targets[:, None]).sum(-1).astype(np.int32), freqs


def coders(symbols: np.ndarray, freqs: np.ndarray) -> dict:
    """Returns name -> (encode() -> stream, decode(stream) -> symbols, bytes per unit of the stream)."""
    cdfs, shared = tables.cumulative(freqs), freqs.ndim == 1
    queue, model = constriction.stream.queue, constriction.stream.model
    if shared:
        # The model object has the quantised table. It is built once, like our cumulative table.
        peer, length = (model.Categorical(freqs / tables.TABLE_TOTAL, perfect=False),), (len(symbols),)
    else:
        peer, length = (model.Categorical(perfect=False), (freqs / tables.TABLE_TOTAL).astype(np.float32)), ()

    def peer_encode():
        encoder = queue.RangeEncoder()
        encoder.encode(symbols, *peer)
        return encoder.get_compressed()

    return {
        "ours": (
            lambda: range_coder.encode_symbols(symbols, cdfs),
            lambda stream: range_coder.decode(stream, cdfs, len(symbols) if shared else None),
            1,
        ),
        "constriction": (peer_encode, lambda stream: queue.RangeDecoder(stream).decode(*peer, *length), 4),
    }


def measure(symbols: np.ndarray, freqs: np.ndarray, repetitions: int) -> dict[str, dict[str, float]]:
    """Returns name -> encode and decode (symbols per second) and excess (bytes above the entropy)."""
    taken = freqs[symbols] if freqs.ndim == 1 else np.take_along_axis(freqs, symbols[:, None], axis=-1)[:, 0]
    information = -np.log2(taken / tables.TABLE_TOTAL).sum() / 8
    rivals, seconds, excess = coders(symbols, freqs), {}, {}
    for repetition in range(repetitions + 1):  # the first one compiles and warms up
        for name, (encode, decode, unit) in rivals.items():
            start = time.perf_counter()
            stream = encode()
            middle = time.perf_counter()
            decoded = decode(stream)
            end = time.perf_counter()
            assert np.array_equal(decoded, symbols), name
            excess[name] = unit * len(stream) - information
            if repetition:
                seconds.setdefault((name, "encode"), []).append(middle - start)
                seconds.setdefault((name, "decode"), []).append(end - middle)
    return {
        name: {way: len(symbols) / np.median(seconds[name, way]) for way in ("encode", "decode")}
        | {"excess": excess[name], "information": information}
        for name in rivals
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=9, help="repetitions (default %(default)s)")
    arguments = parser.parse_args()
    print_cpu()
    for kind, lengths in (("a table each", (1_000, 20_000)), ("one table", (1_000, 200_000))):
        for shape, concentration in CONCENTRATIONS.items():
            for length in lengths:
                symbols, freqs = workload(concentration, length, shared=kind == "one table")
                result = measure(symbols, freqs, arguments.repetitions)
                ours, peer = result["ours"], result["constriction"]
                print(
                    f"{kind:12s} {shape:8s} {length:7,} symbols, {8 * ours['information'] / length:4.2f} bits each: "
                    + ", ".join(
                        f"{way} {ours[way] / 1e6:6.1f} against {peer[way] / 1e6:6.1f} M symbols/s "
                        f"({ours[way] / peer[way]:4.1f} x)"
                        for way in ("encode", "decode")
                    )
                    + f"; over the entropy {ours['excess']:+.1f} against {peer['excess']:+.1f} bytes",
                    flush=True,
                )


if __name__ == "__main__":
    main()
