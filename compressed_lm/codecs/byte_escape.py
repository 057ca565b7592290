"""Escape for bytes that a vocabulary has no token for: a special token and two hexadecimal digits."""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from compressed_lm.errors import InputError

MISSING_BYTES = ("none", "escape", "refuse")
"""Values of the option `missing_bytes`: every byte has a token; the others are escaped; text with them is refused."""

DIGITS = b"0123456789abcdef"
_SPARE = re.compile(r"unused|reserved|extra|empty|dummy|placeholder|blank", re.IGNORECASE)
_IN_USE = re.compile(
    r"im_|end|start|begin|eo[sdtm]|bo[sd]|pad|unk|mask|sep|cls|user|assistant|system|turn|inst|tool|</?s>",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class ByteEscape:
    """Escape of single bytes: the id of a special token, then the ids of two hexadecimal digits, such as `f` and `1`.

    No text has the id of a special token, so the escape is unambiguous: after it, two digits are always one byte. In
    ids that a model samples, the special token without two digits after it has no bytes, as it has none otherwise.

    Attributes:
        token: id of the special token.
        digits: ids of the tokens of `DIGITS`.
    """

    token: int
    digits: tuple[int, ...]

    def ids(self, byte: int) -> list[int]:
        """Returns the three ids of a byte."""
        return [self.token, self.digits[byte >> 4], self.digits[byte & 15]]

    def byte_at(self, ids: Sequence[int], start: int) -> int | None:
        """Returns the byte whose escape starts at `start`; None if there is no whole escape."""
        if ids[start] != self.token or start + 2 >= len(ids):
            return None
        values = [self.digits.index(i) if i in self.digits else -1 for i in ids[start + 1 : start + 3]]
        return None if min(values) < 0 else values[0] << 4 | values[1]

    def starts(self, ids: np.ndarray) -> list[int]:
        """Returns the positions of the whole escapes in ids int32[T]."""
        listed = ids.tolist()
        return [int(i) for i in np.flatnonzero(ids == self.token) if self.byte_at(listed, int(i)) is not None]

    def n_open(self, ids: np.ndarray) -> int:
        """Returns the number of ids at the end (0, 1 or 2) that the next ids may complete to an escape."""
        if len(ids) >= 1 and ids[-1] == self.token:
            return 1
        return 2 if len(ids) >= 2 and ids[-2] == self.token and int(ids[-1]) in self.digits else 0

    def decode(self, ids: np.ndarray, pieces: Sequence[bytes]) -> bytes:
        """Returns the bytes of ids int32[T].

        Args:
            ids: of any text, or sampled.
            pieces: bytes by id; none for `token`.
        """
        listed, parts, last = ids.tolist(), [], 0
        for start in self.starts(ids):
            byte = self.byte_at(listed, start)
            assert byte is not None
            parts += [pieces[i] for i in listed[last:start]] + [bytes([byte])]
            last = start + 3
        return b"".join([*parts, *(pieces[i] for i in listed[last:])])

    def lengths(self, ids: np.ndarray, piece_lengths: np.ndarray) -> np.ndarray:
        """Returns the number of bytes of each id, int32[T]: 0, 0, 1 for an escape."""
        found = piece_lengths[ids]
        for start in self.starts(ids):
            found[start : start + 3] = 0, 0, 1
        return found


def choose(special: dict[str, int], digits: Sequence[int | None], eod: int, source: str) -> ByteEscape:
    """Returns the escape of a vocabulary: a spare special token by its name, otherwise the last one not in use.

    Args:
        special: special tokens and their ids.
        digits: ids of the tokens of `DIGITS`; None if there is none.
        eod: end-of-document, which is not used.
        source: name of the vocabulary, for messages.

    Raises:
        InputError: there is no such special token, or a digit has no token.
    """
    free = {name: i for name, i in special.items() if i != eod and not _IN_USE.search(name)}
    spare = sorted(i for name, i in free.items() if _SPARE.search(name))
    if None in digits or not free:
        lacks = "no special token that is free for it" if not free else "not a token for each hexadecimal digit"
        raise InputError(
            f"{source} has no tokens for some bytes, and they cannot be escaped: there is {lacks}. Refuse text "
            "that has such bytes (missing_bytes=refuse), or use another codec."
        )
    return ByteEscape(spare[-1] if spare else max(free.values()), tuple(int(i) for i in digits if i is not None))


def lost_characters(missing: Sequence[int]) -> re.Pattern:
    """Returns the pattern of runs of characters whose UTF-8 has one of these bytes, and of runs of other characters."""
    ranges, first = [], None
    lost = np.zeros(0x110000 + 1, bool)
    points = np.arange(0x110000)
    wanted = np.zeros(256, bool)
    wanted[list(missing)] = True
    for low, high, lead, n_more in ((0, 0x80, 0, 0), (0x80, 0x800, 0xC0, 1), (0x800, 0x10000, 0xE0, 2),
                                    (0x10000, 0x110000, 0xF0, 3)):  # fmt: skip
        own = points[low:high]
        lost[low:high] |= wanted[lead | own >> 6 * n_more]
        for k in range(n_more):
            lost[low:high] |= wanted[0x80 | own >> 6 * k & 0x3F]
    lost[0xD800:0xE000] = False  # surrogates are no characters
    edges = np.flatnonzero(np.diff(np.concatenate([[False], lost]).astype(np.int8)))
    for first, last in edges.reshape(-1, 2).tolist():
        ranges.append(f"{re.escape(chr(first))}-{re.escape(chr(last - 1))}")
    listed = "".join(ranges)
    return re.compile(f"[{listed}]+|[^{listed}]+") if listed else re.compile("[^\ud800]+")
