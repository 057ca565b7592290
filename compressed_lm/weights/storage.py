"""Arrays of one type as bytes: codes of b bits, base-3 digits, small floats, masks."""

import abc
import dataclasses
import functools
import itertools
import math

import jax.numpy as jnp
import numpy as np

_BLOCK = 1 << 18  # codes packed at a time: a bit takes a byte on the way
TRITS_PER_BYTE = 5  # 3**5 = 243


@dataclasses.dataclass(frozen=True)
class Stored(abc.ABC):
    """An array of `count` numbers, in `nbytes` whole bytes.

    Attributes:
        shape: of the array.
    """

    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """Numbers in the array."""
        return math.prod(self.shape)

    @property
    @abc.abstractmethod
    def nbytes(self) -> int:
        """Bytes that `to_bytes` returns, whatever the numbers are."""

    @abc.abstractmethod
    def to_bytes(self, array: np.ndarray) -> bytes:
        """Returns the bytes of an array of `count` numbers."""

    @abc.abstractmethod
    def from_bytes(self, content: bytes) -> np.ndarray:
        """Returns the array; undoes `to_bytes` exactly. Raises ValueError for bytes that it never returns."""


@dataclasses.dataclass(frozen=True)
class Codes(Stored):
    """Whole numbers below 2**width, one after the other, most significant bit first.

    Attributes:
        width: bits of a code.
    """

    width: int

    @property
    def nbytes(self):
        return -(-self.count * self.width // 8)

    def to_bytes(self, array):
        return pack_bits(np.asarray(array).reshape(-1), self.width)

    def from_bytes(self, content):
        return unpack_bits(content, self.width, self.count).astype(np.int32).reshape(self.shape)


@dataclasses.dataclass(frozen=True)
class Levels(Stored):
    """Numbers that are levels of a grid, as codes of the fewest bits; three levels as base-3 digits, five a byte.

    Attributes:
        levels: sorted.
    """

    levels: tuple[float, ...]

    @property
    def _width(self):
        return max(1, (len(self.levels) - 1).bit_length())

    @property
    def nbytes(self):
        return -(-self.count // TRITS_PER_BYTE) if len(self.levels) == 3 else -(-self.count * self._width // 8)

    def to_bytes(self, array):
        codes = np.searchsorted(np.asarray(self.levels, np.float32), np.asarray(array).reshape(-1))
        if len(self.levels) != 3:
            return pack_bits(codes, self._width)
        digits = np.zeros((self.nbytes, TRITS_PER_BYTE), np.uint8)
        digits.reshape(-1)[: self.count] = codes
        return (digits @ 3 ** np.arange(TRITS_PER_BYTE)).astype(np.uint8).tobytes()

    def from_bytes(self, content):
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
    """Numbers in a floating-point type that holds them exactly.

    Attributes:
        dtype: float32, bfloat16, float8_e4m3fn or float8_e8m0fnu.
    """

    dtype: str = "float32"

    @property
    def nbytes(self):
        return self.count * self._type.itemsize

    @property
    def _type(self):
        return np.dtype(getattr(jnp, self.dtype)).newbyteorder("<")

    def to_bytes(self, array):
        return np.asarray(array, np.float32).astype(self._type).tobytes()

    def from_bytes(self, content):
        return np.frombuffer(content, self._type).astype(np.float32).reshape(self.shape)


@dataclasses.dataclass(frozen=True)
class Mask(Stored):
    """Booleans of which `ones` are true: a bitmap, or their places in Elias-Fano code where that is shorter.

    Elias-Fano: of each place the low bits as they are, the high bits as the gaps of a unary code: at most
    2 + log2(count / ones) bits each, within half a bit of the least possible.

    Attributes:
        ones: how many are true.
    """

    ones: int

    @property
    def _low(self):
        return max(0, (self.count // max(1, self.ones)).bit_length() - 1)

    @property
    def _sizes(self):
        """Bytes of the low bits and of the unary code."""
        return -(-self.ones * self._low // 8), -(-(self.ones + (self.count >> self._low) + 1) // 8)

    @property
    def _bitmap(self):
        return -(-self.count // 8)

    @property
    def nbytes(self):
        return min(self._bitmap, sum(self._sizes))

    def to_bytes(self, array):
        mask = np.asarray(array, bool).reshape(-1)
        if self.nbytes == self._bitmap:
            return np.packbits(mask).tobytes()
        (places,) = np.nonzero(mask)
        unary = np.zeros(8 * self._sizes[1], np.uint8)
        unary[(places >> self._low) + np.arange(self.ones)] = 1
        return pack_bits(places & ((1 << self._low) - 1), self._low) + np.packbits(unary).tobytes()

    def from_bytes(self, content):
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
    """Booleans in groups of m along the last axis with n true in each: the number of the combination.

    A row's last group may be cut short by the end of the row; it then has as many true as fit, up to n.

    Attributes:
        n: true in each group.
        m: size of a group.
        block: neighbours that are equal; it divides n and m.
    """

    n: int
    m: int
    block: int = 1

    @property
    def _choice(self):
        """How many blocks of how many."""
        return self.n // self.block, self.m // self.block

    @property
    def _blocks(self):
        """Blocks in a row."""
        return -(-self.shape[-1] // self.block)

    @property
    def _width(self):
        n, m = self._choice
        return (math.comb(m, n) - 1).bit_length()

    @property
    def _groups(self):
        return (math.prod(self.shape[:-1]), -(-self.shape[-1] // self.m))

    @property
    def nbytes(self):
        return -(-math.prod(self._groups) * self._width // 8)

    def to_bytes(self, array):
        (n, m), (rows, groups) = self._choice, self._groups
        padded = np.zeros((rows, groups * m), np.int64)
        padded[:, : self._blocks] = np.reshape(array, (-1, self.shape[-1]))[:, :: self.block]
        missing = max(0, n - (self._blocks - (groups - 1) * m))
        padded[:, self._blocks : self._blocks + missing] = 1
        patterns = padded.reshape(-1, m) @ (1 << np.arange(m))
        return pack_bits(np.searchsorted(_combinations(n, m), patterns), self._width)

    def from_bytes(self, content):
        (n, m), (rows, groups) = self._choice, self._groups
        known = _combinations(n, m)
        codes = unpack_bits(content, self._width, rows * groups)
        if codes.size and codes.max() >= len(known):
            raise ValueError(f"combination {codes.max()} of {len(known)}")
        padded = (known[codes][:, None] >> np.arange(m) & 1).astype(bool).reshape(rows, groups * m)
        mask = np.repeat(padded[:, : self._blocks], self.block, axis=-1)
        return mask[:, : self.shape[-1]].reshape(self.shape)


@functools.cache
def _combinations(n, m):
    """Returns int64[C(m, n)], sorted: the patterns of n bits set among m."""
    return np.sort([sum(1 << place for place in places) for places in itertools.combinations(range(m), n)])


def pack_bits(codes: np.ndarray, width: int) -> bytes:
    """Returns codes below 2**width as ceil(len(codes) * width / 8) bytes, the last filled up with zeros."""
    if width == 8:
        return codes.astype(np.uint8).tobytes()
    shifts = np.arange(width - 1, -1, -1, dtype=np.uint32)
    # Blocks of a multiple of eight codes fill whole bytes.
    blocks = (codes[i : i + _BLOCK].astype(np.uint32) for i in range(0, len(codes), _BLOCK))
    return b"".join(np.packbits((block[:, None] >> shifts & 1).astype(np.uint8)).tobytes() for block in blocks)


def unpack_bits(content: bytes, width: int, count: int) -> np.ndarray:
    """Returns uint32[count]; undoes `pack_bits`."""
    if width == 8:
        return np.frombuffer(content, np.uint8, count).astype(np.uint32)
    content, out = np.frombuffer(content, np.uint8), np.zeros(count, np.uint32)
    for i in range(0, count, _BLOCK):
        block = out[i : i + _BLOCK]
        bits = np.unpackbits(content[i * width // 8 :], count=len(block) * width).reshape(len(block), width)
        for column in range(width):
            block <<= 1
            block |= bits[:, column]
    return out
