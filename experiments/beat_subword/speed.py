"""Speed of encoding and generation, against bits per byte.

    python experiments/beat_subword/speed.py --data $COMPRESSED_LM_DATA --out experiments/recorded/beat_subword \\
      --work runs/beat_subword

For each size and method of OUT/results.jsonl: C4 validation is encoded, and a model of the recorded shape with random
weights, which is as fast as a trained one, generates 8 texts at a time. One process, all in turns, medians of 15.
Writes OUT/speed.jsonl, and OUT/speed.png: bits per byte against bytes generated per second.
"""

import argparse
import json
import pathlib
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import pandas as pd
import protocol
import report

from compressed_lm import models, scaling
from compressed_lm.scaling.axes import finish

TABLE = "speed.jsonl"
SLOTS, GENERATED, TURNS = 8, 128, 15


def encode_seconds(codec, documents: list[bytes]) -> float:
    """Returns the seconds to encode documents once."""
    start = time.perf_counter()
    codec.encode_batch(documents)
    return time.perf_counter() - start


class Writer:
    """Generator of tokens with random weights.

    Args:
        shape: shape of the model.
    """

    def __init__(self, shape: models.TransformerConfig):
        self.shape, model = shape, models.Transformer(shape)
        self._params = model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
        self._step = jax.jit(lambda params, *args: model.apply({"params": params}, *args, method=model.step))

    def seconds(self) -> float:
        """Returns the seconds to generate a token in each slot."""
        cache, ids = models.init_cache(self.shape, SLOTS, GENERATED), jnp.zeros(SLOTS, jnp.int32)
        start = time.perf_counter()
        for position in range(GENERATED):
            logits, cache = self._step(self._params, ids, jnp.full(SLOTS, position), cache)
            ids = jnp.argmax(logits, axis=-1)
        ids.block_until_ready()
        return (time.perf_counter() - start) / GENERATED


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder with corpora/")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of results.jsonl")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="same value as for run.py")
    arguments = parser.parse_args()
    results = report.Results(arguments.out)
    texts = protocol.Texts(arguments.data, arguments.work / "texts", 0)
    documents, found = texts.documents("c4"), []
    size = sum(map(len, documents))
    for v in results.sizes():
        timed = []
        for method in results.methods(v):
            rows = results.rows[(results.rows["method"] == method) & (results.rows["v"] == v)]
            codec = protocol.encoded(rows.iloc[0]["codec"], texts, arguments.work).codec
            d_ff = int(rows.iloc[0]["d_ff"])
            writer = Writer(models.TransformerConfig(models.model_vocab_size(v), d_ff=d_ff, **protocol.MODEL))
            encode_seconds(codec, documents), writer.seconds()  # warms up
            timed.append((method, rows, codec, writer, [], []))
        for _ in range(TURNS):
            for _, _, codec, writer, encoding, writing in timed:
                encoding.append(encode_seconds(codec, documents))
                writing.append(writer.seconds())
        for method, rows, _, _, encoding, writing in timed:
            row = {"v": int(v), "method": method, "encode_mb_per_second": size / 1e6 / statistics.median(encoding)}
            row["bytes_per_second"] = SLOTS * float(rows.iloc[0]["bytes_per_token"]) / statistics.median(writing)
            found.append(row)
    text = "".join(json.dumps(row) + "\n" for row in found)
    (arguments.out / TABLE).write_text(text, encoding="utf-8")
    print(shown(arguments.out))
    figure(arguments.out)
    return 0


def speeds(folder: pathlib.Path) -> pd.DataFrame:
    """Returns the recorded speeds, with the bits per byte of the recorded models."""
    quality = report.Results(folder).rows.groupby(["v", "method"], as_index=False)[list(report.TEXTS)].mean()
    return scaling.read_table(folder / TABLE).merge(quality, on=["v", "method"], validate="one_to_one")


def shown(folder: pathlib.Path) -> str:
    """Returns the table of all speeds."""
    rows = speeds(folder)
    columns = {
        "v": rows["v"].map("{:,}".format),
        "method": rows["method"],
        "encoding, MB/s": rows["encode_mb_per_second"].map("{:.1f}".format),
        "writing, bytes/s": rows["bytes_per_second"].map("{:,.0f}".format),
        **{f"{name}: bits per byte": rows[text].map("{:.3f}".format) for text, name in report.TEXTS.items()},
    }
    return report.markdown(pd.DataFrame(columns))


def figure(folder: pathlib.Path) -> None:
    """Plots bits per byte on C4 against the bytes that a model generates per second, as speed.png."""
    rows = speeds(folder)
    fig, ax = plt.subplots(figsize=(7, 3.8), layout="constrained")
    drawn = {}
    for method, (color, marker) in report.STYLES.items():
        of_method = rows[rows["method"] == method].sort_values("v")
        ax.plot(of_method["bytes_per_second"], of_method["c4"], color=color, marker=marker, lw=1.2, label=method)
        drawn[method] = list(zip(of_method["bytes_per_second"], of_method["c4"], of_method["v"], strict=True))
    ax.set(xlabel="bytes written in a second (8 texts at a time)", ylabel="bits per byte, C4")
    report.label_points(ax, drawn)
    finish(ax)
    fig.savefig(folder / "speed.png", dpi=150)


if __name__ == "__main__":
    sys.exit(main())
