"""One text into K input vectors that make a frozen model write it out again (Kuratov et al. 2025, papers/001).

Letters: B slots or texts, K vectors of a text (in `models` a head's width), N tokens of a text, L the length that texts
are padded to, D the model's width, M numbers of a vector that are optimised and stored, V vocabulary.
"""

from compressed_lm.cramming.config import CramConfig
from compressed_lm.cramming.crammed_text import CrammedText
from compressed_lm.cramming.frozen import FrozenModel, Reading, probabilities, read, read_alone, write
from compressed_lm.cramming.optimize import Crammed, Status, cram
from compressed_lm.cramming.vectors import Mapping, pack, quantized

__all__ = [
    "CramConfig",
    "Crammed",
    "CrammedText",
    "FrozenModel",
    "Mapping",
    "Reading",
    "Status",
    "cram",
    "pack",
    "probabilities",
    "quantized",
    "read",
    "read_alone",
    "write",
]
