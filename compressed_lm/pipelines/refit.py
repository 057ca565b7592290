"""From a trained M1 to a dictionary codec: `compressed-lm compile`."""

import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np

from compressed_lm import codecs, io
from compressed_lm.data.store import TokenStore
from compressed_lm.data.window_starts import WindowStarts
from compressed_lm.errors import InputError
from compressed_lm.models import exact, shift_right
from compressed_lm.pipelines.build_codec import build
from compressed_lm.pipelines.m1 import CALIBRATION_ROWS, load_m1
from compressed_lm.terminal import print_flush
from compressed_lm.training import Start, TrainConfig, load_run, train

START_CONTEXT = 64
"""Bytes from a window's start on that M1 is refitted to: the context of a codec with b up to 16."""

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
    """A dictionary codec whose M1 knows where its windows start.

    Each round parses M1's training text with the present dictionary, trains M1 on from where it was, on rows that begin
    at its windows, and compiles the dictionary again: the first byte of a window is no random byte. What a round has
    finished is kept, and the best round, in bytes per token on the training text, is returned.

    Args:
        spec: a compiled codec, such as `eiw(b=16,fill=best,v=65536)`.
        m1_dir: a folder that `train-m1` wrote.
        rounds: how often to refit; 0 only compiles.
        out: folder for the rounds.
        config: of one round's training.
        max_bytes: text to parse.
    """
    spec, out = codecs.canonical_spec(spec), io.local_path(out, "The folder of the rounds")
    run, store = load_run(m1_dir), TokenStore.open(pathlib.Path(m1_dir) / "tokens")
    codec, best = _compiled(spec, load_m1(m1_dir), out / "round-0"), None
    for round_ in range(rounds + 1):
        starts = WindowStarts(store, codec, max_bytes=max_bytes)
        report(f"round {round_}: {starts.bytes_per_token:.4f} bytes per token on the training text")
        if best is None or starts.bytes_per_token > best[0]:
            best = starts.bytes_per_token, codec
        if round_ == rounds:
            break
        folder = out / f"round-{round_ + 1}"
        config = dataclasses.replace(config, seed=config.seed + 1)
        result = train(config, run.model_config, starts, out=folder, start=Start(run.params))
        run = dataclasses.replace(run, params=result.params)
        sample = np.stack([starts.rows(START_CONTEXT)[i] for i in _spread(starts, CALIBRATION_ROWS * 4)])
        inputs = np.asarray(shift_right(sample, starts.eod_id))
        m1 = codecs.M1(*exact.quantise(run.params, run.model_config, inputs, context=START_CONTEXT))
        codec = _compiled(spec, m1, folder)
    return best[1]


def _compiled(spec: str, m1: codecs.M1, folder: pathlib.Path) -> codecs.Codec:
    """The codec that an earlier call compiled in a folder with this M1, or a new one.

    Raises:
        InputError: the folder holds the codec of another spec or another M1.
    """
    path = folder / "codec.clmd"
    if path.exists():
        codec = codecs.load(path)
        if (codec.spec, codec.m1_hash) != (spec, m1.hash):
            raise InputError(
                f"{path} holds {codec.spec} of the M1 {codec.m1_hash[:12]}, and {spec} of the M1 {m1.hash[:12]} was "
                "asked for. Give the settings that its rounds were started with, or another file to write."
            )
        return codec
    codec = build(spec, m1=m1)
    codecs.save_dictionary(codec, path)
    return codec


def _spread(starts: WindowStarts, n: int) -> list[int]:
    return np.linspace(0, len(starts.rows(START_CONTEXT)) - 1, n).astype(int).tolist()
