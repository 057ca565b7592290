"""Speed and size of the coders of quantised weights, compared with zlib and lzma, on one core.

    python benchmarks/weight_coding.py

All code the same levels: generalised-Gaussian weights with standard deviation 1, rounded to multiples of a step. zlib
and lzma read the levels as bytes, or as 16-bit numbers if a byte is too small. Speeds are MB of float32 weights per
second, from weights to stream and back, medians over interleaved repetitions. Bits per weight include the tables.
"""

import argparse
import lzma
import time
import zlib

import numpy as np
from machine import print_cpu
from scipy import stats

from compressed_lm.coding import levels
from compressed_lm.weights import bitstream

SHAPES, STEPS = (0.5, 1.0, 2.0), (1.0, 0.25, 0.1)
CODERS = ("range", "eg0", "eg", "rice", "raw")


def workload(shape: float, step: float, n: int) -> np.ndarray:
    """Returns the levels float32[n]: weights divided by the step, as whole numbers."""
    unit = stats.gennorm(shape)
    return np.rint(unit.rvs(n, random_state=0) / unit.std() / step).astype(np.float32)


def coders(w: np.ndarray) -> dict:
    """Returns name -> (encode() -> stream, decode(stream) -> levels, bytes(stream))."""
    narrow = np.dtype(np.int8 if np.abs(w).max() < 128 else np.int16)

    def ours(coder):
        def decode(stream):
            return bitstream.unpack(bitstream.CodedTensor(w.shape, 1.0, coder, stream))

        return lambda: bitstream.pack(w, step=1, coder=coder).payload, decode

    def general(library, **options):
        return (
            lambda: library.compress(np.rint(w).astype(narrow).tobytes(), **options),
            lambda stream: np.frombuffer(library.decompress(stream), narrow).astype(np.float32),
        )

    return {coder: ours(coder) for coder in CODERS} | {
        "zlib -6": general(zlib, level=6),
        "lzma -6": general(lzma, preset=6),
    }


def measure(w: np.ndarray, repetitions: int) -> dict[str, dict[str, float]]:
    """Returns name -> encode and decode (MB of float32 per second) and bits (per weight)."""
    rivals, seconds, bits = coders(w), {}, {}
    for repetition in range(repetitions + 1):  # the first one compiles and warms up
        for name, (encode, decode) in rivals.items():
            start = time.perf_counter()
            stream = encode()
            middle = time.perf_counter()
            decoded = decode(stream)
            end = time.perf_counter()
            assert np.array_equal(decoded, w), name
            bits[name] = 8 * len(stream) / w.size
            if repetition:
                seconds.setdefault((name, "encode"), []).append(middle - start)
                seconds.setdefault((name, "decode"), []).append(end - middle)
    return {
        name: {way: 4e-6 * w.size / np.median(seconds[name, way]) for way in ("encode", "decode")}
        | {"bits": bits[name]}
        for name in rivals
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=int, default=1_000_000, help="number of weights (default %(default)s)")
    parser.add_argument("--repetitions", type=int, default=5, help="repetitions (default %(default)s)")
    arguments = parser.parse_args()
    print_cpu()
    for shape in SHAPES:
        for step in STEPS:
            w = workload(shape, step, arguments.weights)
            entropy = levels.empirical_entropy(w.astype(np.int64))
            print(f"shape {shape:g}, step {step:g} std, entropy {entropy:.3f} bits a weight", flush=True)
            for name, result in measure(w, arguments.repetitions).items():
                print(
                    f"  {name:8s} {result['bits']:6.3f} bits a weight ({result['bits'] / entropy - 1:+7.2%}), "
                    f"encode {result['encode']:6.1f}, decode {result['decode']:6.1f} MB of float32/s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
