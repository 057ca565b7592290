"""Frozen model with input vectors: teacher-forced losses of texts, and greedy generation."""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from compressed_lm.errors import InputError
from compressed_lm.models import Transformer, TransformerConfig, init_cache, unstack
from compressed_lm.models.partitioning import by_name
from compressed_lm.models.transformer import check_length
from compressed_lm.training.run_dir import Run

FREE_FIELDS = ("attention", "remat", "scan_layers")  # of a TransformerConfig: they do not change the results


@dataclasses.dataclass(frozen=True, eq=False)
class FrozenModel:
    """Trained model with fixed parameters.

    Attributes:
        params, config: the model.
        eod_id: id of end-of-document, the start of a text without vectors.
        codec_spec, codec_fingerprint: the codec of the model.
    """

    params: dict
    config: TransformerConfig
    eod_id: int
    codec_spec: str = "bytes"
    codec_fingerprint: str = ""

    @classmethod
    def from_run(cls, run: Run) -> "FrozenModel":
        """Returns the model of a run, trained or imported."""
        return cls(run.params, run.model_config, run.eod_id, run.codec_spec, run.codec_fingerprint)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hex digest of everything that the logits depend on: shape, parameters, codec.

        Default settings are omitted, so that settings added by a later version do not change it.
        """
        default = TransformerConfig(vocab_size=1)
        settings = {
            field.name: getattr(self.config, field.name)
            for field in dataclasses.fields(self.config)
            if field.name not in FREE_FIELDS and getattr(self.config, field.name) != getattr(default, field.name)
        }
        digest = hashlib.sha256(repr((sorted(settings.items()), self.codec_fingerprint)).encode())
        for name, leaf in sorted(by_name(self.params).items()):
            leaf = np.asarray(leaf)
            digest.update(f"{name} {leaf.dtype} {leaf.shape}".encode() + leaf.tobytes())
        return digest.hexdigest()

    @functools.cached_property
    def embedding_std(self) -> float:
        """Standard deviation of the embeddings of tokens where they enter the model."""
        return float(np.std(np.asarray(self.params["embed"]["embedding"], np.float64))) * self.config.embed_scale

    @property
    def alone(self) -> np.ndarray:
        """float32[1, D], the embedding of end-of-document: the input vector of a text without crammed vectors."""
        row = np.asarray(self.params["embed"]["embedding"][self.eod_id], np.float32)[None]
        return row * np.float32(self.config.embed_scale)

    def check(self, ids: npt.ArrayLike) -> np.ndarray:
        """Returns a text as int32[N]. Raises InputError if it is empty or has ids outside the vocabulary."""
        ids = np.asarray(ids, np.int32)
        if ids.ndim != 1 or not ids.size or ids.min() < 0 or ids.max() >= self.config.vocab_size:
            bounds = f" with ids from {ids.min()} to {ids.max()}" if ids.size else ""
            raise InputError(
                f"A text of shape {ids.shape}{bounds} was given; expected a one-dimensional sequence of at least one "
                f"id, each from 0 to {self.config.vocab_size - 1}."
            )
        return ids


@dataclasses.dataclass(frozen=True)
class Reading:
    """Teacher-forced result of a text.

    Attributes:
        nats: float64[N], negative log probability of each token.
        right: bool[N], whether its logit is larger than all others.
    """

    nats: np.ndarray
    right: np.ndarray


def padded_length(config: TransformerConfig, length: int, *, n_vectors: int) -> int:
    """Returns the padded length of a text: 4, 6, 8, 12, 16, 24, ..., so that few programs are compiled.

    With learned positions it is at most what they allow.

    Args:
        config: the model's.
        length: tokens of the text.
        n_vectors: vectors before it.

    Raises:
        InputError: text and vectors need more positions than are learned.
    """
    check_length(config, n_vectors + length - 1)  # the last token is only a target
    size = 4
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return min(size, config.max_length + 1 - n_vectors) if config.position == "learned" else size


def padded(texts: Sequence[np.ndarray], length: int) -> np.ndarray:
    """Returns int32[B, length], one zero-padded text per row."""
    rows = np.zeros((len(texts), length), np.int32)
    for row, text in zip(rows, texts, strict=True):
        row[: len(text)] = text
    return rows


def read(model: FrozenModel, vectors: Sequence, texts: Sequence[np.ndarray], *, slots: int = 32) -> list[Reading]:
    """Returns the teacher-forced result of each text after its vectors.

    Args:
        model: the model.
        vectors: float[K, D] for each text, with the same K for all.
        texts: int32[N], of any lengths.
        slots: texts per batch.
    """
    found: dict[int, Reading] = {}
    lengths, n_vectors = [len(text) for text in texts], len(vectors[0]) if len(vectors) else 0
    for length, indices in by_padded_length(model.config, lengths, n_vectors=n_vectors).items():
        for part in _parts(indices, slots):
            prefix = jnp.asarray(np.stack([vectors[i] for i in part]), jnp.float32)
            tokens = padded([model.check(texts[i]) for i in part], length)
            nats, gaps = _read(model.config, model.params, prefix, tokens)
            for i, n, gap in zip(part, np.asarray(nats, np.float64), np.asarray(gaps), strict=True):
                found[i] = Reading(n[: len(texts[i])], gap[: len(texts[i])] > 0)
    return [found[i] for i in range(len(texts))]


def read_alone(model: FrozenModel, texts: Sequence[np.ndarray], *, slots: int = 32) -> list[Reading]:
    """Returns the teacher-forced result of each text without vectors, after end-of-document.

    Its sum is the model's own code length of the text, computed in the same way as with vectors.
    """
    return read(model, [model.alone] * len(texts), texts, slots=slots)


def probabilities(model: FrozenModel, vectors: npt.ArrayLike, text: np.ndarray) -> np.ndarray:
    """Returns float64[N, V], the distribution of each token of a text after vectors [K, D] and the tokens before it."""
    tokens = padded([model.check(text)], padded_length(model.config, len(text), n_vectors=len(np.asarray(vectors))))
    logits = _logits(model.config, model.params, jnp.asarray(vectors, jnp.float32)[None], tokens)
    logits = np.asarray(logits[0, : len(text)], np.float64)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def write(model: FrozenModel, vectors: Sequence, lengths: Sequence[int], *, slots: int = 32) -> list[np.ndarray]:
    """Returns the tokens that the model generates greedily after vectors.

    Args:
        model: the model.
        vectors: float[K, D] for each text, with the same K for all.
        lengths: number of tokens for each text.
        slots: texts per batch.

    Returns:
        int32[N] for each text.
    """
    found: dict[int, np.ndarray] = {}
    n_vectors = len(vectors[0]) if len(vectors) else 0
    for length, indices in by_padded_length(model.config, lengths, n_vectors=n_vectors).items():
        for part in _parts(indices, slots):
            prefix = jnp.asarray(np.stack([vectors[i] for i in part]), jnp.float32)
            tokens = np.asarray(_write(model.config, length, model.params, prefix))
            for i, row in zip(part, tokens, strict=True):
                found[i] = row[: lengths[i]].copy()
    return [found[i] for i in range(len(lengths))]


def score(logits: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns (nats, gaps), float32[B, N]: negative log probability and logit minus the largest other logit.

    Args:
        logits: float32[B, N, V].
        tokens: int32[B, N].
    """
    own = tokens[..., None] == jnp.arange(logits.shape[-1])[None, None]
    target = jnp.sum(jnp.where(own, logits, 0.0), axis=-1)
    others = jnp.max(jnp.where(own, -jnp.inf, logits), axis=-1)
    return jax.nn.logsumexp(logits, axis=-1) - target, target - others


