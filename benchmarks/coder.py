"""Speed of the codecs that run M1 on CPU.

    python benchmarks/coder.py [--m1 DIR | --size 3m] [--text FILES...] [--kilobytes N]

M1's program for the host (Numba) is compared with its program for devices of JAX, run on the same CPU, which was the
only one before version 0.2; with the limit of this machine, which is the speed of the products alone, measured with 64
rows in all cores; and with the loss of a float model of the same shape in JAX and, if it is installed, in PyTorch.
Speeds are medians of interleaved repetitions. `--size` takes random weights of a named shape instead of a trained M1.
"""

import argparse
import os
import statistics
import threading
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from machine import print_cpu

from compressed_lm import codecs, exact
from compressed_lm.codecs.m1 import VARIABLE
from compressed_lm.coding.compiled import njit
from compressed_lm.data.sources import installed_docs
from compressed_lm.exact import calibration
from compressed_lm.exact.host import n_threads
from compressed_lm.exact.products import product_unsigned
from compressed_lm.models import SIZES, Transformer, TransformerConfig, shift_right
from compressed_lm.pipelines import m1 as m1_model
from compressed_lm.training.step import eval_step

SPECS = "ac(v=256)", "eiw(b=32,v=256)", "eiw(b=64,v=256)"
ENGINES = "host", "devices"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--m1", default=m1_model.PRETRAINED, help="folder with m1.npz (default: the pretrained M1)")
    parser.add_argument("--size", choices=SIZES, help="random weights of this size, with contexts of 256 bytes")
    parser.add_argument("--text", nargs="*", help="text files (default: documentation of installed packages)")
    parser.add_argument("--kilobytes", type=int, default=140, help="kB of text that ac encodes (default %(default)s)")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--products", action="store_true", help="print only the machine's limit")
    arguments = parser.parse_args()
    print_cpu()
    if arguments.text:
        text = b"".join(open(path, "rb").read() for path in arguments.text)
    else:
        text = b"\n\n".join(installed_docs.documents()["validation"])
    text = text[: 1000 * arguments.kilobytes]
    m1 = _random_m1(arguments.size, text) if arguments.size else m1_model.load_m1(arguments.m1)
    needed = _multiply_adds(m1.config)
    limit = _product_speed(m1) * n_threads() / needed
    print(f"M1 {m1.hash[:12]}, {m1.config}")
    print(
        f"{needed / 1e6:.2f}M multiply-adds per byte; "
        f"products alone: {limit / 1e3:,.0f} kB/s in {n_threads()} threads\n"
    )
    if arguments.products:
        return
    _float(m1, text, arguments.repetitions)
    print(f"\n{'':34}{'host kB/s':>10}{'devices':>9}{'faster':>9}{'of the limit':>14}")
    documents = [text[i : i + 10_000] for i in range(0, len(text), 10_000)]
    codec = codecs.create(SPECS[0], m1=m1)
    _compare("ac encode, documents of 10 kB", codec.encode_batch, documents, len(text), limit, arguments.repetitions)
    for spec in SPECS:
        codec = codecs.create(spec, m1=m1)
        for n in (1, 64):
            documents = [text[i * 255 : (i + 1) * 255] for i in range(n)]
            ids = codec.encode_batch(documents)
            for name, work, given in (("encode", codec.encode_batch, documents), ("decode", codec.decode_batch, ids)):
                label = f"{spec} {name}, {n} of 255 bytes"
                _compare(label, work, given, 255 * n, limit, arguments.repetitions)


def _compare(label: str, work: Callable, given: list, n_bytes: int, limit: float, repetitions: int) -> None:
    """Prints the speed of a codec's method with both programs."""

    def on(engine: str) -> Callable[[], None]:
        def run() -> None:
            os.environ[VARIABLE] = engine
            work(given)

        return run

    rates = _rates({engine: (on(engine), n_bytes) for engine in ENGINES}, repetitions)
    host, devices = (rates[engine] for engine in ENGINES)
    print(f"{label:34}{host / 1e3:10.1f}{devices / 1e3:9.1f}{host / devices:8.1f}x{limit / host:13.2f}x", flush=True)


def _random_m1(size: str, text: bytes) -> codecs.M1:
    """Returns the exact form of a model with random weights, calibrated on text."""
    config = TransformerConfig(vocab_size=264, **SIZES[size] | {"scan_layers": True})
    params = Transformer(config).init(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))["params"]
    rows = np.frombuffer(text, np.uint8)[: 16 * 256].reshape(16, 256).astype(np.int32)
    return codecs.M1(*calibration.quantise(params, config, np.asarray(shift_right(rows, 256)), context=256))


def _multiply_adds(config: exact.ExactConfig) -> int:
    """Returns the multiply-adds per byte: weights with the table of logits, and attention to half a context."""
    inner = config.n_heads * config.d_head
    return config.n_params + 257 * config.d_model + config.n_layers * inner * config.context


