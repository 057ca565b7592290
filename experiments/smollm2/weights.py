"""Weights of a pretrained model: their distributions, and bits per weight against bits per byte of text.

    python experiments/smollm2/weights.py runs/smollm2 --store stores/smollm2/validation \\
      --out experiments/recorded/smollm2

Part "shapes" fits generalized Gaussians to every matrix of the blocks, to its gradient on `--rows` rows of text, and
to its outputs there (OUT/shapes.jsonl). Part "rates" stores the matrices of the blocks by every method of `ways`,
and evaluates the model on the documents of the store (OUT/rates.jsonl, with the bits of each document). Rows in the
files are not measured again.
"""

import argparse
import functools
import json
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from compressed_lm.data.store import TokenStore
from compressed_lm.errors import InputError
from compressed_lm.evaluation.document_bits import document_bits
from compressed_lm.io import jsonl
from compressed_lm.models import Transformer, shift_right, unstack
from compressed_lm.models.layers import Block, Dense
from compressed_lm.models.partitioning import by_name, path_name
from compressed_lm.tracking.progress import progress
from compressed_lm.training import load_run
from compressed_lm.training.step import eval_step
from compressed_lm.weights import fits, rates

STEPS = ("0.05std", "0.1std", "0.15std", "0.2std", "0.25std", "0.3std", "0.4std", "0.5std")
FORMATS = (
    *(f"int(b={b})" for b in (4, 5, 6, 8)),
    *("int(b=3,g=32)", "int(b=4,g=32)", "int(b=8,g=32)", "int(b=4,g=32,scale=absmax)", "int(b=8,g=32,scale=absmax)"),
    *("outlier(p=0.01,b=4,g=32)", "outlier(p=0.01,b=8,g=32)", "mxfp4", "nvfp4"),
    *("e4m3", "e5m2", "rf8", "rf8(round=authors)"),
)
SAMPLE = 100_000
"""Largest number of values that a distribution is fitted to; the standard error of a shape of 1.5 is then 0.01."""


def ways() -> dict[str, rates.Method]:
    """Returns storage methods by name."""
    found: dict[str, rates.Method] = {"float32": rates.floats}
    found |= {f"step={step}": functools.partial(rates.coded, step=step) for step in STEPS}
    found |= {form: functools.partial(rates.formatted, form=form) for form in FORMATS}
    return found | {"deepshape": rates.deepshaped, "scaled as by deepshape": rates.scaled}


def measure_shapes(run, store, out, *, seq_len, rows):
    """Appends missing rows to OUT/shapes.jsonl: a fit per matrix, layer and kind of values."""
    table = out / "shapes.jsonl"
    known = {row["what"] for _, row in jsonl.read(table)} if table.exists() else set()
    text = store.rows(seq_len, drop_remainder=True)
    targets = np.stack([text[i] for i in range(min(rows, len(text)))])
    makers = {
        "weight": lambda: kernels_of(run.params),
        "gradient": lambda: kernels_of(gradients(run, targets)),
        "output": lambda: outputs(run, targets),
    }
    for what in makers.keys() - known:
        made, found = makers[what](), []
        with progress(f"fit {what}s", sum(len(w) for w in made.values()), unit="matrices") as bar:
            for name, stack in made.items():
                for layer, w in enumerate(stack):
                    found.append(fitted(what, name, layer, w))
                    bar.advance(1)
        append(table, found)


def fitted(what, name, layer, w):
    """Returns the row of the fit of one array."""
    flat = np.asarray(w, np.float64).reshape(-1)
    rng = np.random.default_rng(0)
    sample = flat if flat.size <= SAMPLE else rng.choice(flat, SAMPLE, replace=False)
    fit = fits.fit_tensor(sample / flat.std(), name, loc=0.0)
    return {
        "what": what,
        "name": name.removesuffix("/kernel"),
        "layer": layer,
        "n": flat.size,
        "std": float(f"{flat.std():.6g}"),
        "kurtosis": round(float(np.mean(flat**4) / np.mean(flat**2) ** 2), 3),
        "zeros": round(float(np.mean(flat == 0)), 6),
        "shape_mle": round(fit.shape_mle, 4),
        "shape_moments": round(fit.shape_moments, 4),
        "shape_error": round(fit.shape_error, 4),
        "best": fit.best.family,
        "lead_nats": round(fit.margin, 5),
    }


