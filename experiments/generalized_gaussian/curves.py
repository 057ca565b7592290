"""Bits per weight and loss of finished runs, a row for each run and storage method.

    python experiments/generalized_gaussian/curves.py runs/backslash --out experiments/recorded/generalized_gaussian

Reads the folder of a `compressed-lm sweep`, changes the block matrices of each run by every method of `ways`
(embeddings, norms and the output layer are unchanged), counts their bits, and evaluates the model on the validation
text of the sweep. Appends to OUT/curves.jsonl; rows in the file are not measured again.
"""

import argparse
import functools
import json
import pathlib
import sys

import jax

from compressed_lm.data.store import TokenStore
from compressed_lm.errors import InputError
from compressed_lm.evaluation import BitsPerByte, predict_fn
from compressed_lm.io import jsonl
from compressed_lm.models.partitioning import by_name, path_name
from compressed_lm.tracking.progress import progress
from compressed_lm.training import load_run
from compressed_lm.weights import rates

STEPS = ("0.0625std", "0.125std", "0.25std", "0.5std", "1std")
PRUNED = (0.5, 0.6, 0.7, 0.8, 0.9)
FORMATS = (*(f"int(b={b})" for b in range(2, 7)), "e4m3", "e5m2", "rf8", "rf8(round=authors)")


def ways() -> dict[str, rates.Method]:
    """Returns storage methods by name."""
    found: dict[str, rates.Method] = {"float32": rates.floats}
    found |= {f"step={step}": functools.partial(rates.coded, step=step) for step in STEPS}
    found |= {f"prune={s}": functools.partial(rates.formatted, form=f"sparse(s={s})") for s in PRUNED}
    found |= {f"prune={s}+step=0.25std": functools.partial(rates.pruned, s=s) for s in PRUNED}
    found |= {form: functools.partial(rates.formatted, form=form) for form in FORMATS}
    return found | {"deepshape": rates.deepshaped, "scaled as by deepshape": rates.scaled}


def measure(sweep: pathlib.Path, out: pathlib.Path, *, only: str | None, stride: int) -> None:
    """Appends missing rows to OUT/curves.jsonl."""
    out.mkdir(parents=True, exist_ok=True)
    table = out / "curves.jsonl"
    known = {(row["run"], row["way"]) for _, row in jsonl.read(table)} if table.exists() else set()
    todo = []
    for _, row in jsonl.read(sweep / "runs.jsonl"):
        name = f"{sweep.name}/{row['run']}"
        missing = [way for way in ways() if (name, way) not in known and (only is None or only in way)]
        todo += [(name, row, missing)] if row["final"] and missing else []
    evaluators = {}
    with progress("measure", sum(len(missing) for *_, missing in todo), unit="models") as bar:
        for name, row, missing in todo:
            run = load_run(sweep / row["run"])
            params = jax.device_get(run.params)
            key = run.codec_spec, str(run.model_config)
            if key not in evaluators:
                evaluators[key] = _evaluator(sweep, run, stride)
            for way in missing:
                new, bits = ways()[way](_kernels(params))
                measured = dict(evaluators[key].run(jax.device_put(_replaced(params, new))))
                entry = {
                    "run": name,
                    "codec": row["codec"],
                    "tokens": row["tokens"],
                    "n_nonembed": row["n_nonembed"],
                    "seed": row["seed"],
                    "penalty": run.train_config.penalty,
                    "weight_decay": run.train_config.weight_decay,
                    "init_shape": run.model_config.init_shape,
                    "way": way,
                    **{what: round(float(value), 5) for what, value in bits.items()},
                    "bits_per_byte": round(measured["bits_per_byte"], 6),
                }
                with table.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(entry) + "\n")
                bar.advance(1)


def _kernels(params):
    return {name: w for name, w in by_name(params["layers"]).items() if name.endswith("kernel")}


def _replaced(params, kernels):
    return params | {
        "layers": jax.tree.map_with_path(lambda path, x: kernels.get(path_name(path), x), params["layers"])
    }


def _evaluator(sweep, run, stride):
    stores = [TokenStore.open(path) for path in sorted(sweep.glob("stores/*/validation"))]
    (store,) = (store for store in stores if store.codec_fingerprint == run.codec_fingerprint)
    predict = predict_fn(run.model_config, run.eod_id)
    return BitsPerByte(predict, store=store, seq_len=run.train_config.seq_len, stride=stride)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=pathlib.Path, help="folder of a sweep")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of curves.jsonl")
    parser.add_argument("--only", help="only ways whose name contains this, such as step= or prune=")
    parser.add_argument("--stride", type=int, default=4, help="evaluate on every n-th row (default %(default)s)")
    arguments = parser.parse_args()
    try:
        measure(arguments.sweep, arguments.out, only=arguments.only, stride=arguments.stride)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
