"""M1 on the local devices of JAX: teacher-forced passes, and loops of cached steps."""

import collections
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from compressed_lm import exact
from compressed_lm.codecs import device_coder, device_windows, window_encoder
from compressed_lm.codecs.local_devices import LocalMap, map_over_local_devices, replicated
from compressed_lm.codecs.m1_engine import Decoded
from compressed_lm.codecs.window_rules import WindowRules
from compressed_lm.coding import tables
from compressed_lm.coding.tables import END
from compressed_lm.exact import device


class DeviceM1:
    """An `m1_engine.Engine`. All models of one shape share their compiled programs in a process.

    Attributes:
        params: integer weights.
        config: their shape.
    """

    def __init__(self, params: exact.ExactParams, config: exact.ExactConfig) -> None:
        self.params, self.config = params, config

    @functools.cached_property
    def device_params(self) -> exact.ExactParams:
        """The weights on each of the local devices."""
        return replicated(self.params)

    def frequencies(self, texts: np.ndarray) -> np.ndarray:
        # Few lengths, since each is compiled separately; most texts are short.
        length = next((n for n in (8, 16, 32, 64) if texts.shape[1] < n < self.config.context), self.config.context)
        inputs = np.full((len(texts), length), END, np.int32)
        inputs[:, 1 : texts.shape[1] + 1] = texts
        last = np.full(len(texts), texts.shape[1], np.int32)
        return _program(_next_byte, self.config)(self.device_params, (inputs, last))

    @functools.cache  # noqa: B019  (a model and its table live as long)
    def first_table(self) -> np.ndarray:
        return _program(_tables, self.config)(self.device_params, np.full((1, 1), END, np.int32))[0, 0]

    def entries(self, segments: Iterable[bytes], *, cached: bool = False) -> Iterator[tuple[bytes, np.ndarray]]:
        context = self.config.context
        waiting: collections.deque[tuple[bytes, int]] = collections.deque()

        def rows() -> Iterator[np.ndarray]:
            for segment in segments:
                n_rows = -(-(len(segment) + 1) // context)
                symbols = np.full((n_rows, context), END, np.int32)
                symbols.reshape(-1)[: len(segment)] = np.frombuffer(segment, np.uint8)
                waiting.append((segment, n_rows))
                yield from symbols

        program = _program(device_coder.cached_entries if cached else teacher_forced, self.config)
        entries = program.stream(self.device_params, rows())
        for first in entries:
            segment, n_rows = waiting.popleft()
            yield segment, np.concatenate([first, *itertools.islice(entries, n_rows - 1)])[: len(segment) + 1]

    def decode(self, streams: Sequence[bytes], *, overrun: int, limit: int) -> list[Decoded]:
        context = self.config.context
        reach = 2 * context + 4
        padded = [np.frombuffer(s + bytes(overrun + 4 + reach), np.uint8) for s in streams]
        state = np.array([[int.from_bytes(p[:4].tobytes(), "big"), 0xFFFFFFFF, 4] for p in padded], np.uint32).reshape(
            -1, 3
        )
        decoded: list[list[np.ndarray]] = [[np.zeros(0, np.uint8)] for _ in streams]
        final: list[tuple[int, int, int] | None] = [None] * len(streams)
        # The longest first, so that the slots of a batch end at about the same time.
        running = sorted(range(len(streams)), key=lambda i: -len(streams[i]))
        while running:
            windows = np.stack([padded[i][state[i, 2] : state[i, 2] + reach] for i in running])
            symbols, n_read, new_state = _program(device_coder.decode_context, self.config)(
                self.device_params, (state[running], windows)
            )
            state[running] = new_state
            still = []
            for i, row, read in zip(running, symbols, n_read, strict=True):
                # A symbol counts if the bytes it was read from exist; up to `overrun` of them may be omitted zeros.
                row = row[: np.searchsorted(read, len(streams[i]) + overrun, side="right")]
                stops = np.flatnonzero(row == END)
                decoded[i].append((row[: stops[0]] if len(stops) else row).astype(np.uint8))
                code, size, n_bytes = state[i].tolist()
                if len(stops) and code < size:
                    final[i] = code, size, n_bytes
                if not len(stops) and len(row) == context and len(decoded[i]) * context < limit + context:
                    still.append(i)
            running = still
        return [Decoded(np.concatenate(d), s) for d, s in zip(decoded, final, strict=True)]

    def encode_windows(self, segments: Iterable[bytes], rules: WindowRules) -> Iterator[np.ndarray]:
        return window_encoder.encode(self, segments, rules)

    def decode_windows(self, codes: Sequence[np.ndarray], rules: WindowRules) -> list[bytes]:
        return device_windows.decode(self, codes, rules)


_LOOPS = device_coder.decode_context, device_coder.cached_entries


@functools.lru_cache(maxsize=32)
def _program(fn: Callable, config: exact.ExactConfig) -> LocalMap:
    """Returns a function on the local devices; each is compiled once per process and number of rows."""
    return map_over_local_devices(functools.partial(fn, config), sequential=fn in _LOOPS)


def _next_byte(config: exact.ExactConfig, params: exact.ExactParams, rows: tuple[jax.Array, jax.Array]) -> jax.Array:
    inputs, last = rows
    logits = device.forward(params, config, inputs)
    at_last = jnp.take_along_axis(logits, last[:, None, None], axis=1)[:, 0, :256]
    return tables.frequencies(device.weights_of(at_last), xp=jnp)


def _tables(config: exact.ExactConfig, params: exact.ExactParams, inputs: jax.Array) -> jax.Array:
    """Returns the cumulative table after each input int32[B, L], uint32[B, L, 258]."""
    return tables.cumulative(
        tables.frequencies(device.weights_of(device.forward(params, config, inputs)), xp=jnp), xp=jnp
    )


def teacher_forced(config: exact.ExactConfig, params: exact.ExactParams, symbols: jax.Array) -> jax.Array:
    """Returns table entries of symbols int32[B, L], each row with its own context, uint32[B, L, 2]."""
    inputs = jnp.pad(symbols[:, :-1], ((0, 0), (1, 0)), constant_values=END)
    cdf = _tables(config, params, inputs)
    below, above = (jnp.take_along_axis(cdf, symbols[..., None] + i, axis=-1)[..., 0] for i in (0, 1))
    return jnp.stack([below, above - below], axis=-1)
