"""Packed weights: bytes that store the result of `quantize` exactly, and their files.

A file is an `io.container`; its header has name, representation, shape, axis and bytes of each tensor.
"""

import dataclasses
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from jaxtyping import Array, Float, Float32

from compressed_lm.errors import InputError
from compressed_lm.io.container import Kind, Payload
from compressed_lm.weights.plain import Dense
from compressed_lm.weights.protocol import Representation, from_rows, rows_shape, to_rows
from compressed_lm.weights.registry import representation
from compressed_lm.weights.storage import to_float32

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
        payload: scales, masks and codes; the other attributes define their layout. A view of the mapped file, if it was
            read from one.
    """

    spec: str
    shape: tuple[int, ...]
    axis: int
    payload: bytes | memoryview = dataclasses.field(repr=False)


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
    payload = b"".join(part.to_bytes(parts[name]) for name, part in layout.items())
    return PackedTensor(str(rep), tuple(w.shape), axis, payload)


def pack_dense(w: np.ndarray) -> PackedTensor:
    """Returns an array packed in its own type, float32, bfloat16 or float16; its payload is a view of the array."""
    w = np.ascontiguousarray(w)
    payload = w.reshape(-1).view(np.uint8).data
    return PackedTensor(dense_spec(w.dtype), tuple(w.shape), -1, payload)


def dense_spec(dtype: npt.DTypeLike) -> str:
    """Returns the spec of the format that stores numbers of a type exactly.

    Raises:
        InputError: another type than float32, bfloat16 or float16.
    """
    return str(Dense(np.dtype(dtype).name))


def stored(packed: PackedTensor) -> np.ndarray:
    """Returns the array of the packed shape: in its own type, for `dense` as a view of the payload, else `unpack`.

    Raises:
        InputError: the payload does not match the representation and shape.
    """
    rep, layout, shape = _layout(packed)
    if not isinstance(rep, Dense):
        return unpack(packed)
    rows = layout["values"].view(packed.payload)
    return rows.reshape(packed.shape) if packed.axis == -1 else np.swapaxes(rows.reshape(shape), -1, -2)


def stored_dtype(packed: PackedTensor) -> str:
    """Returns the name of the type of `stored`."""
    rep = representation(packed.spec)
    return rep.dtype if isinstance(rep, Dense) else "float32"


def unpack(packed: PackedTensor) -> Float32[np.ndarray, "..."]:
    """Returns the array of the packed shape: `quantize(w)` for float32 w, bit for bit.

    Raises:
        InputError: the payload does not match the representation and shape.
    """
    rep, layout, shape = _layout(packed)
    if isinstance(rep, Dense):
        values = stored(packed)
        return values.copy() if values.dtype == np.float32 else to_float32(values)  # never a view of the file
    parts: dict[str, np.ndarray] = {}
    start, content = 0, memoryview(packed.payload)
    for name, part in layout.items():
        try:
            parts[name] = part.from_bytes(bytes(content[start : start + part.nbytes]))
        except ValueError as error:
            raise InputError(
                f"The payload for {packed.spec} of shape {packed.shape} cannot be read: {name} has {error}. "
                "Pack the weights again."
            ) from error
        start += part.nbytes
    rows = rep._restore(rep._expand(parts, shape), shape[-1])
    return np.asarray(from_rows(rows, packed.shape, packed.axis))


def _layout(packed: PackedTensor) -> tuple[Representation, dict[str, Any], tuple[int, ...]]:
    """Returns the representation of a packed array, the stored types of its parts, and the shape of its rows.

    Raises:
        InputError: the payload has another size.
    """
    rep, shape = representation(packed.spec), rows_shape(packed.shape, packed.axis)
    layout = rep._layout(shape)
    expected = sum(part.nbytes for part in layout.values())
    if packed.nbytes != expected:
        raise InputError(
            f"A payload of {packed.nbytes} bytes was given for {packed.spec} of shape {packed.shape}; expected "
            f"{expected}. Pack the weights again."
        )
    return rep, layout, shape


def save_dense(
    path: str | os.PathLike,
    described: Mapping[str, tuple[tuple[int, ...], npt.DTypeLike]],
    content: Iterable[np.ndarray | bytes],
) -> None:
    """Writes arrays in their own types to a file of `save_packed`, piece by piece: only one piece is in memory.

    Args:
        path: the file; it appears only when it is complete.
        described: shape and type (float32, bfloat16 or float16) of each array, by name.
        content: the numbers of all arrays in the order of `described`: arrays, or any pieces of their bytes (little
            endian).

    Raises:
        InputError: another type.
        ValueError: the pieces have another size than the arrays.
    """
    sizes = [math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in described.values()]
    entries = [
        {"name": name, "spec": dense_spec(dtype), "shape": list(shape), "axis": -1, "nbytes": nbytes}
        for (name, (shape, dtype)), nbytes in zip(described.items(), sizes, strict=True)
    ]

    def pieces() -> Iterator[bytes | memoryview]:
        left = sum(sizes)
        for piece in content:
            chunk = pack_dense(piece).payload if isinstance(piece, np.ndarray) else piece
            left -= len(chunk)
            yield chunk
        if left:
            raise ValueError(f"{sum(sizes) - left:,} bytes were given, and {sum(sizes):,} described")

    _FILE.write(path, {"tensors": entries}, pieces())


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


def _packed_tensor(entry: dict, shape: tuple[int, ...], payload: memoryview) -> PackedTensor:
    return PackedTensor(str(entry["spec"]), shape, int(entry["axis"]), payload)
