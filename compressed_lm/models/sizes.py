"""Named model sizes: those of papers/000 (Table 4) and small ones for a laptop."""

from typing import Any

from compressed_lm.errors import InputError
from compressed_lm.models.config import TransformerConfig

SIZES: dict[str, dict[str, Any]] = {
    # For two CPU cores: about 0.13M, 0.3M and 0.5M parameters without embeddings. Layers are unrolled, because a loop
    # over two layers costs more than it saves.
    "nano": dict(d_model=64, n_heads=2, n_layers=2, d_head=32, d_ff=256, scan_layers=False),
    "micro": dict(d_model=96, n_heads=3, n_layers=2, d_head=32, d_ff=384, scan_layers=False),
    "mini": dict(d_model=128, n_heads=4, n_layers=2, d_head=32, d_ff=512, scan_layers=False),
    # papers/000 section 4.1; "3m" is the paper's M1.
    "3m": dict(d_model=256, n_heads=4, n_layers=3, d_head=64, d_ff=1024, scan_layers=False),
    "25m": dict(d_model=512, n_heads=8, n_layers=6, d_head=64, d_ff=2048),
    "113m": dict(d_model=768, n_heads=12, n_layers=12, d_head=64, d_ff=3072),
    "403m": dict(d_model=1024, n_heads=16, n_layers=24, d_head=64, d_ff=4096),
    "2b": dict(d_model=2048, n_heads=32, n_layers=24, d_head=64, d_ff=8192),
}


def model_config(size: str, vocab_size: int, **overrides: Any) -> TransformerConfig:
    """Returns the TransformerConfig of a named size for a vocabulary of V ids; `overrides` replace fields.

    Raises:
        InputError: the size does not exist.
    """
    if size not in SIZES:
        raise InputError(f"The model size {size!r} was given; expected one of {', '.join(SIZES)}.")
    return TransformerConfig(vocab_size=vocab_size, **(SIZES[size] | overrides))
