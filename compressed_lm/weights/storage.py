"""Stored types: arrays as bytes, as b-bit codes, base-3 digits, small floats or masks."""

import abc
import dataclasses
import functools
import itertools
import math

import jax.numpy as jnp
import ml_dtypes
import numpy as np

from compressed_lm.coding.bits import pack_bits, unpack_bits

TRITS_PER_BYTE = 5  # 3**5 = 243


@dataclasses.dataclass(frozen=True)
class Stored(abc.ABC):
    """Stored type of an array: `count` numbers in `nbytes` bytes.

    Attributes:
        shape: shape of the array.
    """

    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of numbers in the array."""
        return math.prod(self.shape)

    @property
    @abc.abstractmethod
    def nbytes(self) -> int:
        """Size of the result of `to_bytes`, the same for all arrays of the shape."""

    @abc.abstractmethod
    def to_bytes(self, array: np.ndarray) -> bytes:
        """Returns the bytes of an array of `count` numbers."""

    @abc.abstractmethod
    def from_bytes(self, content: bytes) -> np.ndarray:
        """Returns the array of bytes from `to_bytes`, exactly.

        Raises:
            ValueError: `to_bytes` never returns these bytes.
        """


@dataclasses.dataclass(frozen=True)
class Codes(Stored):
    """Whole numbers below 2**width, without gaps, most significant bit first.

    Attributes:
        width: bits per code.
    """

    width: int

    @property
    def nbytes(self) -> int:
        return -(-self.count * self.width // 8)

    def to_bytes(self, array: np.ndarray) -> bytes:
        return pack_bits(np.asarray(array).reshape(-1), self.width)

    def from_bytes(self, content: bytes) -> np.ndarray:
        return unpack_bits(content, self.width, self.count).astype(np.int32).reshape(self.shape)


@dataclasses.dataclass(frozen=True)
class Levels(Stored):
    """Levels of a grid, as codes of as few bits as possible; three levels as base-3 digits, five per byte.

    Attributes:
        levels: the sorted levels.
    """

    levels: tuple[float, ...]

    @property
    def _width(self) -> int:
        return max(1, (len(self.levels) - 1).bit_length())

    @property
    def nbytes(self) -> int:
        return -(-self.count // TRITS_PER_BYTE) if len(self.levels) == 3 else -(-self.count * self._width // 8)

    def to_bytes(self, array: np.ndarray) -> bytes:
        codes = np.searchsorted(np.asarray(self.levels, np.float32), np.asarray(array).reshape(-1))
        if len(self.levels) != 3:
            return pack_bits(codes, self._width)
        digits = np.zeros((self.nbytes, TRITS_PER_BYTE), np.uint8)
        digits.reshape(-1)[: self.count] = codes
        return (digits @ 3 ** np.arange(TRITS_PER_BYTE)).astype(np.uint8).tobytes()

    def from_bytes(self, content: bytes) -> np.ndarray:
        if len(self.levels) == 3:
            digits = np.frombuffer(content, np.uint8)[:, None] // 3 ** np.arange(TRITS_PER_BYTE) % 3
            codes = digits.reshape(-1)[: self.count]
        else:
            codes = unpack_bits(content, self._width, self.count)
        if codes.size and codes.max() >= len(self.levels):
            raise ValueError(f"code {codes.max()} in a grid of {len(self.levels)} levels")
        return np.asarray(self.levels, np.float32)[codes].reshape(self.shape)


@dataclasses.dataclass(frozen=True)
class Floats(Stored):
    """Numbers in a floating-point type that represents them exactly.

    Attributes:
        dtype: float32, bfloat16, float16, float8_e4m3fn or float8_e8m0fnu.
    """

    dtype: str = "float32"

    @property
    def nbytes(self) -> int:
        return self.count * self._type.itemsize

    @property
    def _type(self) -> np.dtype:
        return np.dtype(getattr(jnp, self.dtype)).newbyteorder("<")

    def to_bytes(self, array: np.ndarray) -> bytes:
        return np.asarray(array, np.float32).astype(self._type).tobytes()

    def from_bytes(self, content: bytes) -> np.ndarray:
        return to_float32(self.view(content))

    def view(self, content: bytes | memoryview) -> np.ndarray:
        """Returns the array in its own type, as a view of its bytes."""
        return np.frombuffer(content, self._type).reshape(self.shape)


def to_float32(array: np.ndarray) -> np.ndarray:
    """Returns a float32 array with the numbers of a float array: a new one, unless it is float32 already."""
    if array.dtype != ml_dtypes.bfloat16:
        return array.astype(np.float32, copy=False)
    wide = np.empty(array.shape, np.uint32)
    # The upper half of a float32 is a bfloat16. A shift takes a tenth of the time of `astype`.
    np.left_shift(np.ascontiguousarray(array).view(np.uint16), np.uint32(16), out=wide, dtype=np.uint32)
    return wide.view(np.float32)


@dataclasses.dataclass(frozen=True)
class Mask(Stored):
    """Booleans with `ones` true values: a bitmap, or the places in Elias-Fano code if that is shorter.

    Elias-Fano stores the low bits of each place directly, and the gaps of the high bits in unary code: at most
    2 + log2(count / ones) bits per place, within half a bit of the minimum.

    Attributes:
        ones: number of true values.
    """

    ones: int

    @property
    def _low(self) -> int:
        return max(0, (self.count // max(1, self.ones)).bit_length() - 1)

    @property
    def _sizes(self) -> tuple[int, int]:
        """Sizes of the low bits and of the unary code, in bytes."""
        return -(-self.ones * self._low // 8), -(-(self.ones + (self.count >> self._low) + 1) // 8)

    @property
    def _bitmap(self) -> int:
        return -(-self.count // 8)

    @property
    def nbytes(self) -> int:
        return min(self._bitmap, sum(self._sizes))

    def to_bytes(self, array: np.ndarray) -> bytes:
        mask = np.asarray(array, bool).reshape(-1)
        if self.nbytes == self._bitmap:
            return np.packbits(mask).tobytes()
        (places,) = np.nonzero(mask)
        unary = np.zeros(8 * self._sizes[1], np.uint8)
        unary[(places >> self._low) + np.arange(self.ones)] = 1
        return pack_bits(places & ((1 << self._low) - 1), self._low) + np.packbits(unary).tobytes()

    def from_bytes(self, content: bytes) -> np.ndarray:
        if self.nbytes == self._bitmap:
            mask = np.unpackbits(np.frombuffer(content, np.uint8), count=self.count).astype(bool)
        else:
            low = unpack_bits(content[: self._sizes[0]], self._low, self.ones).astype(np.int64)
            (high,) = np.nonzero(np.unpackbits(np.frombuffer(content[self._sizes[0] :], np.uint8)))
            if len(high) != self.ones or (high[-1:] - self.ones + 1 > self.count >> self._low).any():
                raise ValueError(f"{len(high)} places in a mask of {self.ones}")
            mask = np.zeros(self.count, bool)
            places = (high - np.arange(self.ones)) << self._low | low
            mask[places[places < self.count]] = True
        if mask.sum() != self.ones:
            raise ValueError(f"{mask.sum()} of {self.count} are set in a mask of {self.ones}")
        return mask.reshape(self.shape)


@dataclasses.dataclass(frozen=True)
class Choices(Stored):
    """Booleans in groups of m along the last axis with n true values each: the index of the combination.

    A row's last group may be shorter; it then has as many true values as fit, at most n.

    Attributes:
        n: true values per group.
        m: size of a group.
        block: number of equal neighbours; it divides n and m.
    """

    n: int
    m: int
    block: int = 1

    @property
    def _choice(self) -> tuple[int, int]:
        """True blocks and all blocks of a group."""
        return self.n // self.block, self.m // self.block

    @property
    def _blocks(self) -> int:
        """Blocks per row."""
        return -(-self.shape[-1] // self.block)

    @property
    def _width(self) -> int:
        n, m = self._choice
        return (math.comb(m, n) - 1).bit_length()

    @property
    def _groups(self) -> tuple[int, int]:
        """Rows, and groups per row."""
        return (math.prod(self.shape[:-1]), -(-self.shape[-1] // self.m))

    @property
    def nbytes(self) -> int:
        return -(-math.prod(self._groups) * self._width // 8)

    def to_bytes(self, array: np.ndarray) -> bytes:
        (n, m), (rows, groups) = self._choice, self._groups
        padded = np.zeros((rows, groups * m), np.int64)
        padded[:, : self._blocks] = np.reshape(array, (-1, self.shape[-1]))[:, :: self.block]
        missing = max(0, n - (self._blocks - (groups - 1) * m))
        padded[:, self._blocks : self._blocks + missing] = 1
        patterns = padded.reshape(-1, m) @ (1 << np.arange(m))
        return pack_bits(np.searchsorted(_combinations(n, m), patterns), self._width)

    def from_bytes(self, content: bytes) -> np.ndarray:
        (n, m), (rows, groups) = self._choice, self._groups
        known = _combinations(n, m)
        codes = unpack_bits(content, self._width, rows * groups)
        if codes.size and codes.max() >= len(known):
            raise ValueError(f"combination {codes.max()} of {len(known)}")
        padded = (known[codes][:, None] >> np.arange(m) & 1).astype(bool).reshape(rows, groups * m)
        mask = np.repeat(padded[:, : self._blocks], self.block, axis=-1)
        return mask[:, : self.shape[-1]].reshape(self.shape)


@functools.cache
def _combinations(n: int, m: int) -> np.ndarray:
    """Returns int64[C(m, n)], the sorted m-bit patterns with n bits set."""
    return np.sort([sum(1 << place for place in places) for places in itertools.combinations(range(m), n)])