def gradients(run, targets):
    """Returns the gradient of the mean loss of rows of text in all parameters, one row at a time."""
    model = Transformer(run.model_config)

    @jax.jit
    def of_row(params, row):
        def loss(params):
            nats, n = eval_step(params, row[None], model=model, eod_id=run.eod_id)
            return nats / n

        return jax.grad(loss)(params)

    total = None
    for row in targets:
        new = of_row(run.params, row)
        total = new if total is None else jax.tree.map(jnp.add, total, new)
    return jax.tree.map(lambda x: x / len(targets), total)


def outputs(run, targets):
    """Returns the outputs of every matrix of the blocks on rows of text, by name, [n_layers, tokens, features]."""
    config = run.model_config
    block = Block(config, parent=None)

    @jax.jit
    def step(layer, x):
        captured = lambda module, method: isinstance(module, Dense) and method == "__call__"  # noqa: E731
        return block.apply({"params": layer}, x, capture_intermediates=captured, mutable=["intermediates"])

    table = np.asarray(run.params["embed"]["embedding"])
    x = jnp.asarray(table[np.asarray(shift_right(targets, run.eod_id))])
    found = {}
    for layer in unstack(run.params["layers"], config.n_layers):
        x, state = step(layer, x)
        for path, values in jax.tree.leaves_with_path(state["intermediates"]):
            name = "/".join(str(key.key) for key in path if hasattr(key, "key") and key.key != "__call__")
            flat = np.asarray(values).reshape(-1)
            chosen = np.random.default_rng(0).choice(flat.size, min(4 * SAMPLE, flat.size), replace=False)
            found.setdefault(name, []).append(flat[chosen])
    return found


def measure_rates(run, store, out, *, seq_len):
    """Appends missing rows to OUT/rates.jsonl: bits per weight and bits per byte of each storage method."""
    table = out / "rates.jsonl"
    known = {row["way"] for _, row in jsonl.read(table)} if table.exists() else set()
    params = jax.device_get(run.params)
    kernels = kernels_of(params)
    todo = [way for way in ways() if way not in known]
    with progress("measure", len(todo), unit="methods") as bar:
        for way in todo:
            start = time.process_time()
            stored, rate = ways()[way](kernels)
            error = sum(np.sum(np.square(stored[k] - w)) for k, w in kernels.items())
            layers = jax.tree.map_with_path(lambda p, x: stored.get(path_name(p), x), params["layers"])  # noqa: B023
            changed = jax.device_put(params | {"layers": layers})
            bits, n_bytes = document_bits(changed, run.model_config, store, seq_len=seq_len, batch_size=4)
            row = {
                "way": way,
                **{name: round(float(value), 5) for name, value in rate.items()},
                "error": float(f"{error / sum(np.sum(np.square(w)) for w in kernels.values()):.5g}"),
                "bits_per_byte": round(float(bits.sum() / n_bytes.sum()), 6),
                "document_bits": [round(float(b), 3) for b in bits],
                "document_bytes": n_bytes.tolist(),
                "cpu_seconds": round(time.process_time() - start, 1),
            }
            append(table, [row])
            bar.advance(1)


def kernels_of(params):
    """Returns the matrices of the blocks by name, [n_layers, inputs, outputs]."""
    leaves = by_name(jax.device_get(params["layers"]))
    return {name: w for name, w in leaves.items() if name.endswith("/kernel")}


def append(table, rows):
    """Appends rows to a file of JSON lines."""
    with table.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=pathlib.Path, help="folder of the imported run")
    parser.add_argument("--store", required=True, help="token store of the text, of the codec of the run")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the rows")
    parser.add_argument("--seq_len", type=int, default=1024, help="tokens per row (default %(default)s)")
    parser.add_argument("--rows", type=int, default=8, help="rows for gradients and outputs (default %(default)s)")
    parser.add_argument("--parts", nargs="+", default=["shapes", "rates"], choices=("shapes", "rates"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    try:
        store = TokenStore.open(arguments.store)
        run = load_run(arguments.run, store=store)
        if "shapes" in arguments.parts:
            measure_shapes(run, store, arguments.out, seq_len=arguments.seq_len, rows=arguments.rows)
        if "rates" in arguments.parts:
            measure_rates(run, store, arguments.out, seq_len=arguments.seq_len)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
