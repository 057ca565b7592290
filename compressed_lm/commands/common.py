"""What several verbs read from the command line."""

import sys

from compressed_lm import io

GIN = "config.gin"
"""The resolved configuration in the folder of a run."""


def messages(path: str | None):
    """Returns where messages go: to stderr where what is written to a path goes to stdout."""
    return sys.stderr if path and io.is_stdout(path) else sys.stdout


def configure(arguments) -> str:
    """Loads the configuration of --gin, --set and their shorthands, and returns it resolved."""
    from compressed_lm import configuration

    bindings = list(arguments.set)
    for name, target in (("size", "model.size"), ("steps", "train.steps"), ("seed", "train.seed")):
        if getattr(arguments, name, None) is not None:
            bindings.append(f"{target}={getattr(arguments, name)}")
    return configuration.load(arguments.gin or arguments.gin_default, bindings)


def load_codec(directory: str):
    """Returns the codec of a --codec: a directory, a file, a name, or `bytes`."""
    from compressed_lm import codecs

    return codecs.Bytes() if directory == "bytes" else codecs.load(directory)


def validation(folder: str | None, model_config, store, train_config, mesh):
    """Returns the `eval_fn` of a training run on the token store of --validation_tokens, or None."""
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
