"""Equal-Info Windows on the device, for windows too wide to be listed: lock-step lanes with M1's key/value cache inside
the loop.

Encoding runs a lane per document, one byte a step; decoding runs a lane per window, since windows do not depend on one
another.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from compressed_lm.codecs.lanes import map_over_local_devices
from compressed_lm.codecs.m1 import END, M1
from compressed_lm.coding import tables, windows
from compressed_lm.models import exact

BYTES_PER_CALL = 256
"""Bytes that a lane encodes in one call of the compiled program."""


def encode(m1: M1, documents: Sequence[bytes], *, bits: int, align: str, max_bytes: int) -> list[np.ndarray]:
    """Window codes of each document.

    Args:
      m1: the byte model.
      documents: byte strings.
      bits: window size b.
      align: "none" or "word".
      max_bytes: length at which a window's table turns flat.

    Returns:
      uint32[N] for each document.
    """
    program, constants = _program(m1, _encode_chunk, bits, align, max_bytes)
    data = [np.frombuffer(d, np.uint8) for d in documents]
    running = np.array(sorted((i for i, d in enumerate(data) if len(d)), key=lambda i: -len(data[i])), np.int64)
    state = _start(m1.config, len(running), max_bytes)
    codes: list[list[np.ndarray]] = [[] for _ in documents]
    offset = 0
    while len(running):
        chunk = np.full((len(running), BYTES_PER_CALL), -1, np.int32)
        for row, i in zip(chunk, running, strict=True):
            piece = data[i][offset : offset + BYTES_PER_CALL]
            row[: len(piece)] = piece
        offset += BYTES_PER_CALL
        state, emitted, values = program(constants, (state, chunk))
        going = np.array([len(data[i]) > offset for i in running])
        for lane, i in enumerate(running):
            codes[i].append(values[lane, emitted[lane]])
            if not going[lane]:
                codes[i].append(state["lo"][lane, None])
        running, state = running[going], jax.tree.map(lambda x, going=going: x[going], state)
    return [np.concatenate(c) if c else np.zeros(0, np.uint32) for c in codes]


def decode(m1: M1, codes: np.ndarray, *, bits: int, align: str, max_bytes: int) -> list[bytes]:
    """Text of each window code: the inverse of `encode`, with the same options. codes: uint32[N]."""
    if not len(codes):
        return []
    program, constants = _program(m1, _decode_windows, bits, align, max_bytes)
    text, length = program(constants, (np.asarray(codes, np.uint32),))
    return [row[:n].tobytes() for row, n in zip(text, length, strict=True)]


@functools.lru_cache(maxsize=32)
def _program(m1: M1, fn, bits: int, align: str, max_bytes: int):
    """The compiled function and its constants: M1's weights and the cumulative table at the start of a window."""
    first = tables.cumulative(m1.byte_frequencies(np.zeros((1, 0), np.uint8))[0])
    return map_over_local_devices(fn, config=m1.config, bits=bits, align=align, max_bytes=max_bytes), (
        m1.device_params,
        first,
    )


def _start(config: exact.ExactConfig, n_lanes: int, max_bytes: int) -> dict:
    """Lanes that have read nothing: a depth of 0 says that no window is open."""
    numbers = {"depth": np.int32, "last": np.int32, "lo": np.uint32, "size": np.uint32}
    state = {name: np.zeros(n_lanes, dtype) for name, dtype in numbers.items()} | {
        "freqs": np.ones((n_lanes, 256), np.uint32)
    }
    return state | {"cache": jax.tree.map(np.asarray, exact.init_cache(config, n_lanes, max_bytes + 1))}


def _open_cache(config: exact.ExactConfig, params, cache):
    """The cache with the start-of-context input in slot 0, where it stays for every window."""
    lanes = cache[0][0].shape[0]
    return exact.step(params, config, jnp.full(lanes, END, jnp.int32), jnp.zeros(lanes, jnp.int32), cache)[1]


def _advance(config: exact.ExactConfig, params, symbol, depth, cache, max_bytes: int):
    """(frequencies of the byte after a window of `depth` bytes that ends in `symbol`, cache)."""
    logits, cache = exact.step(params, config, symbol, jnp.minimum(depth, max_bytes), cache)
    freqs = tables.frequencies(exact.weights_of(logits[:, :256]), xp=jnp)
    return jnp.where((depth < max_bytes)[:, None], freqs, jnp.uint32(256)), cache


def _children(freqs, last, align: str):
    """uint32[B, 257]: cumulative table of the continuations that may follow byte `last`."""
    if align == "word":
        freqs = jnp.where(windows.allowed_continuations(last, xp=jnp), freqs, jnp.uint32(0))
    return tables.cumulative(freqs, xp=jnp)


