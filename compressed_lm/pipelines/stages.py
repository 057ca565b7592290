"""What the verbs of the command line do, and what the demo does one after the other."""

import contextlib
import hashlib
import importlib.metadata
import json
import pathlib
import re
import time
from collections.abc import Callable, Iterable, Iterator

import jax
import numpy as np

from compressed_lm import codecs, io, scaling
from compressed_lm.codecs.eiw import COMPILED_BITS
from compressed_lm.codecs.protocol import Codec
from compressed_lm.coding import tables
from compressed_lm.data.store import TokenStore
from compressed_lm.errors import InputError
from compressed_lm.evaluation import BitsPerByte, flops_per_byte, predict_fn
from compressed_lm.models import count_params, exact, shift_right
from compressed_lm.tracking.progress import progress
from compressed_lm.training import load_run
from compressed_lm.training.checkpoints import folder
from compressed_lm.weights import representation

M1_FILE = "m1.npz"
PRETRAINED = "pretrained"
CALIBRATION_ROWS = 256
_VERSIONED = ("compressed_lm", "jax", "jaxlib", "flax", "optax", "numpy")


def codec_folder(spec: str) -> str:
    """Folder name of a codec: `eiw(align=word,b=12,v=4096)` -> `eiw-b12-v4096-word`."""
    name, options = codecs.parse_spec(spec)
    numbers = [f"{key}{value}" for key, value in sorted(options.items()) if isinstance(value, int)]
    words = [value for key, value in sorted(options.items()) if isinstance(value, str) and value != "none"]
    return "-".join([name, *numbers, *words])


def build_codec(
    spec: str, directory, *, m1: codecs.M1 | None, documents: Callable[[], Iterable[bytes]], compiled: dict
) -> Codec:
    """The codec in a directory; it is built and saved there first, unless that was done before.

    Args:
      spec, m1, documents: as for `codecs.create`.
      directory: its place.
      compiled: dictionaries of codecs built before, which are shared by the vocabularies that cut their windows
        differently; this one's is added.

    Raises:
      InputError: the directory holds a codec of another M1, on which token stores may rest.
    """
    name, options = codecs.parse_spec(codecs.canonical_spec(spec))
    windows = tuple(sorted((k, v) for k, v in options.items() if k != "v"))
    codec = codecs.load(directory) if (pathlib.Path(directory) / codecs.registry.HEADER).exists() else None
    if codec is not None and m1 is not None and codec.m1_hash not in (None, m1.hash):
        raise InputError(
            f"{directory} holds the codec {codec.spec} of the M1 {codec.m1_hash[:12]}, and the M1 given is "
            f"{m1.hash[:12]}. Give the M1 it was built with, or another folder."
        )
    if codec is None:
        n_codes = 1 << options["b"] if name == "eiw" and options["b"] <= COMPILED_BITS else None
        with progress(f"build {spec}", n_codes, unit="windows" if n_codes else "") as bar:
            codec = codecs.create(
                spec,
                m1=m1,
                documents=documents,
                progress=lambda n: bar.advance(n - bar.done),
                dictionary=compiled.get(windows),
            )
        codecs.save(codec, directory)
    compiled[windows] = getattr(codec, "dictionary", None)
    return codec


def export_m1(run_dir, store: TokenStore) -> codecs.M1:
    """The exact integer form of a trained byte model, also written to `m1.npz` in its folder.

    Args:
      run_dir: a finished training run over the `bytes` codec.
      store: the token store it was trained on; rows from all over it calibrate the ranges of activations.
    """
    run = load_run(run_dir)
    if run.codec_spec != "bytes":
        raise InputError(
            f"{run_dir} was trained on the codec {run.codec_spec}. M1 is a model over the codec bytes: train "
            "one with `compressed-lm train-m1`."
        )
    rows = store.rows(run.train_config.seq_len)
    chosen = np.linspace(0, len(rows) - 1, min(CALIBRATION_ROWS, len(rows))).astype(int)
    sample = np.stack([rows[int(i)] for i in chosen])
    m1 = codecs.M1(
        *exact.quantise(
            run.params, run.model_config, np.asarray(shift_right(sample, run.eod_id)), context=run.train_config.seq_len
        )
    )
    io.write_atomic(pathlib.Path(run_dir) / M1_FILE, m1.to_bytes())
    return m1


def load_m1(directory) -> codecs.M1:
    """The exact M1 in a folder that `train-m1` (or the demo) wrote, or the one that comes with the package
    (`PRETRAINED`)."""
    known = str(directory) == PRETRAINED
    path = (codecs.registry.PRETRAINED / "m1-en" if known else io.local_path(directory, "The folder of M1")) / M1_FILE
    if not path.exists():
        raise InputError(
            f"{directory} holds no {M1_FILE}. Give the folder that `compressed-lm train-m1` wrote, or {PRETRAINED}."
        )
    return codecs.M1.from_bytes(path.read_bytes())


def pretrained_m1(store: TokenStore) -> tuple[codecs.M1, dict]:
    """The M1 that comes with the package and its row of the run table, measured on a store of raw validation text.

    The row is that of its training; the bits per byte are those of its integer tables on this text.
    """
    m1 = load_m1(PRETRAINED)
    row = json.loads((codecs.registry.PRETRAINED / "m1-en" / "row.json").read_text())
    documents = [record.ids.astype(np.uint8).tobytes() for record in store.documents()]
    bits = exact_bits_per_byte(m1, documents)
    here = {"run": "m1", "bits_per_byte": bits, "m1_exact_bits_per_byte": bits, "representation": "int8"}
    nats = bits * store.n_bytes / (store.n_tokens + store.n_documents) * np.log(2)
    return m1, row | here | {"loss_nats_per_token": float(nats), "validation_bytes": store.n_bytes}


