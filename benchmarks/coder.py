"""Speed of the codecs that run M1.

    python benchmarks/coder.py [--m1 DIR] [--text FILES...] [--kilobytes N]

Encoding is one teacher-forced pass. It is compared with two peers in the same process: the loss of a float model with
the shape of M1 on the same rows, and a loop with one forward pass per prefix, as in published implementations of neural
compression. Decoding runs M1 with a cache in batch slots: its cost per byte falls with the batch size until the device
is fully used. Speeds are medians of interleaved repetitions.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from machine import print_cpu

from compressed_lm import codecs
from compressed_lm.data.sources import installed_docs
from compressed_lm.exact import device
from compressed_lm.models import Transformer, TransformerConfig, shift_right
from compressed_lm.pipelines import m1 as m1_model
from compressed_lm.pipelines import stages
from compressed_lm.training.step import eval_step

PREFIXES = 64
"""Number of symbols on which the loop over prefixes is timed."""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--m1", default=m1_model.PRETRAINED, help="folder with m1.npz (default: the pretrained M1)")
    parser.add_argument("--text", nargs="*", help="text files (default: documentation of installed packages)")
    parser.add_argument("--kilobytes", type=int, default=66, help="kB of text to code (default %(default)s)")
    parser.add_argument("--repetitions", type=int, default=3)
    arguments = parser.parse_args()
    print_cpu()
    m1 = m1_model.load_m1(arguments.m1)
    if arguments.text:
        text = b"".join(open(path, "rb").read() for path in arguments.text)
    else:
        text = b"\n\n".join(installed_docs.documents()["validation"])
    text = text[: 1000 * arguments.kilobytes]
    print(f"M1 {m1.hash[:12]}, {m1.config}; {len(text):,} bytes on {stages.describe_devices()}\n")
    _encode(m1, text, arguments.repetitions)
    _decode(m1, text, arguments.repetitions)


def _encode(m1: codecs.M1, text: bytes, repetitions: int):
    codec, context = codecs.create("ac(v=256)", m1=m1), m1.config.context
    documents = [text[i : i + 10_000] for i in range(0, len(text), 10_000)]
    rows = np.frombuffer(text, np.uint8)[: len(text) // context * context].reshape(-1, context).astype(np.int32)
    shape = {name: getattr(m1.config, name) for name in ("n_layers", "d_model", "n_heads", "d_head", "d_ff")}
    config = TransformerConfig(vocab_size=264, **shape)
    model = Transformer(config)
    params = model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    evaluate = jax.jit(lambda batch: eval_step(params, batch, model=model, eod_id=256)[0])
    batches = [rows[i : i + 64] for i in range(0, len(rows), 64)]
    one = jax.jit(lambda symbols, last: device.forward(m1.device_params, m1.config, symbols)[0, last])
    inputs = np.asarray(shift_right(rows[:1], 256))

    def prefixes():
        for last in range(PREFIXES):
            one(inputs, last).block_until_ready()

    ways = {
        "ac encode": (lambda: codec.encode_batch(documents), len(text)),
        "M1's tables alone (exact, teacher-forced)": (lambda: m1.table_entries(rows), rows.size),
        "float evaluation of the same shape": (lambda: [evaluate(b).block_until_ready() for b in batches], rows.size),
        "one forward pass per prefix": (prefixes, PREFIXES),
    }
    rates = _rates(ways, repetitions)
    print(f"{'encoding':44}{'kB/s':>10}{'ac encode is':>16}")
    for name, rate in rates.items():
        print(f"{name:44}{rate / 1e3:10.1f}{rates['ac encode'] / rate:15.2f}x")


def _decode(m1: codecs.M1, text: bytes, repetitions: int):
    length = m1.config.context - 1
    print(f"\n{'decoding, documents at once':44}{'ac kB/s':>10}{'eiw(b=64) kB/s':>16}")
    made = [codecs.create(spec, m1=m1) for spec in ("ac(v=256)", "eiw(b=64,v=256)")]
    for n_documents in (1, 8, 64, 256, 512):
        if n_documents * length > len(text):
            break
        documents = [text[i * length : (i + 1) * length] for i in range(n_documents)]
        encoded = [codec.encode_batch(documents) for codec in made]
        ways = {
            codec.spec: (lambda codec=codec, ids=ids: codec.decode_batch(ids), n_documents * length)
            for codec, ids in zip(made, encoded, strict=True)
        }
        ac, eiw = _rates(ways, repetitions).values()
        print(f"{n_documents:<44}{ac / 1e3:10.1f}{eiw / 1e3:16.1f}")


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