def _encode_chunk(constants, rows, *, config, bits, align, max_bytes):
    """Feeds each lane its next bytes (int32[B, T], -1 past the end).

    Returns:
      (state, emitted: bool[B, T], codes: uint32[B, T]); `emitted` marks the bytes before which a window was closed.
    """
    params, first = constants
    state, chunk = rows
    lanes = jnp.arange(chunk.shape[0])

    def one_byte(carry, byte):
        state, cache = carry  # state without the cache
        symbol = jnp.maximum(byte, 0)
        cdf = _children(state["freqs"], state["last"], align)
        lo, size = windows.child(
            state["lo"], state["size"], cdf[lanes, symbol], cdf[lanes, symbol + 1], cdf[:, -1], xp=jnp
        )
        total = jnp.full_like(lo, tables.TABLE_TOTAL)
        root_lo, root_size = windows.root_child(
            symbol.astype(jnp.uint32), first[symbol], first[symbol + 1], total, bits=bits, xp=jnp
        )
        inside = (state["depth"] > 0) & (size > 0)
        depth = jnp.where(inside, state["depth"] + 1, 1)
        freqs, cache = _advance(config, params, symbol, depth, cache, max_bytes)
        new = dict(
            depth=depth,
            last=symbol,
            lo=jnp.where(inside, lo, root_lo),
            size=jnp.where(inside, size, root_size),
            freqs=freqs,
        )
        active = byte >= 0
        kept = {k: jnp.where(active.reshape(-1, *[1] * (v.ndim - 1)), v, state[k]) for k, v in new.items()}
        return (kept, cache), (active & ~inside & (state["depth"] > 0), state["lo"])

    numbers = {name: value for name, value in state.items() if name != "cache"}
    cache = _open_cache(config, params, state["cache"])
    (numbers, cache), (emitted, codes) = jax.lax.scan(one_byte, (numbers, cache), chunk.T)
    return numbers | {"cache": cache}, emitted.T, codes.T


def _decode_windows(constants, rows, *, config, bits, align, max_bytes):
    """Text of each code (uint32[B]): (uint8[B, T], lengths int32[B])."""
    params, first = constants
    (codes,) = rows
    n_lanes, longest = codes.shape[0], max_bytes + bits // 8 + 2
    lanes = jnp.arange(n_lanes)

    def descend(carry):
        step, done, lo, size, depth, cdf, cache, text = carry
        total = cdf[:, -1]
        # Only the 255 boundaries between children are looked at: the outer one may be 2**32.
        inner = cdf[:, 1:256]
        at_root = jnp.arange(1, 256, dtype=jnp.uint32) + windows.scale(
            inner, total[:, None], jnp.uint32((1 << bits) - 256), xp=jnp
        )
        at_node = lo[:, None] + 1 + windows.scale(inner, total[:, None], (size - 1)[:, None], xp=jnp)
        boundaries = jnp.where(step == 0, at_root, at_node)
        symbol = jnp.sum(boundaries <= codes[:, None], axis=-1, dtype=jnp.int32)
        below, above = cdf[lanes, symbol], cdf[lanes, symbol + 1]
        root = windows.root_child(symbol.astype(jnp.uint32), below, above, total, bits=bits, xp=jnp)
        node = windows.child(lo, size, below, above, total, xp=jnp)
        lo, size = (
            jnp.where(done, old, jnp.where(step == 0, r, n)) for old, r, n in zip((lo, size), root, node, strict=True)
        )
        depth = jnp.where(done, depth, depth + 1)
        text = jax.lax.dynamic_update_index_in_dim(text, symbol.astype(jnp.uint8), step, 0)
        freqs, cache = _advance(config, params, symbol, jnp.full(n_lanes, step + 1), cache, max_bytes)
        return step + 1, done | (lo == codes), lo, size, depth, _children(freqs, symbol, align), cache, text

    cache = _open_cache(config, params, exact.init_cache(config, n_lanes, max_bytes + 1))
    zeros = jnp.zeros(n_lanes, jnp.uint32)
    start = (
        jnp.int32(0),
        zeros > 0,
        zeros,
        zeros,
        zeros.astype(jnp.int32),
        jnp.tile(first, (n_lanes, 1)),
        cache,
        jnp.zeros((longest, n_lanes), jnp.uint8),
    )
    _, _, _, _, depth, _, _, text = jax.lax.while_loop(lambda c: (c[0] < longest) & ~jnp.all(c[1]), descend, start)
    return text.T, depth
