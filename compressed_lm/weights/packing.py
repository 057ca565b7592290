"""Packed weights: bytes that store the result of `quantize` exactly, and their files.

A file is an `io.container`; its header has name, representation, shape, axis and bytes of each tensor.
"""

import dataclasses
import os
from collections.abc import Mapping

import jax
import numpy as np
from jaxtyping import Array, Float, Float32

from compressed_lm.errors import InputError
from compressed_lm.io.container import Kind, Payload
from compressed_lm.weights.protocol import Representation, from_rows, rows_shape, to_rows
from compressed_lm.weights.registry import representation

MAGIC = b"\x89CLW\r\n\x1a\n"  # as in PNG: a non-text byte, and line ends that a text-mode transfer changes
FORMAT_VERSION = 1
_FILE = Kind(MAGIC, FORMAT_VERSION, "packed weights", "`save_packed`", "pack the weights again")


@dataclasses.dataclass(frozen=True)
class PackedTensor(Payload):
    """A packed array.

    Attributes:
        spec: spec of the representation.
        shape: shape of the array.
        axis: reduction axis, -2 or -1.
        payload: scales, masks and codes; the other attributes define their layout.
    """

    spec: str
    shape: tuple[int, ...]
    axis: int
    payload: bytes = dataclasses.field(repr=False)


def pack(
    w: Float[Array | np.ndarray, "..."],
    rep: "Representation | str",
    *,
    params: Mapping[str, jax.Array] | None = None,
    axis: int = -2,
) -> PackedTensor:
    """Returns w quantised and packed.

    Args:
        w: float array, converted to float32.
        rep: representation or its spec.
        params: see `Representation.quantize`.
        axis: -2 for kernels [..., inputs, outputs], -1 for other arrays.

    Raises:
        InputError: a representation without a stored form (`noise`), or an error of `quantize`.
    """
    rep = representation(rep)
    layout = rep._layout(rows_shape(w.shape, axis))
    rows = to_rows(w, axis)
    parts = jax.device_get(rep._stored_parts(rep._prepare(rows), params, None, None))
    parts = rep._compact(parts)
    payload = b"".join(stored.to_bytes(parts[name]) for name, stored in layout.items())
    return PackedTensor(str(rep), tuple(w.shape), axis, payload)


def unpack(packed: PackedTensor) -> Float32[np.ndarray, "..."]:
    """Returns the array of the packed shape: `quantize(w)` for float32 w, bit for bit.

    Raises:
        InputError: the payload does not match the representation and shape.
    """
    rep, shape = representation(packed.spec), rows_shape(packed.shape, packed.axis)
    layout = rep._layout(shape)
    expected = sum(stored.nbytes for stored in layout.values())
    if packed.nbytes != expected:
        raise InputError(
            f"A payload of {packed.nbytes} bytes was given for {packed.spec} of shape {packed.shape}; expected "
            f"{expected}. Pack the weights again."
        )
    parts: dict[str, np.ndarray] = {}
    start = 0
    for name, stored in layout.items():
        try:
            parts[name] = stored.from_bytes(packed.payload[start : start + stored.nbytes])
        except ValueError as error:
            raise InputError(
                f"The payload for {packed.spec} of shape {packed.shape} cannot be read: {name} has {error}. "
                "Pack the weights again."
            ) from error
        start += stored.nbytes
    rows = rep._restore(rep._expand(parts, shape), shape[-1])
    return np.asarray(from_rows(rows, packed.shape, packed.axis))


def save_packed(path: str | os.PathLike, tensors: Mapping[str, PackedTensor]) -> None:
    """Writes packed tensors by name to one file, atomically."""
    described = [
        {"name": name, "spec": t.spec, "shape": list(t.shape), "axis": t.axis, "nbytes": t.nbytes}
        for name, t in tensors.items()
    ]
    _FILE.write(path, {"tensors": described}, (t.payload for t in tensors.values()))


def load_packed(path: str | os.PathLike) -> dict[str, PackedTensor]:
    """Returns the packed tensors by name, in the order of the file, of a file written by `save_packed`.

    Raises:
        InputError: the file is missing, of another kind or version, truncated or changed, or its header does not
            describe its payloads.
    """
    return _FILE.read(path, _packed_tensor)[1]


def _packed_tensor(entry: dict, shape: tuple[int, ...], payload: bytes) -> PackedTensor:
    return PackedTensor(str(entry["spec"]), shape, int(entry["axis"]), payload)
