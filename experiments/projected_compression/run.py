"""Makes a trained model smaller in several ways with the same text, and records the losses, a row per run.

    python experiments/projected_compression/run.py runs/base --store stores/train \\
      --validation_store stores/validation --out runs/projected_compression

First the learning rate of each method is chosen at some shares of kept parameters: of three rates, and of further ones
while the best is at an end of the range; other shares use the rate of the nearest. Then each method trains at each
share with each seed. Hard pruning trains twice: with the tokens of the others, and with the FLOPs of projections.
With --rates, learning rates are given instead, and hard pruning trains once. Appends to OUT/results.jsonl; rows in the
file are not trained again.
"""

import argparse
import dataclasses
import json
import pathlib
import shutil
import sys
from typing import NamedTuple

import jax
import numpy as np

from compressed_lm import configuration, models, weights
from compressed_lm.data.store import TokenStore
from compressed_lm.evaluation import BitsPerByte, predict_fn
from compressed_lm.io import jsonl
from compressed_lm.post_training.shrink import TRAINING, Shrink, shapes_of, shrink_run
from compressed_lm.training import load_run


class Method(NamedTuple):
    """Method to make a model smaller: its spec, the first learning rates, and the selection of dimensions."""

    spec: str
    rates: tuple[float, ...]
    importance: str = "activations"


LOW, HIGH = (3e-4, 1e-3, 3e-3), (1e-3, 3e-3, 1e-2)
METHODS = {
    "projected": Method("projected", LOW),
    "projected, no w_a": Method("projected(w_a=0)", LOW),
    "projected, SVD start": Method("projected(start=svd)", LOW),
    "projected, random base": Method("projected(base=random)", LOW),
    "projected, first indices": Method("projected", LOW, "index"),
    "projected, magnitude": Method("projected", LOW, "magnitude"),
    "pruned": Method("pruned", HIGH),
    "pruned, magnitude": Method("pruned", HIGH, "magnitude"),
    "pruned, first indices": Method("pruned", HIGH, "index"),
    "SVD start, no projections": Method("pruned(start=svd)", LOW),
    "scratch": Method("scratch", HIGH),
}
"""Methods by label. "first indices" keeps the first dimensions regardless of importance: a bad start on purpose."""
EQUAL_FLOPS = "pruned, equal FLOPs"


class Trial:
    """Runs, each trained once."""

    def __init__(self, base, store, validation, config, out):
        self._base, self._store, self._validation, self._config, self._out = base, store, validation, config, out
        self._run = load_run(base, store=store)
        self._table = out / "results.jsonl"
        self._rows = [row for _, row in jsonl.read(self._table)] if self._table.exists() else []

    def __call__(self, label, keep, learning_rate, seed, *, steps=None):
        """Returns the row of a run; trains it unless it is recorded."""
        steps = steps or self._config.steps
        key = dict(label=label, keep=keep, learning_rate=learning_rate, seed=seed, steps=steps)
        for row in self._rows:
            if all(row[name] == value for name, value in key.items()):
                return row
        shrink = shrink_of(label, keep)
        config = dataclasses.replace(self._config, learning_rate=learning_rate, seed=seed, steps=steps)
        folder, measured = self._out / "current", {}
        shutil.rmtree(folder, ignore_errors=True)  # from a killed run; a restart takes a minute
        found = shrink_run(
            self._base,
            self._store,
            shrink,
            config,
            out=folder,
            mesh_shape=(1, 1, 1),
            compilation_cache=self._out / "compiled",
            eval_fn_of=lambda model: self._evaluation(model, config, measured),
        )
        metrics = [json.loads(line) for line in (folder / TRAINING / "metrics.jsonl").read_text().splitlines()]
        row = key | {
            "d_model": found.model_config.d_model,
            "d_ff": found.model_config.d_ff,
            "kept": round(found.kept, 4),
            "trainable": found.trainable,
            "frozen": found.frozen,
            "tokens": steps * config.batch_size * config.seq_len,
            "flops": steps * self.flops_per_step(label, keep),
            "bits_per_byte": round(measured["bits_per_byte"], 6),
            "curve": [[m["step"], round(m["loss_nats_per_token"], 4)] for m in metrics if is_training_loss(m)],
        }
        self._rows.append(row)
        with self._table.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{label}, keep {keep}, rate {learning_rate:g}, seed {seed}: {row['bits_per_byte']:.4f}", flush=True)
        return row

    def flops_per_step(self, label, keep):
        """Returns the FLOPs of an update by formula: those of its tokens plus those of the projections."""
        c, shrink = self._config, shrink_of(label, keep)
        small, start = shapes_of(self._run.params, self._run.model_config, shrink, c)
        flops = models.training_flops_per_token(small, seq_len=c.seq_len) * c.batch_size * c.seq_len
        if start.params is None or not weights.holds_factors(start.params):
            return flops
        cost = weights.merge_cost(start.params, start.frozen)
        return flops + cost.forward + cost.pull_back

    def _evaluation(self, model, config, measured):
        evaluator = BitsPerByte(
            predict_fn(model, self._store.eod_id),
            store=self._validation,
            seq_len=config.seq_len,
            batch_size=16,
            mesh_shape=(1, 1, 1),
        )

        def evaluate(params, step):
            measured.update(evaluator.run(params))
            return dict(measured)

        return evaluate


