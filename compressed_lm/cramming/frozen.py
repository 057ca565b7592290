"""A frozen model that reads input vectors: what it gives each token of a text, and what it writes by itself."""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from compressed_lm.errors import InputError
from compressed_lm.models import Transformer, TransformerConfig, init_cache
from compressed_lm.models.partitioning import by_name
from compressed_lm.training.run_dir import Run

FREE_FIELDS = ("attention", "remat", "scan_layers")  # of a TransformerConfig: how something is computed, not what


@dataclasses.dataclass(frozen=True, eq=False)
class FrozenModel:
    """A trained model, none of whose parameters changes.

    Attributes:
        params, config: the model.
        eod_id: id of end-of-document, which a text without vectors starts from.
        codec_spec, codec_fingerprint: of the codec whose ids the model reads.
    """

    params: dict
    config: TransformerConfig
    eod_id: int
    codec_spec: str = "bytes"
    codec_fingerprint: str = ""

    @classmethod
    def from_run(cls, run: Run) -> "FrozenModel":
        """Returns the model of a run, trained here or imported."""
        return cls(run.params, run.model_config, run.eod_id, run.codec_spec, run.codec_fingerprint)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hex digest of everything that the logits depend on: shape, parameters, codec. Settings that are the default
        do not count, so that ones which a later version adds change nothing."""
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
        """Standard deviation of all numbers of the embedding table."""
        return float(np.std(np.asarray(self.params["embed"]["embedding"], np.float64)))

    @property
    def alone(self) -> np.ndarray:
        """float32[1, D], the embedding of end-of-document: the one vector of a text that none were crammed for."""
        return np.asarray(self.params["embed"]["embedding"][self.eod_id], np.float32)[None]

    def check(self, ids) -> np.ndarray:
        """Returns a text as int32[N]. Raises InputError unless it has a token and the model knows all of them."""
        ids = np.asarray(ids, np.int32)
        if ids.ndim != 1 or not ids.size or ids.min() < 0 or ids.max() >= self.config.vocab_size:
            bounds = f" with ids from {ids.min()} to {ids.max()}" if ids.size else ""
            raise InputError(
                f"A text of shape {ids.shape}{bounds} was given; expected one row of at least one id, each from 0 to "
                f"{self.config.vocab_size - 1}."
            )
        return ids


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a model gives the tokens of a text when it is shown them, each after the true ones before (teacher forcing).

    Attributes:
        nats: float64[N], the negative natural logarithm of each token's probability.
        right: bool[N], whether its logit is the largest, and no other's as large.
    """

    nats: np.ndarray
    right: np.ndarray


def bucket(length: int) -> int:
    """Returns the length that a text is padded to, so that few programs are compiled: 4, 6, 8, 12, 16, 24, ..."""
    size = 4
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


def padded(texts: Sequence[np.ndarray], length: int) -> np.ndarray:
    """Returns int32[B, length], a text a row, zeros behind it."""
    rows = np.zeros((len(texts), length), np.int32)
    for row, text in zip(rows, texts, strict=True):
        row[: len(text)] = text
    return rows


def read(model: FrozenModel, vectors: Sequence, texts: Sequence[np.ndarray], *, slots: int = 32) -> list[Reading]:
    """Returns what the model gives each text after its vectors.

    Args:
        model: the model.
        vectors: float[K, D] for each text, K being the same for all.
        texts: int32[N], of any lengths.
        slots: texts that are read at once.
    """
    found: dict[int, Reading] = {}
    for length, indices in _by_bucket([len(text) for text in texts]).items():
        for part in _parts(indices, slots):
            prefix = jnp.asarray(np.stack([vectors[i] for i in part]), jnp.float32)
            tokens = padded([model.check(texts[i]) for i in part], length)
            nats, gaps = _read(model.config, model.params, prefix, tokens)
            for i, n, gap in zip(part, np.asarray(nats, np.float64), np.asarray(gaps), strict=True):
                found[i] = Reading(n[: len(texts[i])], gap[: len(texts[i])] > 0)
    return [found[i] for i in range(len(texts))]


