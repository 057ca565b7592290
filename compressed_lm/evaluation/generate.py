"""Text from an M2, decoded while it is sampled."""

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from compressed_lm.errors import InputError
from compressed_lm.models import Transformer, TransformerConfig, init_cache

if TYPE_CHECKING:  # training evaluates without the packages that codecs need
    from compressed_lm.codecs.protocol import Codec

TOKENS_PER_CALL = 16
"""Tokens sampled by one call of the compiled loop, and so the granularity of the stream."""


def sample_tokens(
    params,
    model_config: TransformerConfig,
    prompt: np.ndarray,
    *,
    n_tokens: int,
    eod_id: int,
    n_ids: int | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
) -> Iterator[np.ndarray]:
    """Yields int32[<= 16] pieces of a sampled continuation, until the end of the document or `n_tokens`.

    Args:
        params, model_config: the model.
        prompt: int32[T], ids to continue; may be empty.
        n_tokens: largest number of new tokens.
        eod_id: end-of-document, which opens the sequence and ends the sample.
        n_ids: ids from here on are not sampled; by default those after end-of-document.
        temperature: divides the logits; 0 takes the most likely token.
        top_k: sample from this many most likely tokens; 0 for all.
        seed: of the random numbers.
    """
    if temperature < 0 or top_k < 0 or n_tokens < 0:
        raise InputError(
            f"temperature={temperature}, top_k={top_k}, n_tokens={n_tokens} were given; expected 0 or more for each."
        )
    forced = np.append(np.int32(eod_id), np.asarray(prompt, np.int32))
    length = -(-(len(forced) + n_tokens) // TOKENS_PER_CALL) * TOKENS_PER_CALL
    n_ids = eod_id + 1 if n_ids is None else n_ids
    advance = jax.jit(functools.partial(_advance, Transformer(model_config), n_ids, temperature, top_k))
    carry = (jnp.int32(0), jnp.int32(0), init_cache(model_config, 1, length), jax.random.key(seed))
    padded = np.full(length + 1, -1, np.int32)
    padded[: len(forced)] = forced
    left = n_tokens
    for start in range(0, length, TOKENS_PER_CALL):
        carry, tokens = advance(params, carry, jnp.asarray(padded[start : start + TOKENS_PER_CALL]))
        # The token sampled after input i is what stands at place i + 1.
        new = np.asarray(tokens)[max(0, len(forced) - 1 - start) :][:left]
        ends = np.flatnonzero(new == eod_id)
        if len(ends):
            yield new[: ends[0]]
            return
        left -= len(new)
        yield new
        if not left:
            return


def _advance(model, n_ids, temperature, top_k, params, carry, forced):
    """Feeds the forced inputs where there are any (not -1), the sampled ones elsewhere: (carry, int32[16] sampled after
    each)."""

    def one(carry, given):
        last, position, cache, key = carry
        token = jnp.where(given >= 0, given, last)
        logits, cache = model.apply({"params": params}, token[None], position[None], cache, method="step")
        logits = jnp.where(jnp.arange(logits.shape[-1]) < n_ids, logits[0], -jnp.inf)
        if top_k:
            logits = jnp.where(logits >= jax.lax.top_k(logits, min(top_k, logits.shape[0]))[0][-1], logits, -jnp.inf)
        key, use = jax.random.split(key)
        sampled = jax.random.categorical(use, logits / temperature) if temperature else jnp.argmax(logits)
        sampled = sampled.astype(jnp.int32)
        return (sampled, position + 1, cache, key), sampled

    return jax.lax.scan(one, carry, forced)


def generate(
    params,
    model_config: TransformerConfig,
    codec: "Codec",
    *,
    prompt: bytes = b"",
    n_tokens: int = 128,
    temperature: float = 0.8,
    top_k: int = 0,
    seed: int = 0,
) -> Iterator[str]:
    """Yields pieces of text as they become certain: the prompt, then its sampled continuation.

    Bytes that are not UTF-8 (a model may sample any) come out as U+FFFD.
    """
    from compressed_lm.codecs.protocol import eod_id
    from compressed_lm.codecs.streaming import StreamDecoder

    ids = codec.encode(prompt) if prompt else np.zeros(0, np.int32)
    decoder = StreamDecoder(codec)
    yield decoder.feed(ids)
    for piece in sample_tokens(
        params,
        model_config,
        ids,
        n_tokens=n_tokens,
        eod_id=eod_id(codec),
        n_ids=max(codec.vocab_size, eod_id(codec) + 1),
        temperature=temperature,
        top_k=top_k,
        seed=seed,
    ):
        yield decoder.feed(piece)
    yield decoder.close()
