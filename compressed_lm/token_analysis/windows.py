"""Where the tokens of a codec lie in its windows."""

import math
from collections.abc import Sequence

from compressed_lm.codecs.protocol import Codec

ALL_POSITIONS = -1
"""In tables with a column `position` (place of a token in its window, from 0): all places together."""


def token_width(vocab_size: int) -> int:
    """Bits that write any id below `vocab_size`."""
    return max(1, (vocab_size - 1).bit_length())


def tokens_per_window(codec: Codec) -> int:
    """Tokens after which window boundaries and token boundaries meet again; 1 for a codec without windows."""
    if codec.window_bits is None:
        return 1
    width = token_width(codec.vocab_size)
    return math.lcm(codec.window_bits, width) // width


def common_length(a: Sequence, b: Sequence) -> int:
    """Length of the longest common prefix."""
    n = min(len(a), len(b))
    return next((i for i in range(n) if a[i] != b[i]), n)
