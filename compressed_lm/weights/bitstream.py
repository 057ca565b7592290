"""Entropy-coded weights on a uniform grid, and their files.

A weight w is stored as the integer level round(w / step) and decoded as level * step; decoder and encoder compute the
same float32, bit for bit. Zero is a level, so small weights become exact zeros. A file is an `io.container`; its header
has name, shape, step, coder and bytes of each tensor, and a record of the caller.

    coded = bitstream.pack(w, step="0.25std", coder="range")
    coded.bits_per_weight  # stored bits, including tables
    w_hat = bitstream.unpack(coded)  # float32, equal to bitstream.quantize(w, "0.25std")
"""

import base64
import dataclasses
import json
import math
import os
import re
from collections.abc import Callable, Mapping

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float32, Int, Int64

from compressed_lm.coding import exp_golomb, levels
from compressed_lm.errors import InputError
from compressed_lm.io.container import Kind, Payload
from compressed_lm.specs import did_you_mean, text
from compressed_lm.weights.storage import Floats

MAGIC = b"\x89CLB\r\n\x1a\n"  # see `packing.MAGIC`
FORMAT_VERSION = 1
MAX_LEVEL = (1 << 31) - 1
MAX_FILES = 48 << 20
"""Largest size of all small files of a file (bytes as JSON)."""
_FILE = Kind(MAGIC, FORMAT_VERSION, "coded weights", "`compressed-lm pack`", "pack the weights again", deflated=True)
_Encode = Callable[[np.ndarray], bytes]  # levels [n] -> payload
_Decode = Callable[[bytes, int], np.ndarray]  # (payload, n) -> levels [n]
_STEP = re.compile(r"\s*(\d*\.?\d*(?:e[+-]?\d+)?)\s*(std)?\s*", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Step:
    """Distance between neighbouring levels, such as 0.01 or 0.25std.

    Attributes:
        size: a positive number.
        relative: whether its unit is the standard deviation of the tensor.
    """

    size: float
    relative: bool = False

    def __str__(self) -> str:
        return text(self.size) + ("std" if self.relative else "")

    def of(self, w: np.ndarray) -> float:
        """Returns the step for an array: a positive float32.

        If the standard deviation is 0, the unit is the root mean square; if that is 0 too, the unit is 1.
        """
        unit = 1.0
        if self.relative and w.size:
            w = w.astype(np.float64)
            unit = float(w.std() or np.sqrt(np.mean(w * w)) or 1.0)
        largest, smallest = float(np.finfo(np.float32).max), float(np.finfo(np.float32).smallest_subnormal)
        return float(np.float32(min(max(self.size * unit, smallest), largest)))


def parse_step(spec: "Step | str | float") -> Step:
    """Returns the step of a spec, such as "0.25std", or of a number.

    Raises:
        InputError: the spec cannot be read, or its size is not positive and finite.
    """
    if isinstance(spec, Step):
        return spec
    match = _STEP.fullmatch(str(spec))
    try:
        size = float(match[1]) if match else 0.0
    except ValueError:
        size = 0.0
    if not match or not 0 < size < math.inf:
        raise InputError(
            f"The step {spec!r} was given; expected a positive number, such as 0.01, or one with std, such as 0.25std, "
            "for a multiple of each tensor's standard deviation."
        )
    return Step(size, bool(match[2]))


@dataclasses.dataclass(frozen=True)
class CodedTensor(Payload):
    """A coded array.

    Attributes:
        shape: shape of the array.
        step: distance between levels; None for the coder float32, which stores the numbers themselves.
        coder: one of `CODERS`.
        payload: the coded levels and their tables.
    """

    shape: tuple[int, ...]
    step: float | None
    coder: str
    payload: bytes = dataclasses.field(repr=False)


def to_levels(w: ArrayLike, step: float) -> Int64[np.ndarray, "..."]:
    """Returns the nearest levels, of w's shape; halves are rounded to even.

    Args:
        w: float array, converted to float32.
        step: a positive number.

    Raises:
        InputError: NaN, infinity, an array of another type, or a level above `MAX_LEVEL`.
    """
    w = _checked(w)
    scaled = w.astype(np.float64)
    scaled /= step  # in place, as below: arrays may have 30 million weights
    largest = max(scaled.max(initial=0), -scaled.min(initial=0))
    if largest > MAX_LEVEL:
        raise InputError(
            f"A step of {step:.3g} was given for weights of up to {np.abs(w).max():.3g}, so levels reach "
            f"{largest:.3g}; expected levels of at most {MAX_LEVEL:,}. Take a larger step."
        )
    return np.rint(scaled, out=scaled).astype(np.int64)


def from_levels(found: Int[np.ndarray, "*shape"], step: float) -> Float32[np.ndarray, "*shape"]:
    """Returns each level times the step, both as float32."""
    return found.astype(np.float32) * np.float32(step)


def quantize(w: ArrayLike, step: "Step | str | float") -> Float32[np.ndarray, "..."]:
    """Returns `unpack(pack(w, step=step))` without coding; raises the errors of `pack`."""
    w = _checked(w)
    size = parse_step(step).of(w)
    return from_levels(to_levels(w, size), size)


def pack(w: ArrayLike, *, coder: str, step: "Step | str | float | None" = None) -> CodedTensor:
    """Returns w quantised and coded.

    Args:
        w: float array, converted to float32.
        coder: range (near the entropy), eg0 or eg (exp-Golomb of order 0 or of the best order), rice (of the best
            order), raw (the least fixed number of bits that holds every level), or float32 for unquantised numbers.
        step: see `parse_step`; required unless the coder is float32.

    Raises:
        InputError: an unknown coder, a missing or unreadable step, or an error of `to_levels`.
    """
    w, encode = _checked(w), _coder(coder)[0]
    if coder == "float32":
        return CodedTensor(w.shape, None, coder, encode(w.reshape(-1)))
    if step is None:
        raise InputError(f"No step was given for the coder {coder}, which needs one. Give a step such as 0.25std.")
    size = parse_step(step).of(w)
    return CodedTensor(w.shape, size, coder, encode(to_levels(w, size).reshape(-1)))


def unpack(coded: CodedTensor) -> Float32[np.ndarray, "..."]:
    """Returns the array of the coded shape: `quantize` of the packed weights, bit for bit.

    Raises:
        InputError: an unknown coder, or a payload that does not match the coder and shape.
    """
    found = unpack_levels(coded)
    return found if coded.step is None else from_levels(found, coded.step)


def unpack_levels(coded: CodedTensor) -> np.ndarray:
    """Returns the levels, int64 of the coded shape, or the numbers for the coder float32; raises as `unpack`."""
    try:
        found = _coder(coded.coder)[1](coded.payload, math.prod(coded.shape))
    except InputError:
        raise
    except ValueError as error:
        raise InputError(
            f"The payload of {coded.nbytes} bytes for the coder {coded.coder} and the shape {coded.shape} cannot be "
            f"read: {error} Pack the weights again."
        ) from error
    return found.reshape(coded.shape)


def save(
    path: str | os.PathLike,
    tensors: Mapping[str, CodedTensor],
    *,
    record: dict,
    files: Mapping[str, bytes] | None = None,
) -> int:
    """Writes coded tensors by name to one file, and returns its size in bytes.

    Args:
        path: the file, or - for the standard output.
        tensors: the tensors by name.
        record: a JSON-serialisable object.
        files: small files by name, such as those of a codec; older versions ignore them. See `fits`.
    """
    described = [
        {"name": name, "shape": t.shape, "step": t.step, "coder": t.coder, "nbytes": t.nbytes}
        for name, t in tensors.items()
    ]
    header = {"record": record, "tensors": described} | ({"files": _as_json(files)} if files else {})
    return _FILE.write(path, header, (t.payload for t in tensors.values()))


def fits(files: Mapping[str, bytes]) -> bool:
    """Returns whether files are small enough for `save`: their header has a limit of 64 MiB."""
    return len(json.dumps(_as_json(files))) <= MAX_FILES


def _as_json(files: Mapping[str, bytes]) -> dict[str, dict[str, str]]:
    """Returns files as JSON: UTF-8 as it is, which is compressed better than base64."""
    found = {}
    for name, content in files.items():
        try:
            found[name] = {"text": content.decode()}
        except UnicodeDecodeError:
            found[name] = {"base64": base64.b64encode(content).decode()}
    return found


def load(path: str | os.PathLike) -> tuple[dict[str, CodedTensor], dict]:
    """Returns (coded tensors by name in the order of the file, record) of a file written by `save`.

    Raises:
        InputError: the file is missing, of another kind or version, truncated or changed, or its header does not
            describe its payloads.
    """
    return load_with_files(path)[:2]


def load_with_files(path: str | os.PathLike) -> tuple[dict[str, CodedTensor], dict, dict[str, bytes]]:
    """Returns (coded tensors, record, files by name) of a file written by `save`; raises as `load`."""
    header, tensors = _FILE.read(path, _coded_tensor)
    again = f"{_FILE.again[0].upper()}{_FILE.again[1:]}."
    if not isinstance(record := header.get("record", {}), dict):
        raise InputError(
            f"{path} has an invalid record ({str(record)[:60]!r}) but a valid checksum: another program wrote it. "
            f"{again}"
        )
    try:
        files = {
            name: entry["text"].encode() if "text" in entry else base64.b64decode(entry["base64"], validate=True)
            for name, entry in header.get("files", {}).items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} has invalid files ({error!r:.100}) but a valid checksum: another program wrote it. {again}"
        ) from error
    return tensors, record, files


