"""Weights on a uniform grid, coded at a variable length, and files of them.

A weight w becomes the level round(w / step), an integer, and comes back as level * step: the decoder's float32 are the
encoder's, bit for bit. Zero is a level, so small weights become exact zeros. A file is a `container` whose header has,
for each tensor, name, shape, step, coder and bytes, and a record of the caller's.

coded = bitstream.pack(w, step="0.25std", coder="range")
coded.bits_per_weight  # stored, tables included
w_hat = bitstream.unpack(coded)  # float32, equal to bitstream.quantize(w, "0.25std")
"""

import dataclasses
import math
import re
from collections.abc import Mapping

import numpy as np

from compressed_lm.coding import exp_golomb, levels
from compressed_lm.errors import InputError
from compressed_lm.io.container import Kind, Payload
from compressed_lm.specs import did_you_mean, text
from compressed_lm.weights.storage import Floats

MAGIC = b"\x89CLB\r\n\x1a\n"  # as of `packing`
FORMAT_VERSION = 1
MAX_LEVEL = (1 << 31) - 1
_FILE = Kind(MAGIC, FORMAT_VERSION, "coded weights", "`compressed-lm pack`", "pack the weights again", deflated=True)
_STEP = re.compile(r"\s*(\d*\.?\d*(?:e[+-]?\d+)?)\s*(std)?\s*", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Step:
    """The distance between neighbouring levels, spelled 0.01 or 0.25std.

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

        In the place of a standard deviation of 0 stands the root mean square, and of that 1.
        """
        unit = 1.0
        if self.relative and w.size:
            w = w.astype(np.float64)
            unit = w.std() or np.sqrt(np.mean(w * w)) or 1.0
        largest, smallest = np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal
        return float(np.float32(min(max(self.size * unit, smallest), largest)))


def parse_step(spec: "Step | str | float") -> Step:
    """Returns the step that a spelling, such as "0.25std", or a number means.

    Raises:
        InputError: no such spelling, or a size that is not positive and finite.
    """
    if isinstance(spec, Step):
        return spec
    match = _STEP.fullmatch(str(spec))
    try:
        size = float(match[1]) if match else 0.0
    except ValueError:
        size = 0.0
    if not 0 < size < math.inf:
        raise InputError(
            f"The step {spec!r} was given; expected a positive number, such as 0.01, or one with std, such as 0.25std, "
            "for that part of each tensor's standard deviation."
        )
    return Step(size, bool(match[2]))


@dataclasses.dataclass(frozen=True)
class CodedTensor(Payload):
    """An array as it is stored.

    Attributes:
        shape: of the array.
        step: distance between levels; None where the numbers themselves are stored (`float32`).
        coder: one of `CODERS`.
        payload: the coded levels, with the tables that they need.
    """

    shape: tuple[int, ...]
    step: float | None
    coder: str
    payload: bytes = dataclasses.field(repr=False)


def to_levels(w, step: float) -> np.ndarray:
    """Returns int64 of w's shape, the nearest levels; halves go to the even one.

    Args:
        w: float array, taken as float32.
        step: positive.

    Raises:
        InputError: NaN, infinity, an array of another type, or a level beyond `MAX_LEVEL`.
    """
    w = _checked(w)
    scaled = w.astype(np.float64) / step
    largest = np.abs(scaled).max(initial=0)
    if largest > MAX_LEVEL:
        raise InputError(
            f"A step of {step:.3g} was given for weights of up to {np.abs(w).max():.3g}, which makes levels of up to "
            f"{largest:.3g}; at most {MAX_LEVEL:,} was expected. Take a larger step."
        )
    return np.rint(scaled).astype(np.int64)


def from_levels(found: np.ndarray, step: float) -> np.ndarray:
    """Returns float32: each level times the step, both as float32."""
    return found.astype(np.float32) * np.float32(step)


def quantize(w, step: "Step | str | float") -> np.ndarray:
    """Returns float32 of w's shape, what `unpack` makes of `pack(w, step=step)`; errors as `pack`."""
    w = _checked(w)
    size = parse_step(step).of(w)
    return from_levels(to_levels(w, size), size)


def pack(w, *, coder: str, step: "Step | str | float | None" = None) -> CodedTensor:
    """Returns w quantised and coded.

    Args:
        w: float array, taken as float32.
        coder: range (near the entropy), eg0 or eg (exp-Golomb of order 0 or of the best), rice (of the best order), raw
            (the fewest bits that hold every level), or float32 for the numbers as they are.
        step: see `parse_step`; for all but float32.

    Raises:
        InputError: an unknown coder, a missing or unreadable step, or weights as `to_levels` refuses.
    """
    w, encode = _checked(w), _coder(coder)[0]
    if coder == "float32":
        return CodedTensor(w.shape, None, coder, encode(w.reshape(-1)))
    if step is None:
        raise InputError(f"The coder {coder} needs a step and none was given; give one such as 0.25std.")
    size = parse_step(step).of(w)
    return CodedTensor(w.shape, size, coder, encode(to_levels(w, size).reshape(-1)))


def unpack(coded: CodedTensor) -> np.ndarray:
    """Returns float32 of the coded shape: `quantize` of what was packed, bit for bit.

    Raises:
        InputError: an unknown coder, or a payload that is not one of this coder and shape.
    """
    found = unpack_levels(coded)
    return found if coded.step is None else from_levels(found, coded.step)


def unpack_levels(coded: CodedTensor) -> np.ndarray:
    """Returns int64 of the coded shape, the levels; of `float32`, the numbers. Errors as `unpack`."""
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


def save(path, tensors: Mapping[str, CodedTensor], *, record: dict) -> int:
    """Writes coded tensors by name, and a record that JSON can hold, as one file, and returns its bytes."""
    described = [
        {"name": name, "shape": t.shape, "step": t.step, "coder": t.coder, "nbytes": t.nbytes}
        for name, t in tensors.items()
    ]
    return _FILE.write(path, {"record": record, "tensors": described}, (t.payload for t in tensors.values()))


def load(path) -> tuple[dict[str, CodedTensor], dict]:
    """Returns the coded tensors of a file that `save` wrote, by name, in its order, and the record.

    Raises:
        InputError: no such file, not a file of coded weights, truncated, changed, of another version, or with a header
            that does not describe its payloads.
    """
    header, tensors = _FILE.read(path, _coded_tensor)
    if not isinstance(record := header.get("record", {}), dict):
        raise InputError(
            f"{path} has a record that is none ({str(record)[:60]!r}), though its checksum is right: another program "
            f"wrote it. {_FILE.again[0].upper()}{_FILE.again[1:]}."
        )
    return tensors, record


def _coded_tensor(entry, shape, payload):
    step, coder = entry["step"], str(entry["coder"])
    if (step is None) != (coder == "float32") or (step is not None and not 0 < step < math.inf):
        raise ValueError(f"the entry {entry}")
    return CodedTensor(shape, step, coder, payload)


def _checked(w) -> np.ndarray:
    w = np.asarray(w)
    if w.dtype != np.float32:
        if w.dtype.kind not in "fV":  # V: bfloat16
            raise InputError(f"An array of {w.dtype} was given; coders take floating-point arrays.")
        w = w.astype(np.float32)
    if bad := int(np.sum(~np.isfinite(w))):
        raise InputError(
            f"{bad:,} of {w.size:,} weights are NaN or infinite, which no level stands for; pack a checkpoint of "
            "before the run diverged."
        )
    return w


# name -> (encode(levels) -> payload, decode(payload, n) -> levels)


def _encode_best(best, encode):
    def encoded(found):
        values = exp_golomb.zigzag(found)
        order = best(values)
        return bytes([order]) + encode(values, order=order)

    return encoded


def _decode_best(decode):
    def decoded(payload, n):
        if not payload:
            raise ValueError("It is empty.")
        return exp_golomb.unzigzag(decode(payload[1:], n, order=payload[0]))

    return decoded


def _encode_raw(found):
    first = found.min(initial=MAX_LEVEL) if found.size else 0
    width = int(found.max(initial=first) - first).bit_length()
    header = exp_golomb.encode([int(exp_golomb.zigzag(first)), width])
    return header + exp_golomb.encode_fixed(found - first, width=width)


def _decode_raw(payload, n):
    (first, width), start = exp_golomb.decode_prefix(payload, 2)
    return exp_golomb.decode_fixed(payload[start:], n, width=int(width)) + exp_golomb.unzigzag(first)


def _decode_float32(payload, n):
    if len(payload) != 4 * n:
        raise ValueError(f"{4 * n} bytes were expected.")
    return Floats((n,)).from_bytes(payload)


_CODERS = {
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


def _coder(name: str):
    if name not in _CODERS:
        raise InputError(f"There is no coder {name!r}.{did_you_mean(name, CODERS)} Known: {', '.join(CODERS)}.")
    return _CODERS[name]
