"""Parameters of Equal-Info Windows that are encoded and decoded with M1."""

import dataclasses

from compressed_lm.coding import limbs, windows


@dataclasses.dataclass(frozen=True)
class WindowRules:
    """Parameters that determine the codes of a text, in addition to M1.

    Attributes:
        bits: window size b.
        fill: "node" (the bijection), "delay" or "paper" (see `coding.windows.CellRule`).
        align: "none", or "word": a window does not cross the start of a word.
        m1_reset: M1 is reset every `m1_reset` windows; 0 for every `context` bytes instead.
        context: bytes that M1 may see; after them the table is uniform, or M1 is reset if `m1_reset` is 0.
    """

    bits: int
    fill: str
    align: str
    m1_reset: int
    context: int

    @property
    def rule(self) -> windows.Rule:
        return windows.NodeRule(self.bits) if self.fill == "node" else windows.CellRule(self.bits)

    @property
    def open_bytes(self) -> int:
        """Largest number of bytes that an encoder reads again: those that a window gives back when it closes."""
        # After the context the table is uniform: 8 bits per byte.
        return self.context + self.bits // 8 + 2 if self.fill == "delay" else 0

    @property
    def n_limbs(self) -> int:
        """Number of 16-bit limbs of a code."""
        return limbs.n_limbs(self.bits)