def exact_bits_per_byte(m1: codecs.M1, documents: list[bytes]) -> float:
    """Bits per byte that the integer tables assign to documents, ends included: what the coder would reach without
    rounding its interval."""
    symbols = [np.append(np.frombuffer(d, np.uint8).astype(np.int32), tables.END) for d in documents]
    context = m1.config.context
    rows = [np.pad(s, (0, -len(s) % context), constant_values=tables.END).reshape(-1, context) for s in symbols]
    freqs = np.split(m1.table_entries(np.concatenate(rows))[..., 1], np.cumsum([len(r) for r in rows])[:-1])
    bits = sum(16 * len(s) - np.log2(f.reshape(-1)[: len(s)]).sum() for s, f in zip(symbols, freqs, strict=True))
    return float(bits / max(sum(map(len, documents)), 1))


def evaluate_run(
    run_dir, *, codec: Codec, store: TokenStore, train_store: TokenStore, group: str = "m2", batch_size: int = 32
) -> dict:
    """One row of the run table: a trained model on the validation documents of its codec.

    Args:
      run_dir: the training run.
      codec: the codec its tokens come from.
      store: validation documents under this codec.
      train_store: what the run was trained on, which says how many bytes its tokens stand for.
      group: "m1" for M1 itself, "m2" for models that are compared.
      batch_size: rows evaluated at a time.

    Raises:
      InputError: codec, store and run do not belong together.
    """
    run = load_run(run_dir, codec=codec, store=store)
    predict = predict_fn(run.model_config, run.eod_id)
    values = dict(
        BitsPerByte(
            predict, store=store, seq_len=run.train_config.seq_len, batch_size=batch_size, mesh_shape=(1, 1, 1)
        ).run(run.params)
    )
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
        "bytes": round(tokens * train_store.n_bytes / (train_store.n_tokens + train_store.n_documents)),
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


def _representations(run) -> dict:
    """Columns on how a run's model is represented: spellings, GMSE, and the stored bits of a weight of the blocks."""
    columns = {"weights": run.weights, "activations": run.model_config.activations}
    kernels = [x.shape for path, x in jax.tree.leaves_with_path(run.params["layers"]) if path[-1].key == "kernel"]
    forms = {name: representation(spec) for name, spec in columns.items()}
    try:
        bits = [forms["weights"].bits_per_weight(shape) for shape in kernels]
        columns["bits_per_weight"] = float(np.average(bits, weights=[np.prod(shape) for shape in kernels]))
    except InputError:  # noise has no stored form
        columns["bits_per_weight"] = None
    described = [run.model_config.dtype, *(f"{name}={form}" for name, form in forms.items() if str(form) != "dense")]
    gmse = {f"gmse_{name}": form.gmse() for name, form in forms.items()}
    return {"representation": " ".join(described), "packed": run.packed is not None} | columns | gmse


def versions() -> dict[str, str]:
    """Versions of the packages that results depend on."""
    return {name: importlib.metadata.version(name) for name in _VERSIONED}


def ratio_row(codec: Codec, store: TokenStore, m1_bits_per_byte: float | None) -> dict:
    """How well a codec compresses a validation store, end-of-document tokens left out."""
    bytes_per_token = store.n_bytes / store.n_tokens
    return {
        "codec": codec.spec,
        "vocab_size": codec.vocab_size,
        "bytes_per_token": bytes_per_token,
        "bits_per_byte_of_text": float(np.log2(codec.vocab_size) / bytes_per_token),
        "m1_bits_per_byte": m1_bits_per_byte if codec.m1_hash else None,
    }


def curve_rows(run_dir, row: dict) -> list[dict]:
    """The learning curve of a run, from its metrics.jsonl: validation bits per byte against bytes of text trained
    on."""
    bytes_per_training_token = row["bytes"] / row["tokens"]
    tokens_per_step = row["tokens"] / row["step"]
    rows = []
    for _, record in scaling.read_jsonl(pathlib.Path(run_dir) / "metrics.jsonl", skip_damaged=True):
        if "bits_per_byte" in record and "step" in record:
            tokens = round(record["step"] * tokens_per_step)
            rows.append(
                {"codec": row["codec"], "n_params": row["n_params"], "step": record["step"], "tokens": tokens}
                | {"bytes": round(tokens * bytes_per_training_token), "bits_per_byte": record["bits_per_byte"]}
            )
    return rows


def write_jsonl(path, rows: list[dict]) -> None:
    """Writes a small table in one piece."""
    io.write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))


def say_now(line: str) -> None:
    """Prints a line at once, also into a log file."""
    print(line, flush=True)


@contextlib.contextmanager
def stage(name: str, log: list[dict], *, say: Callable[[str], None] = say_now) -> Iterator[list[str]]:
    """Times a stage; what the block appends to the list becomes the one line that says what it did."""
    done: list[str] = []
    say(f"[{name}] ...")
    start = time.monotonic()
    yield done
    seconds = time.monotonic() - start
    line = " ".join(done)
    log.append({"name": name, "seconds": round(seconds, 1), "line": line})
    say(f"[{name}] {seconds:.0f} s: {line}")


def describe_devices() -> str:
    """One line on where computations run."""
    devices = jax.devices()
    return (
        f"{len(devices)} {devices[0].platform} device{'s' if len(devices) > 1 else ''} "
        f"({re.sub(r'(?i)^cpu$', 'virtual' if len(devices) > 1 else 'host', devices[0].device_kind)})"
    )
