"""Packed weights: bytes that hold what `quantize` returns, exactly, and files of them.

A file is 8 bytes of magic; header length (u32, little endian); header (JSON: format version and, for each tensor, name,
representation, shape, axis, bytes); the payloads one after the other; SHA-256 of all that stands before it.
"""

import dataclasses
import functools
import hashlib
import json
import math
import os
import pathlib
import struct
from collections.abc import Mapping

import jax
import numpy as np

from compressed_lm.errors import InputError
from compressed_lm.weights.protocol import Representation, from_rows, rows_shape, to_rows
from compressed_lm.weights.registry import representation

MAGIC = b"\x89CLW\r\n\x1a\n"  # as in PNG: a non-text byte, and line ends that a text-mode transfer would change
FORMAT_VERSION = 1
_DIGEST = hashlib.sha256().digest_size


@dataclasses.dataclass(frozen=True)
class PackedTensor:
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

    @property
    def nbytes(self) -> int:
        """Stored bytes."""
        return len(self.payload)

    @property
    def bits_per_weight(self) -> float:
        """Stored bits over weights."""
        return 8 * self.nbytes / max(1, math.prod(self.shape))


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
    header = {
        "format_version": FORMAT_VERSION,
        "tensors": [
            {"name": name, "spec": t.spec, "shape": list(t.shape), "axis": t.axis, "nbytes": t.nbytes}
            for name, t in tensors.items()
        ],
    }
    text = json.dumps(header).encode()
    chunks = [MAGIC, struct.pack("<I", len(text)), text, *(t.payload for t in tensors.values())]
    digest = hashlib.sha256()
    path = pathlib.Path(path)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        for chunk in chunks:
            digest.update(chunk)
            file.write(chunk)
        file.write(digest.digest())
    os.replace(temporary, path)


def load_packed(path) -> dict[str, PackedTensor]:
    """Returns the packed tensors of a file that `save_packed` wrote, by name, in its order.

    Raises:
        InputError: no such file, not a file of packed weights, truncated, changed, of another version, or with a header
            that does not describe its payloads.
    """
    path = pathlib.Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}). Give a file that `save_packed` wrote.") from error
    if not content.startswith(MAGIC):
        raise InputError(
            f"{path} is not a file of packed weights: it does not begin with the bytes that `save_packed` writes. "
            "Give a file that it wrote."
        )
    body = memoryview(content)[:-_DIGEST]
    if len(body) < len(MAGIC) + 4 or hashlib.sha256(body).digest() != content[-_DIGEST:]:
        raise InputError(
            f"{path} was truncated or changed: its {len(content)} bytes do not match the checksum at their end. "
            "Restore it from its source, or pack the weights again."
        )
    (length,) = struct.unpack_from("<I", body, len(MAGIC))
    start = len(MAGIC) + 4 + length
    try:
        header = json.loads(bytes(body[len(MAGIC) + 4 : start]))
        version = header["format_version"]
        read = functools.partial(_read_entries, header, body, start) if version == FORMAT_VERSION else dict
        tensors = read()
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path} has a header that cannot be read ({error!r}), though its checksum is right: another program wrote "
            "it. Pack the weights again."
        ) from error
    if version != FORMAT_VERSION:
        raise InputError(
            f"{path} has format version {version}; this package reads version {FORMAT_VERSION}. Read it with the "
            "version of compressed_lm that wrote it."
        )
    return tensors


def _read_entries(header, body, start):
    """Returns the tensors that a header describes. Raises ValueError unless they take the rest of the file."""
    tensors = {}
    for entry in header["tensors"]:
        shape, nbytes = tuple(int(n) for n in entry["shape"]), int(entry["nbytes"])
        if min((nbytes, *shape)) < 0 or start + nbytes > len(body) or entry["name"] in tensors:
            raise ValueError(f"the entry {entry}")
        payload = bytes(body[start : start + nbytes])
        tensors[entry["name"]] = PackedTensor(str(entry["spec"]), shape, int(entry["axis"]), payload)
        start += nbytes
    if start != len(body):
        raise ValueError(f"{len(body) - start} bytes that no entry describes")
    return tensors
