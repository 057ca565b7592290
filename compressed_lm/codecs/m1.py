"""M1 as codecs use it: exact integer tables for bytes, teacher-forced and cached, over the local devices."""

import dataclasses
import functools
import io
import json

import jax
import jax.numpy as jnp
import numpy as np

from compressed_lm.codecs import device_coder
from compressed_lm.codecs.batch_slots import map_over_local_devices
from compressed_lm.coding import tables
from compressed_lm.coding.tables import END
from compressed_lm.errors import InputError
from compressed_lm.io import npz, strict_json
from compressed_lm.models import exact, exact_shapes


class M1:
    """A byte model in exact integer form.

    Attributes:
        params: integer weights.
        config: their shape.
        hash: hex digest of both.
    """

    def __init__(self, params: exact.ExactParams, config: exact.ExactConfig):
        self.params, self.config = params, config
        self.hash = exact.fingerprint(params, config)

    @property
    def flops_per_byte(self) -> float:
        """2 N, as Lester et al. 2024 count M1 (section 3.8); embeddings and softmax left out."""
        return 2.0 * self.config.n_params

    @functools.cached_property
    def device_params(self):
        return jax.tree.map(jnp.asarray, self.params)

    def to_bytes(self) -> bytes:
        """The weights as one .npz file without pickles."""
        arrays = {f"{room}/{name}": value for room, group in self.params.items() for name, value in group.items()}
        header = np.frombuffer(json.dumps(dataclasses.asdict(self.config), sort_keys=True).encode(), np.uint8)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, config=header, **{k: arrays[k] for k in sorted(arrays)})
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "M1":
        """The model that `to_bytes` wrote. Raises InputError on anything else."""
        try:
            archive = npz.read_arrays(data)
            config = exact.ExactConfig(**strict_json.parse(archive["config"].tobytes()))
            params: exact.ExactParams = {}
            for key, values in archive.items():
                if key != "config":
                    room, name = key.split("/")
                    params.setdefault(room, {})[name] = values
            exact_shapes.check(params, config)
        except Exception as error:
            raise InputError(
                f"{len(data)} bytes were given as M1's weights; the .npz file of a saved codec was expected "
                f"({error}). Build the codec again."
            ) from error
        return cls(params, config)

    # Each public method below compiles one program and keeps it.

    def byte_frequencies(self, texts) -> np.ndarray:
        """Frequencies of the next byte after each text, the end of a document left out.

        Args:
            texts: uint8[N, D], 0 <= D < context.

        Returns:
            uint32[N, 256], each row summing to 2**16.
        """
        texts = np.asarray(texts)
        # Few lengths, since each is compiled for itself; most texts are short.
        length = next((n for n in (8, 16, 32, 64) if texts.shape[1] < n < self.config.context), self.config.context)
        inputs = np.full((len(texts), length), END, np.int32)
        inputs[:, 1 : texts.shape[1] + 1] = texts
        last = np.full(len(texts), texts.shape[1], np.int32)
        return self._next_byte(self.device_params, (inputs, last))

    @functools.cached_property
    def _next_byte(self):
        def fn(params, rows):
            inputs, last = rows
            logits = exact.forward(params, self.config, inputs)
            at_last = jnp.take_along_axis(logits, last[:, None, None], axis=1)[:, 0, :256]
            return tables.frequencies(exact.weights_of(at_last), xp=jnp)

        return map_over_local_devices(fn)

    def table_entries(self, symbols) -> np.ndarray:
        """Table entries of symbols, each row a context of its own, in one teacher-forced pass.

        Args:
            symbols: int32[N, L], bytes and 256 for the end of a document; L <= context. What stands after the end does
                not matter.

        Returns:
            uint32[N, L, 2]: cumulative frequency below the symbol, and its frequency.
        """
        return self._entries(self.device_params, (np.asarray(symbols, np.int32),))

    @functools.cached_property
    def _entries(self):
        def fn(params, rows):
            (symbols,) = rows
            inputs = jnp.pad(symbols[:, :-1], ((0, 0), (1, 0)), constant_values=END)
            cdf = tables.cumulative(
                tables.frequencies(exact.weights_of(exact.forward(params, self.config, inputs)), xp=jnp), xp=jnp
            )
            below, above = (jnp.take_along_axis(cdf, symbols[..., None] + i, axis=-1)[..., 0] for i in (0, 1))
            return jnp.stack([below, above - below], axis=-1)

        return map_over_local_devices(fn)

    @functools.cached_property
    def first_table(self) -> np.ndarray:
        """uint32[258], cumulative table of the 257 symbols at the start of a context."""
        entries = self.table_entries(np.arange(exact.N_SYMBOLS, dtype=np.int32)[:, None])[:, 0]
        return np.append(entries[:, 0], np.uint32(tables.TABLE_TOTAL))

    @functools.cached_property
    def decode_context(self):
        """`device_coder.decode_context` over the local devices."""
        return map_over_local_devices(functools.partial(device_coder.decode_context, self.config))
