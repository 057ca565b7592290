"""Information gain by learning rate and schedule, for texts above capacity: a row per setting.

    python experiments/cramming/rates.py runs/bytes --validation 'text:validation/*.txt' --out runs/cramming_rates.jsonl

Appends to OUT; rows in the file are not measured again.
"""

import argparse
import dataclasses
import itertools
import json
import pathlib
import sys

from rich.console import Console
from rich.table import Table

from compressed_lm.commands.common import load_codec
from compressed_lm.cramming import CramConfig, FrozenModel, cram, metrics, read, read_alone
from compressed_lm.cramming.texts import natural
from compressed_lm.data.job import take_bytes
from compressed_lm.data.sources import open_corpus
from compressed_lm.io import jsonl
from compressed_lm.post_training.huggingface import CODEC
from compressed_lm.training import load_run


def measure(model, texts, config, slots):
    """Returns the numbers of a row."""
    found = cram(model, texts, config, slots=slots)
    alone, readings = read_alone(model, texts), read(model, [f.vectors for f in found], texts)
    bits = [metrics.information_gain_bits(a.nats.sum(), r.nats.sum()) for a, r in zip(alone, readings, strict=True)]
    gain = metrics.mean(bits)
    accuracy = metrics.mean([r.right.mean() for r in readings])
    return {
        "gain_bits": round(gain.value, 3),
        "low": round(gain.low, 3),
        "high": round(gain.high, 3),
        "accuracy": round(accuracy.value, 4),
        "steps": round(metrics.mean([f.steps for f in found]).value, 1),
        "best_step": round(metrics.mean([f.best_step for f in found]).value, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=pathlib.Path, help="folder of a training run")
    parser.add_argument("--codec", help="its codec directory (default: RUN/codec if it exists, else bytes)")
    parser.add_argument("--validation", default="installed_docs", help="corpus of the texts (default %(default)s)")
    parser.add_argument("--length", type=int, default=64, help="tokens per text, above capacity (default %(default)s)")
    parser.add_argument("--texts", type=int, default=16, help="number of texts (default %(default)s)")
    parser.add_argument("--k", type=int, nargs="+", default=[1, 8], help="numbers of vectors K")
    parser.add_argument("--rate", type=float, nargs="+", default=[0.003, 0.01, 0.03, 0.1, 0.3], help="learning rates")
    parser.add_argument("--schedule", nargs="+", default=["constant", "cosine"], help="schedules")
    parser.add_argument("--b2", type=float, nargs="+", default=[0.9], help="b2 of AdamW")
    parser.add_argument("--steps", type=int, default=2000, help="updates per text (default %(default)s)")
    parser.add_argument("--slots", type=int, default=32, help="texts at once (default %(default)s)")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="file of rows")
    arguments = parser.parse_args()
    own = arguments.run / CODEC
    codec = load_codec(arguments.codec or (str(own) if own.exists() else "bytes"))
    model = FrozenModel.from_run(load_run(arguments.run, codec=codec))
    corpus = open_corpus(arguments.validation)
    documents = take_bytes(corpus.documents(corpus.splits[-1]), 8_000_000)
    texts = natural(documents, codec, n_tokens=arguments.length, n_texts=arguments.texts)
    rows = [row for _, row in jsonl.read(arguments.out)] if arguments.out.exists() else []
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    base = CramConfig(steps=arguments.steps, patience=arguments.steps)
    for k, rate, schedule, b2 in itertools.product(arguments.k, arguments.rate, arguments.schedule, arguments.b2):
        config = dataclasses.replace(base, n_vectors=k, learning_rate=rate, schedule=schedule, b2=b2)
        key = dict(k=k, learning_rate=rate, schedule=schedule, b2=b2, steps_at_most=arguments.steps)
        key |= dict(length=arguments.length, texts=arguments.texts, model=model.fingerprint[:12])
        if any(all(row[name] == value for name, value in key.items()) for row in rows):
            continue
        rows.append(key | measure(model, texts, config, arguments.slots))
        with arguments.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(rows[-1]) + "\n")
    table = Table("K", "learning rate", "schedule", "b2", "information gain, bits", "accuracy", "best step")
    for row in sorted(rows, key=lambda row: (row["k"], -row["gain_bits"])):
        gain = f"{row['gain_bits']:.1f} ({row['low']:.1f} to {row['high']:.1f})"
        settings = (str(row["k"]), f"{row['learning_rate']:g}", row["schedule"], f"{row['b2']:g}")
        table.add_row(*settings, gain, f"{row['accuracy']:.3f}", f"{row['best_step']:,.0f}")
    Console(width=110).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