def teacher_forced(config: TransformerConfig, params: dict, prefix: jax.Array, tokens: jax.Array) -> jax.Array:
    """Returns logits float32[B, N, V] of token i after the vectors [B, K, D] and the true tokens before it.

    The logits of the first token are those of the last vector.
    """
    logits = Transformer(config).apply({"params": params}, tokens[:, :-1], prefix=prefix)
    return cast(jax.Array, logits)  # `apply` returns a tuple only if some collections are mutable


@functools.partial(jax.jit, static_argnums=0)
def _logits(config: TransformerConfig, params: dict, prefix: jax.Array, tokens: jax.Array) -> jax.Array:
    return teacher_forced(config, params, prefix, tokens)


@functools.partial(jax.jit, static_argnums=0)
def _read(config: TransformerConfig, params: dict, prefix: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    return score(teacher_forced(config, params, prefix, tokens), tokens)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _write(config: TransformerConfig, n_tokens: int, params: dict, prefix: jax.Array) -> jax.Array:
    """Returns int32[B, n_tokens], generated greedily."""
    slots, n_vectors = prefix.shape[:2]
    n_steps = n_vectors + n_tokens - 1
    layers = unstack(params["layers"], config.n_layers)  # inside the loop, they would be copied in every step on CPU

    def one(carry: tuple, position: jax.Array) -> tuple[tuple, jax.Array]:
        token, cache = carry
        logits, cache = Transformer(config).apply(
            {"params": params}, token, jnp.full(slots, position), cache, prefix=prefix, layers=layers, method="step"
        )
        token = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        return (token, cache), token

    start = jnp.zeros(slots, jnp.int32), init_cache(config, slots, n_steps)
    _, tokens = jax.lax.scan(one, start, jnp.arange(n_steps))
    return tokens.T[:, n_vectors - 1 :]


def by_padded_length(config: TransformerConfig, lengths: Sequence[int], *, n_vectors: int) -> dict[int, list[int]]:
    """Returns the indices of texts by `padded_length`, shortest first; arguments and errors are those."""
    groups: dict[int, list[int]] = {}
    for i, length in enumerate(lengths):
        groups.setdefault(padded_length(config, length, n_vectors=n_vectors), []).append(i)
    return dict(sorted(groups.items()))


def _parts(indices: list[int], size: int) -> list[list[int]]:
    return [indices[i : i + size] for i in range(0, len(indices), size)]