@njit(nogil=True)
def _products(x, start, matrices, sums, repetitions):
    for _ in range(repetitions):
        for i in range(len(matrices)):
            matrix = matrices[i]
            product_unsigned(
                x.ctypes.data,
                x.shape[1],
                len(x),
                matrix.ctypes.data,
                matrix.strides[0],
                matrix.shape[0],
                matrix.shape[1],
                start.ctypes.data,
                sums.ctypes.data,
                sums.shape[1],
            )


def _product_speed(m1: codecs.M1) -> float:
    """Returns the multiply-adds per second and thread of all products of the model with 64 rows, in all threads."""
    with m1.engine.model.state(m1.config.context) as state:
        matrices = [np.ascontiguousarray(m) for w in (state.qkv, state.out, state.gated, state.down) for m in w]
        matrices.append(state.unembed)
    each = 64 * sum(matrix.size for matrix in matrices)

    def work(repetitions: int) -> None:
        x = np.ones((64, max(4 * m.shape[1] for m in matrices)), np.int8)
        sums = np.zeros((64, max(16 * len(m) for m in matrices)), np.int32)
        _products(x, np.zeros(64, np.int32), tuple(matrices), sums, repetitions)

    work(1)
    repetitions, speeds = max(1, int(2e10 // each)), []
    for _ in range(5):
        threads = [threading.Thread(target=work, args=(repetitions,)) for _ in range(n_threads())]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        speeds.append(each * repetitions / (time.perf_counter() - start))
    return statistics.median(speeds)


def _float(m1: codecs.M1, text: bytes, repetitions: int) -> None:
    """Compares encoding with the evaluation of a float model of the same shape."""
    context = m1.config.context
    codec = codecs.create("ac(v=256)", m1=m1)
    documents = [text[i : i + 10_000] for i in range(0, len(text), 10_000)]
    rows = np.frombuffer(text, np.uint8)[: len(text) // context * context].reshape(-1, context).astype(np.int32)
    shape = {name: getattr(m1.config, name) for name in ("n_layers", "d_model", "n_heads", "d_head", "d_ff")}
    model = Transformer(TransformerConfig(vocab_size=264, **shape))
    params = model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    evaluate = jax.jit(lambda batch: eval_step(params, batch, model=model, eod_id=256)[0])
    batches = [rows[i : i + 64] for i in range(0, len(rows), 64)]

    def encode() -> None:
        os.environ[VARIABLE] = "host"
        codec.encode_batch(documents)

    ways = {
        "ac encode": (encode, len(text)),
        "loss of a float model in JAX": (lambda: [evaluate(b).block_until_ready() for b in batches], rows.size),
    }
    try:
        ways["loss of a float model in PyTorch"] = (_torch_loss(shape, batches), rows.size)
    except ImportError:
        print("PyTorch is not installed; its row is left out.")
    rates = _rates(ways, repetitions)
    print(f"{'encoding':34}{'kB/s':>10}{'ac encode is':>16}")
    for name, rate in rates.items():
        print(f"{name:34}{rate / 1e3:10.1f}{rates['ac encode'] / rate:15.2f}x")


def _torch_loss(shape: dict[str, int], batches: list[np.ndarray]) -> Callable[[], None]:
    """Returns the evaluation of a float model in PyTorch. Its attention has no bias, which favours PyTorch."""
    import torch
    from torch.nn import functional

    generator = torch.Generator().manual_seed(0)
    d, inner, d_ff = shape["d_model"], shape["n_heads"] * shape["d_head"], shape["d_ff"]
    weight = lambda n_out, n_in: torch.randn(n_out, n_in, generator=generator) * n_in**-0.5  # noqa: E731
    layers = [
        (weight(3 * inner, d), weight(d, inner), weight(2 * d_ff, d), weight(d, d_ff)) for _ in range(shape["n_layers"])
    ]
    embed, unembed = weight(264, d), weight(264, d)
    tensors = [torch.from_numpy(batch).long() for batch in batches]

    def evaluate() -> None:
        with torch.inference_mode():
            for batch in tensors:
                h = embed[torch.cat([torch.full_like(batch[:, :1], 256), batch[:, :-1]], 1)]
                for qkv, out, gated, down in layers:
                    x = functional.rms_norm(h, (d,)) @ qkv.T
                    q, k, v = x.unflatten(-1, (3, shape["n_heads"], shape["d_head"])).permute(2, 0, 3, 1, 4)
                    x = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
                    h = h + x.transpose(1, 2).flatten(2) @ out.T
                    up, gate = (functional.rms_norm(h, (d,)) @ gated.T).chunk(2, -1)
                    h = h + (up * torch.relu(gate)) @ down.T
                logits = functional.rms_norm(h, (d,)) @ unembed.T
                functional.cross_entropy(logits.flatten(0, 1), batch.flatten())

    return evaluate


def _rates(ways: dict, repetitions: int) -> dict[str, float]:
    """Returns the bytes per second of each way, after one call that compiles."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repetition in range(repetitions + 1):
        for name, (work, _) in ways.items():
            start = time.perf_counter()
            work()
            if repetition:
                seconds[name].append(time.perf_counter() - start)
    return {name: n_bytes / statistics.median(seconds[name]) for name, (_, n_bytes) in ways.items()}


if __name__ == "__main__":
    main()
