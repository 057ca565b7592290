"""M1 for codecs: a byte model in exact integer form, which runs on the CPU or on the local GPUs or TPUs."""

import dataclasses
import functools
import importlib.metadata
import importlib.util
import io
import json
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from compressed_lm import exact
from compressed_lm.codecs.m1_engine import Engine
from compressed_lm.errors import InputError
from compressed_lm.io import npz, strict_json

VARIABLE = "COMPRESSED_LM_M1"
"""Environment variable: "host" (the CPU, without JAX), "devices" (those of JAX), or "auto", which is the default."""


class M1:
    """Byte model in exact integer form. It pickles as its weights.

    Attributes:
        params: integer weights.
        config: their shape.
        hash: hex digest of both.
    """

    def __init__(self, params: exact.ExactParams, config: exact.ExactConfig) -> None:
        self.params, self.config = params, config
        self.hash = exact.fingerprint(params, config)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("params", "config", "hash")}  # without compiled programs

    @property
    def flops_per_byte(self) -> float:
        """2 N, as in Lester et al. 2024, section 3.8; without embeddings and softmax."""
        return 2.0 * self.config.n_params

    @property
    def engine(self) -> Engine:
        """The program that runs this model: on the CPU, or on JAX's devices if it has others; see `VARIABLE`."""
        return self._host if runs_on_host() else self._devices

    @functools.cached_property
    def _host(self) -> Engine:
        from compressed_lm.codecs.host_m1 import HostM1

        return HostM1(self.params, self.config)

    @functools.cached_property
    def _devices(self) -> Engine:
        from compressed_lm.codecs.device_m1 import DeviceM1

        return DeviceM1(self.params, self.config)

    @property
    def first_table(self) -> np.ndarray:
        """uint32[258], cumulative table of the 257 symbols at the start of a context."""
        return self.engine.first_table()

    def byte_frequencies(self, texts: npt.ArrayLike) -> np.ndarray:
        """Returns frequencies of the next byte after each text, without the end of a document.

        Args:
            texts: uint8[N, D], 0 <= D < context.

        Returns:
            uint32[N, 256], each row summing to 2**16.
        """
        return self.engine.frequencies(np.asarray(texts))

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
            exact.check(params, config)
        except Exception as error:
            raise InputError(
                f"{len(data)} bytes were given as M1's weights; the .npz file of a saved codec was expected "
                f"({error}). Build the codec again."
            ) from error
        return cls(params, config)


def runs_on_host() -> bool:
    """Returns whether M1 runs on the CPU: `VARIABLE` says so, or JAX has no other devices.

    JAX is imported only if a plugin for other devices is installed.

    Raises:
        InputError: the variable has another value than the three.
    """
    chosen = os.environ.get(VARIABLE, "auto")
    if chosen not in ("auto", "host", "devices"):
        raise InputError(f"{VARIABLE}={chosen} was given; expected host, devices or auto.")
    if chosen != "auto":
        return chosen == "host"
    return _only_cpu(os.environ.get("JAX_PLATFORMS", ""))


def rows_together() -> int:
    """Returns the number of texts that M1 reads at the same time, on all devices or cores of this process."""
    if runs_on_host():
        from compressed_lm.exact import host

        return host.ROWS * host.n_threads()
    from compressed_lm.codecs import local_devices

    return local_devices.block_rows()


@functools.cache
def _only_cpu(platforms: str) -> bool:
    if platforms == "cpu" or not _has_plugin():
        return True
    import jax

    return jax.default_backend() == "cpu"


def _has_plugin() -> bool:
    """Returns whether JAX is installed with a plugin for other devices than CPUs."""
    names = ("jax_plugins", "libtpu")
    return any(importlib.util.find_spec(name) for name in names) or bool(
        importlib.metadata.entry_points(group="jax_plugins")
    )
