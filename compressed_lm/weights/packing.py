"""Packed weights: bytes that hold what `quantize` returns, exactly, and files of them.

A file is a `container` whose header has, for each tensor, name, representation, shape, axis and bytes.
"""

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np

from compressed_lm.errors import InputError
from compressed_lm.io.container import Kind, Payload
from compressed_lm.weights.protocol import Representation, from_rows, rows_shape, to_rows
from compressed_lm.weights.registry import representation

MAGIC = b"\x89CLW\r\n\x1a\n"  # as in PNG: a non-text byte, and line ends that a text-mode transfer would change
FORMAT_VERSION = 1
_FILE = Kind(MAGIC, FORMAT_VERSION, "packed weights", "`save_packed`", "pack the weights again")


@dataclasses.dataclass(frozen=True)
class PackedTensor(Payload):
    """A quantised array as it is stored.

    Attributes:
        spec: spelling of the representation.
        shape: of the array.
        axis: reduction axis, -2 or -1.
        payload: scales, masks and codes; what they are follows from the other three.
    """

    spec: str
    shape: tuple[int, ...]
    axis: int
    payload: bytes = dataclasses.field(repr=False)


def pack(w, rep: "Representation | str", *, params=None, axis: int = -2) -> PackedTensor:
    """Returns w quantised and packed.

    Args:
        w: float array, taken as float32.
        rep: representation or its spelling.
        params: see `Representation.quantize`.
        axis: -2 for kernels [..., inputs, outputs], -1 for other arrays.

    Raises:
        InputError: a representation that stores nothing (`noise`), or as `quantize`.
    """
    rep = representation(rep)
    layout = rep._layout(rows_shape(w.shape, axis))
    rows = to_rows(w, axis)
    parts = jax.device_get(rep._stored_parts(rep._prepare(rows), params, None, None))
    parts = rep._compact(parts)
    payload = b"".join(stored.to_bytes(parts[name]) for name, stored in layout.items())
    return PackedTensor(str(rep), tuple(w.shape), axis, payload)


def unpack(packed: PackedTensor) -> np.ndarray:
    """Returns float32 of the packed shape: the bits of `quantize(w)` for float32 w.

    Raises:
        InputError: a payload that is not one of this representation and shape.
    """
    rep, shape = representation(packed.spec), rows_shape(packed.shape, packed.axis)
    layout = rep._layout(shape)
    expected = sum(stored.nbytes for stored in layout.values())
    if packed.nbytes != expected:
        raise InputError(
            f"A payload of {packed.nbytes} bytes was given for {packed.spec} of shape {packed.shape}; expected "
            f"{expected}. Pack the weights again."
        )
    parts, start = {}, 0
    for name, stored in layout.items():
        try:
            parts[name] = stored.from_bytes(packed.payload[start : start + stored.nbytes])
        except ValueError as error:
            raise InputError(
                f"The payload for {packed.spec} of shape {packed.shape} cannot be read: {name} holds {error}. "
                "Pack the weights again."
            ) from error
        start += stored.nbytes
    rows = rep._restore(rep._expand(parts, shape), shape[-1])
    return np.asarray(from_rows(rows, packed.shape, packed.axis))


def save_packed(path, tensors: Mapping[str, PackedTensor]) -> None:
    """Writes packed tensors by name as one file, at once or not at all."""
    described = [
        {"name": name, "spec": t.spec, "shape": list(t.shape), "axis": t.axis, "nbytes": t.nbytes}
        for name, t in tensors.items()
    ]
    _FILE.write(path, {"tensors": described}, (t.payload for t in tensors.values()))


def load_packed(path) -> dict[str, PackedTensor]:
    """Returns the packed tensors of a file that `save_packed` wrote, by name, in its order.

    Raises:
        InputError: no such file, not a file of packed weights, truncated, changed, of another version, or with a header
            that does not describe its payloads.
    """
    return _FILE.read(path, _packed_tensor)[1]


def _packed_tensor(entry, shape, payload):
    return PackedTensor(str(entry["spec"]), shape, int(entry["axis"]), payload)
