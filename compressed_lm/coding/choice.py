"""Choice of the encoding of each segment: as few pieces as possible over a window of text."""

import numpy as np

from compressed_lm.coding.compiled import njit
from compressed_lm.coding.literal import FOLDED


@njit(nogil=True, inline="always")
def _least(a, b, c, d, mode, passing, costs, come_from, k):
    """Returns the least cost up to segment k in an encoding, from those up to the segment before in each encoding.

    Two low bits are the encoding before, so that a minimum needs no branch and equal costs choose the first.
    """
    least = min(
        min((a + passing[0, mode]) << 2, (b + passing[1, mode]) << 2 | 1),
        min((c + passing[2, mode]) << 2 | 2, (d + passing[3, mode]) << 2 | 3),
    )
    come_from[k, mode] = least & 3
    return (least >> 2) + costs[k, mode]


@njit(nogil=True)
def choose(costs, passing, n, come_from, modes):
    """Chooses the encodings of consecutive segments with the lowest total cost (Viterbi).

    The cost includes the markers of spans and `BIAS`.

    Args:
        costs: int32[..., 4], cost units of each segment in each encoding.
        passing: int64[4, 4], cost units of switching between encodings.
        n: number of segments.
        come_from: uint8[..., 4], work space.
        modes: uint8[...], written.
    """
    a, b, c, d = passing[FOLDED, 0], passing[FOLDED, 1], passing[FOLDED, 2], passing[FOLDED, 3]
    for k in range(n):
        a, b, c, d = (
            _least(a, b, c, d, 0, passing, costs, come_from, k),
            _least(a, b, c, d, 1, passing, costs, come_from, k),
            _least(a, b, c, d, 2, passing, costs, come_from, k),
            _least(a, b, c, d, 3, passing, costs, come_from, k),
        )
    total, best = np.array([a, b, c, d]) + passing[:, FOLDED], 0
    for mode in range(1, 4):
        best = mode if total[mode] < total[best] else best
    for k in range(n - 1, -1, -1):
        modes[k] = best
        best = np.int64(come_from[k, best])
