"""One decoder-only Flax transformer, its sizes, and exact integer inference for M1."""

from compressed_lm.models.config import (
    ParamCounts,
    TransformerConfig,
    count_params,
    flops_per_token,
    model_vocab_size,
    training_flops_per_token,
)
from compressed_lm.models.layers import relative_buckets
from compressed_lm.models.sizes import SIZES, model_config
from compressed_lm.models.transformer import Cache, Transformer, init_cache, shift_right, unstack

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
    "training_flops_per_token",
    "unstack",
]
