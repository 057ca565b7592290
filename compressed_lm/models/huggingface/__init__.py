"""Conversion of config.json and tensors of Hugging Face `transformers`, one file per architecture."""

from compressed_lm.models.huggingface.config import ARCHITECTURES, config_from, config_of, longest_text, model_type
from compressed_lm.models.huggingface.fields import ACTIVATIONS
from compressed_lm.models.huggingface.tensors import leaves_from, tensors_of

__all__ = [
    "ACTIVATIONS",
    "ARCHITECTURES",
    "config_from",
    "config_of",
    "leaves_from",
    "longest_text",
    "model_type",
    "tensors_of",
]
