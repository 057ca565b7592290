"""Dictionary codec from a trained M1, with refit rounds: `compressed-lm compile`."""

import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np

from compressed_lm import codecs, io
from compressed_lm.codecs.eiw import EIW
from compressed_lm.data.store import TokenStore
from compressed_lm.data.window_starts import WindowStarts
from compressed_lm.errors import InputError
from compressed_lm.exact import calibration
from compressed_lm.models import shift_right
from compressed_lm.pipelines.build_codec import build
from compressed_lm.pipelines.m1 import CALIBRATION_ROWS, load_m1
from compressed_lm.terminal import print_flush
from compressed_lm.training import Start, TrainConfig, load_run, train

START_CONTEXT = 64
"""Bytes after the start of a window in refit rows: the context of a codec with b up to 16."""

REFIT = TrainConfig(
    steps=400,
    batch_size=64,
    seq_len=START_CONTEXT,
    learning_rate=4e-3,
    warmup_steps=20,
    schedule="wsd",
    optimizer="muon",
    log_every=50,
    checkpoint_every=200,
)
REFIT_BYTES = 40_000_000


def refit(
    spec: str,
    m1_dir: str | pathlib.Path,
    *,
    rounds: int,
    out: str | pathlib.Path,
    config: TrainConfig = REFIT,
    max_bytes: int = REFIT_BYTES,
    report: Callable[[str], None] = print_flush,
) -> codecs.Codec:
    """Returns a dictionary codec whose M1 is trained on rows that start at windows.

    Each round parses M1's training text with the current dictionary, continues the training of M1 on rows that start at
    windows, and compiles the dictionary again. This helps because the first byte of a window is not a random byte.
    Finished rounds are kept and not repeated. The result is the round with the most bytes per token on the training
    text.

    Args:
        spec: a compiled codec, such as `eiw(b=16,fill=best,v=65536)`.
        m1_dir: output folder of `train-m1`.
        rounds: number of refit rounds; 0 only compiles.
        out: folder for the rounds.
        config: training configuration of one round.
        max_bytes: bytes of text to parse.
        report: receives one line per round.

    Raises:
        InputError: the folder holds rounds of another spec or M1, or the spec has no dictionary.
    """
    spec, out = codecs.canonical_spec(spec), io.local_path(out, "The folder of the rounds")
    run, store = load_run(m1_dir), TokenStore.open(pathlib.Path(m1_dir) / "tokens")
    codec = best = _compiled(spec, load_m1(m1_dir), out / "round-0")
    best_ratio = 0.0
    for round_ in range(rounds + 1):
        starts = WindowStarts(store, codec, max_bytes=max_bytes)
        report(f"round {round_}: {starts.bytes_per_token:.4f} bytes per token on the training text")
        if starts.bytes_per_token > best_ratio:
            best_ratio, best = starts.bytes_per_token, codec
        if round_ == rounds:
            break
        folder = out / f"round-{round_ + 1}"
        config = dataclasses.replace(config, seed=config.seed + 1)
        result = train(config, run.model_config, starts, out=folder, start=Start(run.params))
        run = dataclasses.replace(run, params=result.params)
        sample = np.stack([starts.rows(START_CONTEXT)[i] for i in _spread(starts, CALIBRATION_ROWS * 4)])
        inputs = np.asarray(shift_right(sample, starts.eod_id))
        m1 = codecs.M1(*calibration.quantise(run.params, run.model_config, inputs, context=START_CONTEXT))
        codec = _compiled(spec, m1, folder)
    return best


def _compiled(spec: str, m1: codecs.M1, folder: pathlib.Path) -> codecs.Codec:
    """Returns the codec compiled in a folder with this M1; compiles it if it does not exist.

    Raises:
        InputError: the folder holds the codec of another spec or M1, or the spec has no dictionary.
    """
    path = folder / "codec.clmd"
    if path.exists():
        codec = codecs.load(path)
        if (codec.spec, codec.m1_hash) != (spec, m1.hash):
            raise InputError(
                f"{path} holds {codec.spec} of the M1 {str(codec.m1_hash)[:12]}, and {spec} of the M1 {m1.hash[:12]} "
                "was requested. Give the settings with which its rounds were started, or another output file."
            )
        return codec
    codec = build(spec, m1=m1)
    if not isinstance(codec, EIW):
        raise InputError(f"The codec {spec} has no dictionary. Expected a compiled codec, such as eiw(b=16,v=65536).")
    codecs.save_dictionary(codec, path)
    return codec


def _spread(starts: WindowStarts, n: int) -> list[int]:
    return np.linspace(0, len(starts.rows(START_CONTEXT)) - 1, n).astype(int).tolist()
