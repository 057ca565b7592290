"""Evaluation of trained models: bits per byte, FLOPs per byte, rows of the run table, generated text."""

from compressed_lm.evaluation.bits_per_byte import BitsPerByte, predict_fn
from compressed_lm.evaluation.document_bits import document_bits
from compressed_lm.evaluation.flops import FlopsPerByte, flops_per_byte
from compressed_lm.evaluation.generate import generate, sample_tokens

__all__ = ["BitsPerByte", "FlopsPerByte", "document_bits", "flops_per_byte", "generate", "predict_fn", "sample_tokens"]
