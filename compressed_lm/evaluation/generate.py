"""Text generation with an M2, decoded while it is sampled."""

import functools
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from compressed_lm.errors import InputError
from compressed_lm.models import Transformer, TransformerConfig, init_cache
from compressed_lm.models.transformer import check_length
from compressed_lm.training.step import Params

if TYPE_CHECKING:  # training evaluates without the dependencies of codecs
    from compressed_lm.codecs.protocol import Codec

TOKENS_PER_CALL = 16
"""Tokens sampled by one call of the compiled loop: the granularity of the stream."""


def sample_tokens(
    params: Params,
    model_config: TransformerConfig,
    prompt: np.ndarray,
    *,
    n_tokens: int,
    eod_id: int,
    start: Sequence[int] | None = None,
    stop: Collection[int] = (),
    n_ids: int | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
) -> Iterator[np.ndarray]:
    """Samples a continuation of a prompt.

    Args:
        params, model_config: the model.
        prompt: int32[T], ids to continue; may be empty.
        n_tokens: maximum number of new tokens.
        eod_id: end-of-document; it ends the sample.
        start: ids before the prompt, by default end-of-document; with an empty prompt there must be one.
        stop: further ids that end the sample, such as the end of a chat's turn.
        n_ids: ids from this one on are not sampled; by default those above end-of-document.
        temperature: divisor of the logits; 0 takes the most likely token.
        top_k: number of most likely tokens to sample from; 0 for all.
        seed: random seed.

    Yields:
        int32[<= 16] chunks of the continuation, until an id that ends it or `n_tokens`.

    Raises:
        InputError: a number is negative, there is no id to start with, or the model has fewer learned positions than
            the prompt and the new tokens need (`room`).
    """
    if temperature < 0 or top_k < 0 or n_tokens < 0:
        raise InputError(
            f"temperature={temperature}, top_k={top_k}, n_tokens={n_tokens} were given. Expected 0 or more."
        )
    forced = np.concatenate([np.array([eod_id] if start is None else start, np.int32), np.asarray(prompt, np.int32)])
    if not len(forced):
        raise InputError("An empty prompt was given without an id to start with; expected at least one id.")
    ends_sample = np.array([eod_id, *stop])
    check_length(model_config, len(forced) + max(n_tokens - 1, 0))  # the last token is not read again
    length = -(-(len(forced) + n_tokens) // TOKENS_PER_CALL) * TOKENS_PER_CALL
    # Steps beyond the last learned position fill the last call; their tokens are not used.
    positions = min(length, model_config.max_length or length)
    n_ids = eod_id + 1 if n_ids is None else n_ids
    advance = _advance_fn(model_config, n_ids, temperature, top_k)
    carry = (jnp.int32(0), jnp.int32(0), init_cache(model_config, 1, positions), jax.random.key(seed))
    leaf = jax.tree.leaves(params)[0]
    if getattr(leaf, "committed", False) and len(leaf.devices()) == 1:
        # As the program returns it, so that its second call need not compile it again.
        carry = jax.device_put(carry, *leaf.devices())
    padded = np.full(length + 1, -1, np.int32)
    padded[: len(forced)] = forced
    layers = _layers(params, model_config.n_layers)
    left = n_tokens
    for first in range(0, length, TOKENS_PER_CALL):
        carry, tokens = advance(params, layers, carry, jnp.asarray(padded[first : first + TOKENS_PER_CALL]))
        # The token sampled after input i is at position i + 1.
        new = np.asarray(tokens)[max(0, len(forced) - 1 - first) :][:left]
        ends = np.flatnonzero(np.isin(new, ends_sample))
        if len(ends):
            yield new[: ends[0]]
            return
        left -= len(new)
        yield new
        if not left:
            return


def room(model_config: TransformerConfig, n_ids: int) -> int | None:
    """Returns the largest number of new tokens after `n_ids` ids that learned positions allow; None without a limit."""
    return max(model_config.max_length + 1 - n_ids, 0) if model_config.position == "learned" else None


@functools.lru_cache(maxsize=8)  # models of one shape share the compiled program
def _advance_fn(model_config, n_ids, temperature, top_k):
    return jax.jit(functools.partial(_advance, Transformer(model_config), n_ids, temperature, top_k))


def _layers(params: Params, n_layers: int) -> list[PyTree] | None:
    """Returns the parameters of each layer on CPU, as views of the stacked ones; None on other devices."""
    if jax.default_backend() != "cpu":
        return None
    leaves, structure = jax.tree.flatten(params["layers"])
    stacks = [np.asarray(leaf) for leaf in leaves]
    return [
        jax.tree.unflatten(structure, [jax.device_put(stack[i], may_alias=True) for stack in stacks])
        for i in range(n_layers)
    ]


def _advance(model, n_ids, temperature, top_k, params, layers, carry, forced):
    """Returns (carry, int32[16] sampled after each input); inputs are the forced ids, or sampled ones if -1."""

    def one(carry, given):
        last, position, cache, key = carry
        token = jnp.where(given >= 0, given, last)
        logits, cache = model.apply(
            {"params": params}, token[None], position[None], cache, layers=layers, method="step"
        )
        logits = jnp.where(jnp.arange(logits.shape[-1]) < n_ids, logits[0], -jnp.inf)
        if top_k:
            logits = jnp.where(logits >= jax.lax.top_k(logits, min(top_k, logits.shape[0]))[0][-1], logits, -jnp.inf)
        key, use = jax.random.split(key)
        sampled = jax.random.categorical(use, logits / temperature) if temperature else jnp.argmax(logits)
        sampled = sampled.astype(jnp.int32)
        position = jnp.minimum(position + 1, cache[0]["k"].shape[2] - 1)  # its results after the last one are not used
        return (sampled, position, cache, key), sampled

    return jax.lax.scan(one, carry, forced)


def generate(
    params: Params,
    model_config: TransformerConfig,
    codec: "Codec",
    *,
    prompt: bytes | np.ndarray = b"",
    echo: bool = True,
    start: Sequence[int] | None = None,
    stop: Collection[int] = (),
    n_tokens: int = 128,
    temperature: float = 0.8,
    top_k: int = 0,
    seed: int = 0,
) -> Iterator[str]:
    """Yields text as soon as it is determined: the prompt, then its sampled continuation.

    Bytes that are not UTF-8 (a model may sample any bytes) become U+FFFD. Special tokens have no text.

    Args:
        params, model_config, codec: the model.
        prompt: text, or its ids int32[T] as of `codecs.prompt_ids`.
        echo: whether the prompt is part of the text.
        start, stop, n_tokens, temperature, top_k, seed: as of `sample_tokens`.
    """
    from compressed_lm.codecs.protocol import eod_id
    from compressed_lm.codecs.streaming import StreamDecoder

    if isinstance(prompt, np.ndarray):
        ids = prompt
    else:
        ids = codec.encode(prompt) if prompt else np.zeros(0, np.int32)
    decoder = StreamDecoder(codec)
    if echo:
        yield decoder.feed(ids)
    for piece in sample_tokens(
        params,
        model_config,
        ids,
        n_tokens=n_tokens,
        eod_id=eod_id(codec),
        start=start,
        stop=stop,
        n_ids=max(codec.vocab_size, eod_id(codec) + 1),
        temperature=temperature,
        top_k=top_k,
        seed=seed,
    ):
        yield decoder.feed(piece)
    yield decoder.close()
