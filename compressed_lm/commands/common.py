"""Steps shared by several commands."""

import argparse
import sys
from typing import TextIO

from compressed_lm import io
from compressed_lm.errors import InputError

GIN = "config.gin"
"""File name of the resolved configuration in the folder of a run."""


def messages(path: str | None) -> TextIO:
    """Returns the stream for messages: stderr if `path` is stdout, else stdout."""
    return sys.stderr if path and io.is_stdout(path) else sys.stdout


def configure(arguments: argparse.Namespace) -> str:
    """Loads the configuration of --gin, --set, --size, --steps and --seed, and returns the resolved text."""
    from compressed_lm import configuration

    bindings = list(arguments.set)
    for name, target in (("size", "model.size"), ("steps", "train.steps"), ("seed", "train.seed")):
        if getattr(arguments, name, None) is not None:
            bindings.append(f"{target}={getattr(arguments, name)}")
    return configuration.load(arguments.gin or arguments.gin_default, bindings)


def load_codec(directory: str):
    """Returns the codec that --codec names: a directory, a file, the name of a shipped codec, or `bytes`."""
    from compressed_lm import codecs

    return codecs.Bytes() if directory == "bytes" else codecs.load(directory)


def load_codec_of(run: str, directory: str | None):
    """Returns the codec that --codec names, by default the one in the folder of a run."""
    from compressed_lm.training.run_dir import own_codec

    if directory is None and (own := own_codec(run)):
        return load_codec(str(own))
    if directory is None:
        raise InputError(
            f"{run} holds no codec, as imported runs do, and none was given. Give the codec that made its tokens: "
            "--codec DIR."
        )
    return load_codec(directory)


def validation(folder: str | None, model_config, store, train_config, mesh):
    """Returns the `eval_fn` of a training run on the token store of --validation_store, or None."""
    if folder is None:
        return None
    from compressed_lm.data.store import TokenStore
    from compressed_lm.evaluation import BitsPerByte, predict_fn

    evaluator = BitsPerByte(
        predict_fn(model_config, store.eod_id),
        store=TokenStore.open(folder, fingerprint=store.codec_fingerprint),
        seq_len=train_config.seq_len,
        batch_size=train_config.batch_size,
        mesh_shape=mesh,
    )
    return lambda params, step: dict(evaluator.run(params))


def show_table(table, *, file: TextIO | None = None) -> None:
    """Prints a rich table; outside a terminal at least 150 characters wide."""
    from rich.console import Console

    console = Console(file=file)
    if not console.is_terminal:
        console.width = max(console.width, 150)
    console.print(table)