def _coded_tensor(entry: dict, shape: tuple[int, ...], payload: memoryview) -> CodedTensor:
    step, coder = entry["step"], str(entry["coder"])
    if (step is None) != (coder == "float32") or (step is not None and not 0 < step < math.inf):
        raise ValueError(f"the entry {entry}")
    return CodedTensor(shape, step, coder, bytes(payload))


def _checked(w: ArrayLike) -> np.ndarray:
    w = np.asarray(w)
    if w.dtype != np.float32:
        if w.dtype.kind not in "fV":  # V: bfloat16
            raise InputError(f"An array of {w.dtype} was given; expected a floating-point array. Convert it.")
        w = w.astype(np.float32)
    if bad := int(np.sum(~np.isfinite(w))):
        raise InputError(
            f"{bad:,} of {w.size:,} weights are NaN or infinite; expected finite weights, because levels are finite. "
            "Pack a checkpoint from before the run diverged."
        )
    return w


def _encode_best(best: Callable, encode: Callable) -> _Encode:
    def encoded(found: np.ndarray) -> bytes:
        values = exp_golomb.zigzag(found)
        order = best(values)
        return bytes([order]) + encode(values, order=order)

    return encoded


def _decode_best(decode: Callable) -> _Decode:
    def decoded(payload: bytes, n: int) -> np.ndarray:
        if not payload:
            raise ValueError("It is empty.")
        return exp_golomb.unzigzag(decode(payload[1:], n, order=payload[0]))

    return decoded


