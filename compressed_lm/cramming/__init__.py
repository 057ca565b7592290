"""Cramming: K input vectors from which a frozen model generates a text (Kuratov et al. 2025, papers/001).

Dimensions: B batch slots or texts, K vectors per text (in `models` a head's width), N tokens of a text, L padded length
of texts, D the model's width, M optimised and stored numbers per vector, V vocabulary.
"""

from compressed_lm.cramming.config import CramConfig
from compressed_lm.cramming.crammed_text import CrammedText
from compressed_lm.cramming.frozen import FrozenModel, Reading, probabilities, read, read_alone, write
from compressed_lm.cramming.optimize import Status, cram
from compressed_lm.cramming.result import Crammed
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
