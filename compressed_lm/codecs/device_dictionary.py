"""Encoder and decoder of `coding.dictionary` on the device: batch slots over the same tables.

A slot has one document and processes one chunk of it per call of the compiled program. Its state is carried to the next
call, so that memory is bounded by slots x chunk. Documents of similar length run together. Tables and steps are those
of the host (see `coding.longest_match`), so the numbers are the same.
"""

import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from compressed_lm.codecs.local_devices import LocalMap, block_rows, map_over_local_devices, replicated
from compressed_lm.coding.dictionary import Dictionary
from compressed_lm.coding.entries import SLOT_BYTES

CHUNK = 2048
"""Bytes of text that a slot reads or writes per call."""


def encode(dictionary: Dictionary, documents: Sequence[bytes]) -> list[np.ndarray]:
    """Returns `dictionary.encode_batch(documents)`: int32[T] for each document."""
    ids, tables = dictionary.ids, replicated((dictionary.cells, dictionary.ids))
    data = [np.frombuffer(document, np.uint8) for document in documents]
    numbers: list[list[np.ndarray]] = [[] for _ in documents]
    for running in _groups([len(d) for d in data]):
        read, state = 0, np.zeros(len(running), np.uint32)
        while len(running):
            text = [data[i][read : read + CHUNK] for i in running]
            rows = {"text": _padded(text, np.uint8), "length": _lengths(text), "state": state}
            found, counts, state = _program(_encode_chunk)(tables, rows)
            read += CHUNK
            going = np.array([len(data[i]) > read for i in running])
            for slot, i in enumerate(running):
                numbers[i].append(found[slot, : counts[slot]].copy())
                if not going[slot] and state[slot]:  # the document's last token
                    numbers[i].append(ids[state[slot : slot + 1] >> 8])
            running, state = running[going], state[going]
    return [np.concatenate([np.zeros(0, np.int32), *n]) for n in numbers]


def decode(dictionary: Dictionary, sequences: Sequence) -> list[bytes]:
    """Returns `dictionary.decode_batch(sequences)`.

    Raises:
        ValueError: a number is outside the dictionary.
    """
    sequences = [dictionary.checked(numbers) for numbers in sequences]
    tables = replicated((dictionary.tails, dictionary.heads, dictionary.depth))
    texts: list[list[bytes]] = [[] for _ in sequences]
    for running in _groups([len(s) for s in sequences]):
        taken, skip = np.zeros(len(running), np.int64), np.zeros(len(running), np.int32)
        while len(running):
            tokens = [sequences[i][start : start + CHUNK] for i, start in zip(running, taken, strict=True)]
            rows = {"numbers": _padded(tokens, np.int32), "count": _lengths(tokens), "skip": skip}
            text, lengths, n_taken, skip = _program(_decode_chunk)(tables, rows)
            for slot, i in enumerate(running):
                texts[i].append(text[slot, : lengths[slot]].tobytes())
            taken += n_taken
            going = taken < [len(sequences[i]) for i in running]
            running, taken, skip = running[going], taken[going], skip[going]
    return [b"".join(t) for t in texts]


@functools.cache
def _program(step: Callable) -> LocalMap:
    return map_over_local_devices(step, sequential=True)


def _groups(lengths: Sequence[int]) -> Iterator[np.ndarray]:
    """Returns groups of indices of non-empty items, longest first; a group fills the slots of all devices."""
    order = np.argsort(-np.asarray(lengths, np.int64), kind="stable")
    order = order[: np.count_nonzero(lengths)]
    size = block_rows()
    return (order[start : start + size] for start in range(0, len(order), size))


def _padded(rows: Sequence[np.ndarray], dtype: npt.DTypeLike) -> np.ndarray:
    padded = np.zeros((len(rows), CHUNK), dtype)
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = values
    return padded


def _lengths(rows: Sequence[np.ndarray]) -> np.ndarray:
    return np.array([len(row) for row in rows], np.int32)


