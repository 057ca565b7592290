"""Gain of input embeddings that depend on the length and bytes of a token.

    python experiments/beat_subword/embeddings.py --data $COMPRESSED_LM_DATA --out experiments/recorded/beat_subword \\
      --work runs/levers

One variant adds to the input embedding of a token a vector for its length, the other also one for each of its first
eight and last three bytes, by position. After training the sums are a normal embedding table, so that reading a token
costs the same. Texts, seed and learning rate are those of levers.py. Appends to OUT/embeddings.jsonl; rows in the file
are not trained again.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
import protocol
import report
from levers import LEARNING_RATE, V, flops_per_byte

from compressed_lm import codecs, evaluation, models, scaling
from compressed_lm.io import jsonl
from compressed_lm.tracking.progress import progress
from compressed_lm.training.config import TrainConfig
from compressed_lm.training.optimizers import optimizer
from compressed_lm.training.step import token_nats

METHODS = ("sentencepiece", "pieces")
EMBEDDINGS = ("own", "own + length", "own + length + bytes")
FIRST, LAST, MAX_BYTES = 8, 3, 16
NO_BYTE, N_VECTORS = 256, 257  # per position
MICRO_BATCHES = 4


def strings_of(codec: codecs.Codec) -> list[bytes]:
    """Returns the bytes of each token in its vocabulary."""
    if codec.name == "pieces":
        return codec.pieces.strings
    return [codec.decode(np.array([i])) for i in range(codec.vocab_size)]


def features(strings: Sequence[bytes], embedding: str, vocab_size: int) -> np.ndarray:
    """Returns the indices of the vectors added for each id: int32[vocab_size, F], rows of one table.

    The table first has the vectors of the lengths 0 to 16 (0 also for ids without a string), then those of each
    position.
    """
    found = np.zeros((vocab_size, 0 if embedding == "own" else 1), np.int32)
    if embedding == "own":
        return found
    found[: len(strings), 0] = [min(len(s), MAX_BYTES) for s in strings]
    if embedding == "own + length":
        return found
    bytes_ = np.full((vocab_size, FIRST + LAST), NO_BYTE, np.int32)
    for i, string in enumerate(strings):
        head, tail = string[:FIRST], string[: -LAST - 1 : -1]
        bytes_[i, : len(head)], bytes_[i, FIRST : FIRST + len(tail)] = list(head), list(tail)
    return np.concatenate([found, bytes_ + N_VECTORS * np.arange(FIRST + LAST) + MAX_BYTES + 1], axis=1)


def merged(params, ids: np.ndarray):
    """Returns model parameters whose embedding is the sum of its rows and of the vectors with indices `ids`."""
    params = dict(params)
    vectors = params.pop("vectors")
    table = params["embed"]["embedding"]
    if ids.shape[1]:
        table = table + vectors[ids].sum(axis=1)
    return params | {"embed": {"embedding": table}}


def train(config: TrainConfig, shape: models.TransformerConfig, tokens: protocol.Tokens, ids: np.ndarray, title: str):
    """Returns the parameters of a model trained for an epoch."""
    rows = tokens.rows(config.seq_len)
    steps = len(rows) // config.batch_size
    config = dataclasses.replace(config, steps=steps, warmup_steps=steps // 20)
    model, rule = models.Transformer(shape), optimizer(config)
    key = jax.random.key(config.seed)
    params = dict(model.init(key, jnp.zeros((1, 1), jnp.int32))["params"])
    # The sum of all vectors is not larger than a row.
    n_vectors = (FIRST + LAST) * N_VECTORS + MAX_BYTES + 1
    scale = (shape.d_model * (FIRST + LAST + 1)) ** -0.5
    params["vectors"] = scale * jax.random.normal(jax.random.fold_in(key, 1), (n_vectors, shape.d_model))

    def loss_fn(params, targets):
        logits = model.apply({"params": merged(params, ids)}, models.shift_right(targets, tokens.eod_id))
        nats, log_z = token_nats(logits, targets)
        return jnp.mean(nats) + config.z_loss * jnp.mean(log_z**2)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, targets):
        add = lambda total, part: (jax.tree.map(jnp.add, total, jax.grad(loss_fn)(params, part)), None)  # noqa: E731
        parts = targets.reshape(MICRO_BATCHES, -1, config.seq_len)
        gradient, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), parts)
        gradient = jax.tree.map(lambda x: x / MICRO_BATCHES, gradient)
        updates, state = rule.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state, order = rule.init(params), np.random.default_rng(config.seed).permutation(len(rows))
    with progress(title, steps, unit="steps") as bar:
        for i in range(steps):
            params, state = step(params, state, rows[order[i * config.batch_size : (i + 1) * config.batch_size]])
            bar.advance(1)
    return merged(params, ids)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder with corpora/")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of embeddings.jsonl")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder for texts and codecs")
    parser.add_argument(
        "--train_bytes", type=int, default=1_000_000, help="bytes of text to train on (default %(default)s)"
    )
    arguments = parser.parse_args()
    texts = protocol.Texts(arguments.data, arguments.work / "texts", arguments.train_bytes)
    table = arguments.out / "embeddings.jsonl"
    done = [(row["method"], row["embedding"]) for _, row in jsonl.read(table)] if table.exists() else []
    flops = flops_per_byte(texts, arguments.work)
    for method in METHODS:
        encoded = protocol.encoded(protocol.METHODS[method].format(v=V), texts, arguments.work)
        text, dev = (protocol.Tokens(encoded.codec, texts.documents(name)) for name in ("train", "dev"))
        shape = protocol.model_at(flops, V, text.bytes_per_token)
        config = dataclasses.replace(protocol.TRAIN, learning_rate=LEARNING_RATE)
        for embedding in EMBEDDINGS:
            if (method, embedding) in done:
                continue
            ids = features(strings_of(encoded.codec), embedding, shape.vocab_size)
            params = train(config, shape, text, ids, f"{method}, {embedding}")
            bits, n_bytes = evaluation.document_bits(params, shape, dev, seq_len=config.seq_len)
            row = {"method": method, "embedding": embedding, "dev_bits_per_byte": round(bits.sum() / n_bytes.sum(), 5)}
            with table.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
    print(shown(table))
    return 0


def shown(table: pathlib.Path) -> str:
    """Returns the table of all embeddings."""
    wide = scaling.read_table(table).pivot(index="embedding", columns="method", values="dev_bits_per_byte")
    return report.markdown(wide.loc[list(EMBEDDINGS), list(METHODS)].map("{:.3f}".format).reset_index())


if __name__ == "__main__":
    sys.exit(main())
