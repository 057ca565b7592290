"""Arithmetic decoding on the device: `coding.range_coder` in batch slots, with M1's key/value cache.

Decoding needs M1's table before each symbol, so coder and model run in one compiled loop. Encoding needs no loop: the
symbols are known, M1 computes all tables in one teacher-forced pass, and the host encodes them
(`coding.range_coder.encode`). Both use the same tables because M1 is exact.
"""

from typing import Any

import jax
import jax.numpy as jnp

from compressed_lm import exact
from compressed_lm.coding import range_coder, tables
from compressed_lm.exact import device

STATE = 3
"""Length of a slot's state between contexts: code, size, and bytes of its stream read so far."""


def decode_context(
    config: exact.ExactConfig, params: exact.ExactParams, rows: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Decodes up to `context` symbols in each slot.

    Args:
        config, params: M1.
        rows: (state, stream). state: uint32[B, 3], see `STATE`; stream: uint8[B, 2 * context + 4], the slot's next
            bytes.

    Returns:
        symbols: uint16[B, context], 256 at the end of the document; symbols after it are meaningless.
        n_read: uint32[B, context], bytes of the stream read after each symbol.
        state: uint32[B, 3], the state at the end of the document if it was reached; code >= size if no encoder writes
            such a stream.
    """
    state, stream = rows
    slots = jnp.arange(state.shape[0], dtype=jnp.int32)
    end = jnp.int32(exact.N_SYMBOLS - 1)

    def one_symbol(carry: tuple, position: jax.Array) -> tuple[tuple, Any]:
        code, size, n_read, last, ended, cache = carry
        before = code, size, n_read
        logits, cache = device.step(params, config, last, jnp.full_like(last, position), cache)
        cdf = tables.cumulative(tables.frequencies(device.weights_of(logits), xp=jnp), xp=jnp)
        unit = size >> tables.TABLE_BITS
        target = jnp.minimum(code // unit, tables.TABLE_TOTAL - 1)
        symbol = jnp.sum(cdf[:, 1:] <= target[:, None], axis=-1, dtype=jnp.int32)
        below, above = cdf[slots, symbol], cdf[slots, symbol + 1]
        valid = code < unit * tables.TABLE_TOTAL
        code, size = jnp.where(valid, code - unit * below, jnp.uint32(0xFFFFFFFF)), unit * (above - below)
        for _ in range(2):  # the smallest frequency reduces the size by 16 bits
            short = size < range_coder.TOP
            code = jnp.where(short, (code << 8) | stream[slots, n_read].astype(jnp.uint32), code)
            size, n_read = jnp.where(short, size << 8, size), n_read + short
        code, size, n_read = (jnp.where(ended, old, new) for old, new in zip(before, (code, size, n_read), strict=True))
        return (code, size, n_read, symbol, ended | (symbol == end), cache), (
            symbol.astype(jnp.uint16),
            n_read.astype(jnp.uint32),
        )

    start = (
        state[:, 0],
        state[:, 1],
        jnp.zeros_like(slots),
        jnp.full_like(slots, end),
        jnp.zeros_like(slots, bool),
        device.init_cache(config, state.shape[0], config.context),
    )
    (code, size, *_), (symbols, n_read) = jax.lax.scan(one_symbol, start, jnp.arange(config.context, dtype=jnp.int32))
    n_read = state[:, 2:] + n_read.T
    return symbols.T, n_read, jnp.stack([code, size, n_read[:, -1]], axis=-1)


def cached_entries(config: exact.ExactConfig, params: exact.ExactParams, symbols: jax.Array) -> jax.Array:
    """Returns the table entries that `decode_context` uses if it decodes these symbols, for checks.

    Args:
        config, params: M1.
        symbols: int32[B, L], at most `context` symbols of each slot.

    Returns:
        uint32[B, L, 2]: cumulative frequency below the symbol, and its frequency.
    """
    slots = jnp.arange(len(symbols), dtype=jnp.int32)

    def one_symbol(carry: tuple, inputs: tuple[jax.Array, jax.Array]) -> tuple[tuple, jax.Array]:
        (last, cache), (position, symbol) = carry, inputs
        logits, cache = device.step(params, config, last, jnp.full_like(last, position), cache)
        cdf = tables.cumulative(tables.frequencies(device.weights_of(logits), xp=jnp), xp=jnp)
        below, above = cdf[slots, symbol], cdf[slots, symbol + 1]
        return (symbol, cache), jnp.stack([below, above - below], axis=-1)

    start = jnp.full_like(slots, exact.N_SYMBOLS - 1), device.init_cache(config, len(symbols), config.context)
    _, entries = jax.lax.scan(one_symbol, start, (jnp.arange(symbols.shape[1], dtype=jnp.int32), symbols.T))
    return jnp.swapaxes(entries, 0, 1)