def shrink_of(label: str, keep: float) -> Shrink:
    """Returns the Shrink settings of a row."""
    method = METHODS["pruned" if label == EQUAL_FLOPS else label]
    return Shrink(keep=keep, method=method.spec, importance=method.importance)


def is_training_loss(record: dict) -> bool:
    """Returns whether a record of metrics.jsonl is a training loss; evaluations also record a loss."""
    return "loss_nats_per_token" in record and "bits_per_byte" not in record


def best_rate(trial, label, keep, seed):
    """Returns the learning rate with the lowest loss; extends the range while the best rate is at an end."""
    rates = list(METHODS[label].rates)
    while True:
        losses = [trial(label, keep, rate, seed)["bits_per_byte"] for rate in rates]
        best = int(np.argmin(losses))
        if best == 0:
            rates.insert(0, float(f"{rates[0] / 10**0.5:.0e}"))
        elif best == len(rates) - 1:
            rates.append(float(f"{rates[-1] * 10**0.5:.0e}"))
        else:
            return rates[best]


def parsed_rate(parser: argparse.ArgumentParser, item: str) -> tuple[str, float]:
    """Returns the label and the rate of "LABEL=RATE"."""
    label, _, rate = item.rpartition("=")
    try:
        if label in METHODS and float(rate) > 0:
            return label, float(rate)
    except ValueError:
        pass
    parser.error(f"--rates {item!r} was given; expected LABEL=RATE, a rate above 0 and a label of {list(METHODS)}.")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=pathlib.Path, help="folder of the run to make smaller")
    parser.add_argument("--store", required=True, help="token store to train on")
    parser.add_argument("--validation_store", required=True, help="token store of validation documents")
    parser.add_argument("--gin", default="runs/projected_compression.gin", help="settings (default %(default)s)")
    parser.add_argument("--steps", type=int, default=100, help="updates per run (default %(default)s)")
    parser.add_argument("--keep", type=float, nargs="+", default=[0.5, 0.3, 0.1], help="shares of parameters kept")
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2], help="seeds")
    default = [label for label in METHODS if "magnitude" not in label]
    parser.add_argument("--methods", nargs="+", default=default, choices=METHODS, help="labels (default %(default)s)")
    parser.add_argument(
        "--rates", nargs="+", default=[], metavar="LABEL=RATE", help="learning rates; a method without one is left out"
    )
    parser.add_argument("--rates_at", type=float, nargs="+", default=[0.3, 0.1], help="shares at which rates are tried")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of results.jsonl")
    arguments = parser.parse_args()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    settings = {"steps": arguments.steps, "eval_every": 0, "log_every": 5, "checkpoint_every": arguments.steps}
    configuration.load([arguments.gin], [f"train.{name}={value}" for name, value in settings.items()])
    arguments.out.mkdir(parents=True, exist_ok=True)
    config = dataclasses.replace(configuration.train(), warmup_steps=max(arguments.steps // 10, 1))
    store, validation = TokenStore.open(arguments.store), TokenStore.open(arguments.validation_store)
    trial = Trial(arguments.base, store, validation, config, arguments.out)
    given = dict(parsed_rate(parser, item) for item in arguments.rates)
    labels = [label for label in arguments.methods if label in given] if given else arguments.methods
    tried = {
        (label, share): given[label] if given else best_rate(trial, label, share, arguments.seed[0])
        for share in arguments.rates_at
        for label in labels
    }
    rate = lambda label, keep: tried[label, min(arguments.rates_at, key=lambda share: abs(share - keep))]  # noqa: E731
    for seed in arguments.seed:
        for keep in arguments.keep:
            for label in labels:
                trial(label, keep, rate(label, keep), seed)
            if given or not {"projected", "pruned"} <= {*labels}:
                continue
            share = trial.flops_per_step("projected", keep) / trial.flops_per_step("pruned", keep)
            trial(EQUAL_FLOPS, keep, rate("pruned", keep), seed, steps=round(arguments.steps * share))
    shutil.rmtree(arguments.out / "current", ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