def _encode_raw(found: np.ndarray) -> bytes:
    first = found.min(initial=MAX_LEVEL) if found.size else 0
    width = int(found.max(initial=first) - first).bit_length()
    header = exp_golomb.encode([int(exp_golomb.zigzag(first)), width])
    return header + exp_golomb.encode_fixed(found - first, width=width)


def _decode_raw(payload: bytes, n: int) -> np.ndarray:
    (first, width), start = exp_golomb.decode_prefix(payload, 2)
    return exp_golomb.decode_fixed(payload[start:], n, width=int(width)) + exp_golomb.unzigzag(first)


def _decode_float32(payload: bytes, n: int) -> np.ndarray:
    if len(payload) != 4 * n:
        raise ValueError(f"{4 * n} bytes were expected.")
    return Floats((n,)).from_bytes(payload)


_CODERS: dict[str, tuple[_Encode, _Decode]] = {
    "range": (levels.encode_levels, levels.decode_levels),
    "eg0": (
        lambda found: exp_golomb.encode(exp_golomb.zigzag(found)),
        lambda payload, n: exp_golomb.unzigzag(exp_golomb.decode(payload, n)),
    ),
    "eg": (_encode_best(exp_golomb.best_order, exp_golomb.encode), _decode_best(exp_golomb.decode)),
    "rice": (_encode_best(exp_golomb.best_rice, exp_golomb.encode_rice), _decode_best(exp_golomb.decode_rice)),
    "raw": (_encode_raw, _decode_raw),
    "float32": (lambda w: Floats(w.shape).to_bytes(w), _decode_float32),
}
CODERS = tuple(_CODERS)


def _coder(name: str) -> tuple[_Encode, _Decode]:
    if name not in _CODERS:
        raise InputError(f"There is no coder {name!r}.{did_you_mean(name, CODERS)} Known: {', '.join(CODERS)}.")
    return _CODERS[name]
