"""M1 for codecs: exact integer tables of bytes, teacher-forced and cached, on the local devices."""

import dataclasses
import functools
import io
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from compressed_lm.codecs import device_coder
from compressed_lm.codecs.local_devices import LocalMap, map_over_local_devices, replicated
from compressed_lm.coding import tables
from compressed_lm.coding.tables import END
from compressed_lm.errors import InputError
from compressed_lm.io import npz, strict_json
from compressed_lm.models import exact, exact_shapes


class M1:
    """Byte model in exact integer form.

    It pickles as its weights. All models of one shape share their compiled programs in a process.

    Attributes:
        params: integer weights.
        config: their shape.
        hash: hex digest of both.
    """

    def __init__(self, params: exact.ExactParams, config: exact.ExactConfig) -> None:
        self.params, self.config = params, config
        self.hash = exact.fingerprint(params, config)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("params", "config", "hash")}  # without copies on the device

    @property
    def flops_per_byte(self) -> float:
        """2 N, as in Lester et al. 2024, section 3.8; without embeddings and softmax."""
        return 2.0 * self.config.n_params

    @functools.cached_property
    def device_params(self) -> exact.ExactParams:
        """The weights on each of the local devices."""
        return replicated(self.params)

    def to_bytes(self) -> bytes:
        """Returns the weights as an .npz file without pickles."""
        arrays = {f"{group}/{name}": value for group, members in self.params.items() for name, value in members.items()}
        header = np.frombuffer(json.dumps(dataclasses.asdict(self.config), sort_keys=True).encode(), np.uint8)
        buffer = io.BytesIO()
        named: dict[str, Any] = {k: arrays[k] for k in sorted(arrays)}
        np.savez_compressed(buffer, config=header, **named)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "M1":
        """Returns the model that `to_bytes` wrote. Raises InputError for other bytes."""
        try:
            archive = npz.read_arrays(data)
            config = exact.ExactConfig(**strict_json.parse(archive["config"].tobytes()))
            params: exact.ExactParams = {}
            for key, values in archive.items():
                if key != "config":
                    group, name = key.split("/")
                    params.setdefault(group, {})[name] = values
            exact_shapes.check(params, config)
        except Exception as error:
            raise InputError(
                f"{len(data)} bytes were given as M1's weights; the .npz file of a saved codec was expected "
                f"({error}). Build the codec again."
            ) from error
        return cls(params, config)

    def byte_frequencies(self, texts: npt.ArrayLike) -> np.ndarray:
        """Returns frequencies of the next byte after each text, without the end of a document.

        Args:
            texts: uint8[N, D], 0 <= D < context.

        Returns:
            uint32[N, 256], each row summing to 2**16.
        """
        texts = np.asarray(texts)
        # Few lengths, since each is compiled separately; most texts are short.
        length = next((n for n in (8, 16, 32, 64) if texts.shape[1] < n < self.config.context), self.config.context)
        inputs = np.full((len(texts), length), END, np.int32)
        inputs[:, 1 : texts.shape[1] + 1] = texts
        last = np.full(len(texts), texts.shape[1], np.int32)
        return _program(_next_byte, self.config)(self.device_params, (inputs, last))

    def table_entries(self, symbols: npt.ArrayLike) -> np.ndarray:
        """Returns table entries of symbols in one teacher-forced pass; each row has its own context.

        Args:
            symbols: int32[N, L], bytes and 256 for the end of a document; L <= context. Symbols after the end are
                ignored.

        Returns:
            uint32[N, L, 2]: cumulative frequency below the symbol, and its frequency.
        """
        return _program(_entries, self.config)(self.device_params, np.asarray(symbols, np.int32))

    def table_entries_stream(self, symbols: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yields `table_entries` of each row int32[L], computed in batches that fill the devices; see `LocalMap`."""
        return _program(_entries, self.config).stream(self.device_params, symbols)

    def cached_entries_stream(self, symbols: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yields the same entries from cached steps, as decoders compute them; for checks of that they are the same."""
        return _program(device_coder.cached_entries, self.config).stream(self.device_params, symbols)

    @functools.cached_property
    def first_table(self) -> np.ndarray:
        """uint32[258], cumulative table of the 257 symbols at the start of a context."""
        return _program(_tables, self.config)(self.device_params, np.full((1, 1), END, np.int32))[0, 0]

    def decode_context(self, state: np.ndarray, streams: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns `device_coder.decode_context` of these rows."""
        return _program(device_coder.decode_context, self.config)(self.device_params, (state, streams))


_LOOPS = device_coder.decode_context, device_coder.cached_entries


@functools.lru_cache(maxsize=32)
def _program(fn: Callable, config: exact.ExactConfig) -> LocalMap:
    """Returns a function on the local devices; each is compiled once per process and number of rows."""
    return map_over_local_devices(functools.partial(fn, config), sequential=fn in _LOOPS)


def _next_byte(config: exact.ExactConfig, params: exact.ExactParams, rows: tuple[jax.Array, jax.Array]) -> jax.Array:
    inputs, last = rows
    logits = exact.forward(params, config, inputs)
    at_last = jnp.take_along_axis(logits, last[:, None, None], axis=1)[:, 0, :256]
    return tables.frequencies(exact.weights_of(at_last), xp=jnp)


def _tables(config: exact.ExactConfig, params: exact.ExactParams, inputs: jax.Array) -> jax.Array:
    """Returns the cumulative table after each input int32[B, L], uint32[B, L, 258]."""
    return tables.cumulative(
        tables.frequencies(exact.weights_of(exact.forward(params, config, inputs)), xp=jnp), xp=jnp
    )


def _entries(config: exact.ExactConfig, params: exact.ExactParams, symbols: jax.Array) -> jax.Array:
    inputs = jnp.pad(symbols[:, :-1], ((0, 0), (1, 0)), constant_values=END)
    cdf = _tables(config, params, inputs)
    below, above = (jnp.take_along_axis(cdf, symbols[..., None] + i, axis=-1)[..., 0] for i in (0, 1))
    return jnp.stack([below, above - below], axis=-1)
