"""One decoder-only Flax transformer, its sizes, and exact integer inference for M1."""

from compressed_lm.models.sizes import SIZES, model_config
from compressed_lm.models.transformer import (
    Cache,
    ParamCounts,
    Transformer,
    TransformerConfig,
    count_params,
    flops_per_token,
    init_cache,
    model_vocab_size,
    relative_buckets,
    shift_right,
)

__all__ = [
    "SIZES",
    "Cache",
    "ParamCounts",
    "Transformer",
    "TransformerConfig",
    "count_params",
    "flops_per_token",
    "init_cache",
    "model_config",
    "model_vocab_size",
    "relative_buckets",
    "shift_right",
]
