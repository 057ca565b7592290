"""Trains small models over the vocabularies of several methods on the same text.

    python experiments/beat_subword/run.py --data $COMPRESSED_LM_DATA --out runs/beat_subword

The protocol is in protocol.py. For each vocabulary size and method: a model per learning rate, measured on held-out
training text; then the other seeds at the best rate. Models at the best rate are measured on all validation documents.
Appends to OUT/results.jsonl (a row per model) and OUT/bits/ (bits of each validation document). Recorded models are
not trained again, so that a killed run resumes.
"""

import argparse
import dataclasses
import json
import pathlib
import shutil
import sys
import time
from collections.abc import Sequence

import jax
import numpy as np
import protocol

from compressed_lm import evaluation, models
from compressed_lm.io import jsonl
from compressed_lm.training import train

TABLE = "results.jsonl"


class Comparison:
    """Models over one codec after another, each trained once.

    Args:
        out: folder of the table.
        texts: the texts.
        work: folder for codecs, stores and the current run.
    """

    def __init__(self, out: pathlib.Path, texts: protocol.Texts, work: pathlib.Path):
        self.out, self.texts, self.work = out, texts, work
        (out / "bits").mkdir(parents=True, exist_ok=True)
        self._table = out / TABLE
        self.rows = [row for _, row in jsonl.read(self._table)] if self._table.exists() else []

    def find(self, **key) -> dict | None:
        """Returns the row of a trained model."""
        return next((row for row in self.rows if all(row[k] == v for k, v in key.items())), None)

    def model(self, method: str, encoded, v: int, flops: float, learning_rate: float, seed: int, *, validate: bool):
        """Returns the row of a model, trained unless recorded; `validate` adds bits per byte of validation texts."""
        key = dict(method=method, v=v, learning_rate=learning_rate, seed=seed)
        row = self.find(**key)
        if row and (row["bits_per_byte"] or not validate):
            return row
        shape = protocol.model_at(flops, v, encoded.bytes_per_token)
        config = dataclasses.replace(protocol.TRAIN, learning_rate=learning_rate, seed=seed, steps="1 epochs")
        folder = self.work / "run" / protocol.run_name(encoded.codec.spec, learning_rate, seed)
        start = time.monotonic()
        result = train(
            dataclasses.replace(config, checkpoint_every="100%"),
            shape,
            encoded.stores["train"],
            out=folder,
            mesh_shape=(1, 1, 1),
            compilation_cache=self.work / "compiled",
        )
        counts = models.count_params(shape)
        bits = {
            name: evaluation.document_bits(result.params, shape, encoded.stores[name], seq_len=config.seq_len)
            for name in (("dev", "c4", "mixed") if validate else ("dev",))
        }
        per_byte = {name: round(float(b.sum() / n.sum()), 6) for name, (b, n) in bits.items()}
        tokens = result.step * config.batch_size * config.seq_len
        training = models.training_flops_per_token(shape, seq_len=config.seq_len) * tokens
        row = key | {
            "codec": encoded.codec.spec,
            "fingerprint": encoded.codec.fingerprint[:16],
            "d_ff": shape.d_ff,
            "n_params": counts.total,
            "n_nonembed": counts.non_embedding,
            "tokens": tokens,
            "bytes": encoded.stores["train"].n_bytes,
            "bytes_per_token": round(encoded.bytes_per_token, 4),
            "flops_per_byte": round(models.flops_per_token(shape, softmax=False) / encoded.bytes_per_token),
            "flops_per_byte_softmax": round(protocol.flops_per_byte(shape, encoded.bytes_per_token)),
            "training_flops": training,
            "dev_bits_per_byte": per_byte.pop("dev"),
            "bits_per_byte": per_byte,
            "seconds": round(time.monotonic() - start),
        }
        if validate:
            arrays = {
                f"{name}_{what}": x for name, pair in bits.items() for what, x in zip(("bits", "n"), pair, strict=True)
            }
            np.savez_compressed(self.out / "bits" / f"{folder.name}.npz", **arrays)
            shutil.rmtree(folder)
        self.rows = [r for r in self.rows if any(r[k] != x for k, x in key.items())] + [row]
        text = "".join(json.dumps(r) + "\n" for r in self.rows)
        self._table.with_suffix(".tmp").write_text(text, encoding="utf-8")
        self._table.with_suffix(".tmp").replace(self._table)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in per_byte.items())
        print(
            f"{method} v={v} rate {learning_rate:g} seed {seed}: dev {row['dev_bits_per_byte']:.4f} {shown}", flush=True
        )
        return row

    def best_rate(self, method: str, encoded, v: int, flops: float, seed: int, given: Sequence[float] = ()) -> float:
        """Returns the learning rate with the lowest loss on held-out training text.

        Candidates are the given rates, or by default those of the protocol and further ones beyond its ends.
        """
        rates = list(given or protocol.LEARNING_RATES)
        while True:
            rows = [self.model(method, encoded, v, flops, rate, seed, validate=False) for rate in rates]
            best = int(np.argmin([row["dev_bits_per_byte"] for row in rows]))
            if given:
                return rates[best]
            if best == 0:
                rates.insert(0, rates[0] / 2)
            elif best == len(rates) - 1:
                rates.append(rates[-1] * 2)
            else:
                return rates[best]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder with corpora/")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of results.jsonl")
    parser.add_argument("--work", type=pathlib.Path, help="folder for texts, codecs and stores (default OUT/work)")
    parser.add_argument(
        "--train_bytes", type=int, default=3_000_000, help="bytes of text to train on (default %(default)s)"
    )
    parser.add_argument("--v", type=int, nargs="+", default=protocol.VOCABULARIES, help="sizes of vocabularies")
    parser.add_argument("--method", nargs="+", default=list(protocol.METHODS), help="methods")
    parser.add_argument("--rate", type=float, nargs="+", default=(), help="learning rates, instead of the protocol's")
    parser.add_argument("--seed", type=int, nargs="+", default=protocol.SEEDS, help="seeds")
    arguments = parser.parse_args()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    work = arguments.work or arguments.out / "work"
    texts = protocol.Texts(arguments.data, work / "texts", arguments.train_bytes)
    comparison = Comparison(arguments.out, texts, work)
    for v in arguments.v:
        spec = lambda method, v=v: protocol.METHODS[method].format(v=v, b=v.bit_length() - 1)  # noqa: E731
        reference = protocol.encoded(spec(protocol.REFERENCE), texts, work)
        shape = models.TransformerConfig(models.model_vocab_size(v), d_ff=protocol.REFERENCE_D_FF, **protocol.MODEL)
        flops = protocol.flops_per_byte(shape, reference.bytes_per_token)
        for method in arguments.method:
            encoded = protocol.encoded(spec(method), texts, work)
            rate = comparison.best_rate(method, encoded, v, flops, arguments.seed[0], arguments.rate)
            for seed in arguments.seed:
                comparison.model(method, encoded, v, flops, rate, seed, validate=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
