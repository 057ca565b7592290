"""A decoder-only Flax Transformer, its sizes, width pruning, and exact integer inference for M1."""

from compressed_lm.models.baselines import low_rank, random_base
from compressed_lm.models.config import (
    ParamCounts,
    TransformerConfig,
    count_params,
    flops_per_token,
    model_vocab_size,
    training_flops_per_token,
)
from compressed_lm.models.importance import (
    Scores,
    activation_scores,
    index_scores,
    magnitude_scores,
    residual_moment,
    select,
)
from compressed_lm.models.positions import relative_buckets
from compressed_lm.models.sizes import SIZES, model_config
from compressed_lm.models.transformer import Cache, Transformer, init_cache, shift_right, unstack
from compressed_lm.models.width_pruning import Selection, Widths, hard_pruned, projected, small_config, widths

__all__ = [
    "SIZES",
    "Cache",
    "ParamCounts",
    "Scores",
    "Selection",
    "Transformer",
    "TransformerConfig",
    "Widths",
    "activation_scores",
    "count_params",
    "flops_per_token",
    "hard_pruned",
    "index_scores",
    "init_cache",
    "low_rank",
    "magnitude_scores",
    "model_config",
    "model_vocab_size",
    "projected",
    "random_base",
    "relative_buckets",
    "residual_moment",
    "select",
    "shift_right",
    "small_config",
    "training_flops_per_token",
    "unstack",
    "widths",
]