def _encode_chunk(
    tables: tuple[jax.Array, jax.Array], rows: dict[str, jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Parses a chunk of each slot.

    Args:
        tables: cells uint32[C], ids int32[C].
        rows: "text" uint8[B, L], "length" int32[B] and "state" uint32[B], the last cell of the previous chunk.

    Returns:
        Numbers int32[B, L] of the tokens that end within the chunk; their count int32[B]; the last cell uint32[B].
    """
    cells, ids = tables

    def step(state: jax.Array, inputs: tuple) -> tuple[jax.Array, tuple]:
        byte, place = inputs
        begin, child = cells[byte], cells[(state >> 8) + byte]
        missing = ((child ^ begin) & 255) != 0
        live = place < rows["length"]
        return jnp.where(live, jnp.where(missing, begin, child), state), (state, live & missing)

    text = rows["text"].T.astype(jnp.uint32)
    final, (states, ended) = jax.lax.scan(step, rows["state"], (text, jnp.arange(len(text))))
    states, ended = states.T, ended.T
    place = jnp.where(ended, jnp.cumsum(ended, axis=1) - 1, len(text))
    slot = jnp.arange(len(place))[:, None]
    numbers = jnp.zeros(states.shape, jnp.int32).at[slot, place].set(ids[states >> 8], mode="drop")
    return numbers, jnp.sum(ended, axis=1, dtype=jnp.int32), final


def _decode_chunk(
    tables: tuple[jax.Array, jax.Array, jax.Array], rows: dict[str, jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Writes up to L bytes of each slot.

    Args:
        tables: tails uint8[V, 16], heads int32[V], depth int32[V].
        rows: "numbers" int32[B, L], "count" int32[B], "skip" int32[B], bytes of the first entry that are already
            written.

    Returns:
        Text uint8[B, L]; its length int32[B]; the number of completely written entries int32[B]; the written bytes of
        the next entry int32[B].
    """
    tails, heads, depth = tables
    numbers, slot = rows["numbers"], jnp.arange(len(rows["count"]))[:, None]
    chunk = numbers.shape[1]
    place = jnp.arange(chunk)
    known = place < rows["count"][:, None]
    # A slot does not read beyond its chunk, so longer entries count as chunk + 1 bytes, which keeps sums in 32 bits.
    lengths = jnp.where(known, depth[numbers], 0).at[:, 0].add(-rows["skip"])
    ends = jnp.cumsum(jnp.minimum(lengths, chunk + 1), axis=1)
    begins = jnp.concatenate([jnp.zeros_like(ends[:, :1]), ends[:, :-1]], axis=1)
    # The entry of byte j is the number of entries that begin at or before it, minus one.
    begun = jnp.zeros((len(slot), chunk), jnp.int32).at[slot, jnp.where(known, begins, chunk)].add(1, mode="drop")
    token = jnp.maximum(jnp.cumsum(begun, axis=1) - 1, 0)
    within = place - jnp.take_along_axis(begins, token, axis=1) + jnp.where(token == 0, rows["skip"][:, None], 0)
    node = _with_byte(jnp.take_along_axis(numbers, token, axis=1), within, heads, depth)
    inside = within - jnp.maximum(depth[node] - SLOT_BYTES, 0)
    length = jnp.minimum(ends[:, -1], chunk)
    text = jnp.where(place < length[:, None], tails[node, jnp.clip(inside, 0, SLOT_BYTES - 1)], 0)
    taken = jnp.sum(known & (ends <= chunk), axis=1, dtype=jnp.int32)
    written = jnp.where(taken > 0, jnp.take_along_axis(ends, jnp.maximum(taken - 1, 0)[:, None], axis=1)[:, 0], 0)
    skip = jnp.where(taken < rows["count"], length - written, 0) + jnp.where(taken == 0, rows["skip"], 0)
    return text.astype(jnp.uint8), length, taken, skip


def _with_byte(nodes: jax.Array, within: jax.Array, heads: jax.Array, depth: jax.Array) -> jax.Array:
    """Returns the prefix of each entry whose tail has the entry's byte `within`."""

    def before(nodes: jax.Array) -> jax.Array:
        return (within < depth[nodes] - SLOT_BYTES) & (heads[nodes] >= 0)

    return jax.lax.while_loop(
        lambda nodes: before(nodes).any(), lambda nodes: jnp.where(before(nodes), heads[nodes], nodes), nodes
    )
