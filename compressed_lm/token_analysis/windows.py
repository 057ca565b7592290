"""Positions of tokens in the windows of a codec."""

import math
from collections.abc import Sequence

import numpy as np

from compressed_lm.codecs.protocol import Codec

ALL_POSITIONS = -1
"""Value of the column `position` (of a token in its window, from 0) for all positions together."""


def token_width(vocab_size: int) -> int:
    """Returns the number of bits for any id below `vocab_size`."""
    return max(1, (vocab_size - 1).bit_length())


def tokens_per_window(codec: Codec) -> int:
    """Returns the tokens between common boundaries of windows and tokens; 1 for a codec without windows."""
    if codec.window_bits is None:
        return 1
    width = token_width(codec.vocab_size)
    return math.lcm(codec.window_bits, width) // width


def common_length(a: Sequence | np.ndarray, b: Sequence | np.ndarray) -> int:
    """Returns the length of the longest common prefix."""
    n = min(len(a), len(b))
    return next((i for i in range(n) if a[i] != b[i]), n)