def read_alone(model: FrozenModel, texts: Sequence[np.ndarray], *, slots: int = 32) -> list[Reading]:
    """Returns what the model gives each text without vectors, after end-of-document: its own code length of
    the text, computed just as with vectors.
    """
    return read(model, [model.alone] * len(texts), texts, slots=slots)


def probabilities(model: FrozenModel, vectors, text: np.ndarray) -> np.ndarray:
    """Returns float64[N, V], the distribution of each token of a text after vectors [K, D] and the tokens before it."""
    tokens = padded([model.check(text)], bucket(len(text)))
    logits = _logits(model.config, model.params, jnp.asarray(vectors, jnp.float32)[None], tokens)
    logits = np.asarray(logits[0, : len(text)], np.float64)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def write(model: FrozenModel, vectors: Sequence, lengths: Sequence[int], *, slots: int = 32) -> list[np.ndarray]:
    """Returns what the model writes after vectors, always the likeliest token (greedy, free-running).

    Args:
        model: the model.
        vectors: float[K, D] for each text, K being the same for all.
        lengths: tokens to write.
        slots: texts that are written at once.

    Returns:
        int32[N] for each text.
    """
    found: dict[int, np.ndarray] = {}
    for length, indices in _by_bucket(lengths).items():
        for part in _parts(indices, slots):
            prefix = jnp.asarray(np.stack([vectors[i] for i in part]), jnp.float32)
            tokens = np.asarray(_write(model.config, length, model.params, prefix))
            for i, row in zip(part, tokens, strict=True):
                found[i] = row[: lengths[i]].copy()
    return [found[i] for i in range(len(lengths))]


def score(logits: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns (nats, gaps), float32[B, N]: the negative log probability of each token, and by how much its logit is
    above all others (negative where it is not).

    Args:
        logits: float32[B, N, V].
        tokens: int32[B, N].
    """
    own = tokens[..., None] == jnp.arange(logits.shape[-1])[None, None]
    target = jnp.sum(jnp.where(own, logits, 0.0), axis=-1)
    others = jnp.max(jnp.where(own, -jnp.inf, logits), axis=-1)
    return jax.nn.logsumexp(logits, axis=-1) - target, target - others


def teacher_forced(config: TransformerConfig, params, prefix: jax.Array, tokens: jax.Array) -> jax.Array:
    """Returns logits float32[B, N, V]: of token i after the vectors [B, K, D] and the true tokens before it. The first
    token's come from the last vector."""
    return Transformer(config).apply({"params": params}, tokens[:, :-1], prefix=prefix)


@functools.partial(jax.jit, static_argnums=0)
def _logits(config, params, prefix, tokens):
    return teacher_forced(config, params, prefix, tokens)


@functools.partial(jax.jit, static_argnums=0)
def _read(config, params, prefix, tokens):
    return score(teacher_forced(config, params, prefix, tokens), tokens)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _write(config, n_tokens, params, prefix):
    """Returns int32[B, n_tokens]."""
    slots, n_vectors = prefix.shape[:2]
    n_steps = n_vectors + n_tokens - 1

    def one(carry, position):
        token, cache = carry
        logits, cache = Transformer(config).apply(
            {"params": params}, token, jnp.full(slots, position), cache, prefix=prefix, method="step"
        )
        token = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        return (token, cache), token

    start = jnp.zeros(slots, jnp.int32), init_cache(config, slots, n_steps)
    _, tokens = jax.lax.scan(one, start, jnp.arange(n_steps))
    return tokens.T[:, n_vectors - 1 :]


def _by_bucket(lengths):
    """Returns the indices of texts by the length they are padded to, shortest first."""
    groups: dict[int, list[int]] = {}
    for i, length in enumerate(lengths):
        groups.setdefault(bucket(length), []).append(i)
    return dict(sorted(groups.items()))


def _parts(indices, size):
    return [indices[i : i + size] for i in range(0, len(indices), size)]
