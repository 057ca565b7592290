"""Rows of the run table for trained models."""

import hashlib
import importlib.metadata
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from compressed_lm import io
from compressed_lm.codecs.protocol import Codec
from compressed_lm.codecs.special_tokens import special_tokens_of
from compressed_lm.data.store import TokenStore
from compressed_lm.errors import InputError
from compressed_lm.evaluation.bits_per_byte import BitsPerByte, batch_size_for, predict_fn, row_length
from compressed_lm.evaluation.flops import flops_per_byte
from compressed_lm.io import jsonl
from compressed_lm.models import count_params
from compressed_lm.tracking.progress import progress
from compressed_lm.training import Run, load_run
from compressed_lm.training.checkpoints import folder
from compressed_lm.training.run_dir import read_record
from compressed_lm.weights import representation

PRINTED = (
    *("bits_per_byte", "loss_nats_per_token", "bytes_per_token"),
    *("flops_per_byte", "flops_per_byte_softmax", "flops_per_byte_runtime", "n_nonembed", "step"),
)
"""Columns printed by `compressed-lm evaluate`."""

_VERSIONED = ("compressed_lm", "jax", "jaxlib", "flax", "optax", "numpy")


def evaluate_run(
    run_dir: str | os.PathLike,
    *,
    codec: Codec,
    store: TokenStore,
    train_store: TokenStore | None = None,
    group: str = "m2",
    batch_size: int | None = None,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Returns one row of the run table: a trained model on the validation documents of its codec.

    Args:
        run_dir: the training run.
        codec: the codec of its tokens.
        store: validation documents under this codec.
        train_store: the store that the run was trained on; gives the bytes of its training tokens. An imported run that
            was not trained further needs none.
        group: "m1" for M1 itself, "m2" for models that are compared.
        batch_size: largest number of rows evaluated at a time; by default as of `batch_size_for`.
        show_progress: whether a bar with the remaining time is shown on stderr.

    Raises:
        InputError: codec, store and run do not belong together, or the run was trained and has no `train_store`.
    """
    record = read_record(folder(run_dir)) or {}
    run = load_run(run_dir, codec=codec, store=store)
    if run.step and train_store is None:
        raise InputError(
            f"{run_dir} was trained for {run.step:,} steps, and no store of its training text was given, which gives "
            "the bytes that it has read. Give it: --train_store DIR. (An imported run that was not trained further "
            "needs none.)"
        )
    length = row_length(store, run.train_config.seq_len)
    first = special_tokens_of(codec, record["imported"]).first if "imported" in record else run.eod_id
    evaluator = BitsPerByte(
        predict_fn(run.model_config, first),
        store=store,
        seq_len=run.train_config.seq_len,
        batch_size=batch_size or batch_size_for(run.model_config, length),
        mesh_shape=(1, 1, 1),
    )
    if show_progress:
        with progress(f"evaluate {run_dir}", evaluator.n_rows, unit="rows") as bar:
            values = dict(evaluator.run(run.params, advance=bar.advance))
    else:
        values = dict(evaluator.run(run.params))
    counts, flops = count_params(run.model_config), flops_per_byte(run.model_config, codec, store)
    tokens = run.step * run.train_config.batch_size * run.train_config.seq_len
    return {
        "run": str(run_dir),
        "group": group,
        "codec": run.codec_spec,
        **_representations(run),
        "n_params": counts.total,
        "n_nonembed": counts.non_embedding,
        "tokens": tokens,
        "bytes": _bytes_read(tokens, train_store),
        "flops_per_byte": flops.paper,
        "flops_per_byte_softmax": flops.softmax,
        "flops_per_byte_runtime": flops.runtime,
        "loss_nats_per_token": values["loss_nats_per_token"],
        "bits_per_byte": values["bits_per_byte"],
        "bytes_per_token": store.n_bytes / (store.n_tokens + store.n_documents),
        "validation_bytes": store.n_bytes,
        "seed": run.train_config.seed,
        "step": run.step,
        "final": run.step == run.train_config.steps,
        "config_hash": hashlib.sha256((folder(run_dir) / "config.json").read_bytes()).hexdigest()[:16],
        "versions": versions(),
    }


def _bytes_read(tokens: int, store: TokenStore | None) -> int:
    return round(tokens * store.n_bytes / (store.n_tokens + store.n_documents)) if store else 0


def _representations(run: Run) -> dict[str, Any]:
    """Returns columns on number formats: their specs, GMSE, and stored bits per weight of the blocks."""
    columns: dict[str, Any] = {"weights": run.weights, "activations": run.model_config.activations}
    kernels = [x.shape for path, x in jax.tree.leaves_with_path(run.params["layers"]) if path[-1].key == "kernel"]
    forms = {name: representation(spec) for name, spec in columns.items()}
    try:
        bits = [forms["weights"].bits_per_weight(shape) for shape in kernels]
        columns["bits_per_weight"] = float(np.average(bits, weights=[np.prod(shape) for shape in kernels]))
    except InputError:  # noise cannot be stored
        columns["bits_per_weight"] = None
    described = [run.model_config.dtype, *(f"{name}={form}" for name, form in forms.items() if str(form) != "dense")]
    gmse = {f"gmse_{name}": form.gmse() for name, form in forms.items()}
    return {"representation": " ".join(described), "packed": run.packed is not None} | columns | gmse


def versions() -> dict[str, str]:
    """Returns the versions of the packages that results depend on."""
    return {name: importlib.metadata.version(name) for name in _VERSIONED}


def ratio_row(codec: Codec, store: TokenStore, m1_bits_per_byte: float | None) -> dict[str, Any]:
    """Returns the compression of a validation store by its codec, without end-of-document tokens."""
    bytes_per_token = store.n_bytes / store.n_tokens
    return {
        "codec": codec.spec,
        "vocab_size": codec.vocab_size,
        "bytes_per_token": bytes_per_token,
        "bits_per_byte_of_text": float(np.log2(codec.vocab_size) / bytes_per_token),
        "m1_bits_per_byte": m1_bits_per_byte if codec.m1_hash else None,
    }


def curve_rows(run_dir: str | os.PathLike, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the learning curve of a run: validation bits per byte against bytes of training text.

    Args:
        run_dir: the training run; its metrics.jsonl is read.
        row: its row of the run table.
    """
    bytes_per_training_token = row["bytes"] / row["tokens"]
    tokens_per_step = row["tokens"] / row["step"]
    rows = []
    for _, record in jsonl.read(io.any_path(run_dir, "The run") / "metrics.jsonl", skip_damaged=True):
        if "bits_per_byte" in record and "step" in record:
            tokens = round(record["step"] * tokens_per_step)
            rows.append(
                {"codec": row["codec"], "n_params": row["n_params"], "step": record["step"], "tokens": tokens}
                | {"bytes": round(tokens * bytes_per_training_token), "bits_per_byte": record["bits_per_byte"]}
            )
    return rows
