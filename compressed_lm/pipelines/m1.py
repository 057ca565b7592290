"""Byte model M1: conversion of a trained run to exact integers, and loading."""

import json
import os
from typing import Any

import numpy as np

from compressed_lm import codecs, io
from compressed_lm.data.store import TokenStore
from compressed_lm.errors import InputError
from compressed_lm.exact import calibration
from compressed_lm.models import shift_right
from compressed_lm.training import load_run

M1_FILE = "m1.npz"
PRETRAINED = "pretrained"
CALIBRATION_ROWS = 256


def export_m1(run_dir: str | os.PathLike, store: TokenStore) -> codecs.M1:
    """Returns the exact integer form of a trained byte model, and writes it to `m1.npz` in its folder.

    Args:
        run_dir: a finished training run over the `bytes` codec.
        store: the token store it was trained on; rows spread over the store calibrate the ranges of activations.

    Raises:
        InputError: the run has another codec.
    """
    run = load_run(run_dir)
    if run.codec_spec != "bytes":
        raise InputError(
            f"{run_dir} was trained on the codec {run.codec_spec}. Expected a model over the codec bytes: train one "
            "with `compressed-lm train-m1`."
        )
    rows = store.rows(run.train_config.seq_len)
    chosen = np.linspace(0, len(rows) - 1, min(CALIBRATION_ROWS, len(rows))).astype(int)
    sample = np.stack([rows[int(i)] for i in chosen])
    m1 = codecs.M1(
        *calibration.quantise(
            run.params, run.model_config, np.asarray(shift_right(sample, run.eod_id)), context=run.train_config.seq_len
        )
    )
    io.write_atomic(io.any_path(run_dir) / M1_FILE, m1.to_bytes())
    return m1


def load_m1(directory: str | os.PathLike) -> codecs.M1:
    """Returns the exact M1 in a folder of `train-m1` or the demo, or the one of the package (`PRETRAINED`).

    Raises:
        InputError: the folder holds no M1.
    """
    known = str(directory) == PRETRAINED
    path = (codecs.registry.PRETRAINED / "m1-en" if known else io.any_path(directory, "The folder of M1")) / M1_FILE
    if not path.exists():
        raise InputError(
            f"{directory} holds no {M1_FILE}. Give the output folder of `compressed-lm train-m1`, or {PRETRAINED}."
        )
    return codecs.M1.from_bytes(path.read_bytes())


def pretrained_m1(store: TokenStore) -> tuple[codecs.M1, dict[str, Any]]:
    """Returns the M1 of the package and its row of the run table, for a store of raw validation text.

    The row is that of its training, with the bits per byte of its integer tables on this text.
    """
    m1 = load_m1(PRETRAINED)
    row = json.loads((codecs.registry.PRETRAINED / "m1-en" / "row.json").read_text())
    documents = [record.ids.astype(np.uint8).tobytes() for record in store.documents()]
    bits = exact_bits_per_byte(m1, documents)
    here = {"run": "m1", "bits_per_byte": bits, "m1_exact_bits_per_byte": bits, "representation": "int8"}
    nats = bits * store.n_bytes / (store.n_tokens + store.n_documents) * np.log(2)
    return m1, row | here | {"loss_nats_per_token": float(nats), "validation_bytes": store.n_bytes}


def exact_bits_per_byte(m1: codecs.M1, documents: list[bytes]) -> float:
    """Returns the bits per byte of documents under the integer tables, with end-of-document.

    A coder without rounding of its interval would reach this value.
    """
    bits = sum(16 * len(coded) - np.log2(coded[:, 1]).sum() for _, coded in m1.engine.entries(documents))
    return float(bits / max(sum(map(len, documents)), 1))
