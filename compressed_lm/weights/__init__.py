"""Number formats, sparsity, distributions and projections of weights.

Formats define rounding, gradients, mean squared error on a Gaussian, and packed bytes. `GeneralizedGaussian` models the
distribution of weights. `bitstream` writes entropy-coded files.

    rep = weights.representation("int(b=4,rule=quest)")
    rep.gmse()  # 0.01154: the mean squared error on N(0, 1)
    rep.bits_per_weight((1024, 4096))  # 4.016: codes and scales
    w_hat = rep.quantize(w)  # in a training step: w's shape and dtype, with QuEST's gradient
    x_hat = rep.quantize(x, axis=-1)  # activations
    packed = weights.pack(w, rep)  # bytes; weights.unpack(packed) is rep.quantize(w), bit for bit
"""

from compressed_lm.weights.deepshape import reshape_tensors, reshape_weights
from compressed_lm.weights.gennorm import GeneralizedGaussian, fit_mle, fit_moments, moment_ratio, shape_from_ratio
from compressed_lm.weights.hadamard import rotate
from compressed_lm.weights.packing import (
    PackedTensor,
    dense_spec,
    load_packed,
    pack,
    pack_dense,
    save_dense,
    save_packed,
    stored,
    stored_dtype,
    unpack,
)
from compressed_lm.weights.projection import MergeCost, holds_factors, merge, merge_cost, pull_back
from compressed_lm.weights.protocol import Representation
from compressed_lm.weights.registry import FAMILIES, representation
from compressed_lm.weights.storage import to_float32

__all__ = [
    "FAMILIES",
    "GeneralizedGaussian",
    "MergeCost",
    "PackedTensor",
    "Representation",
    "dense_spec",
    "fit_mle",
    "fit_moments",
    "holds_factors",
    "load_packed",
    "merge",
    "merge_cost",
    "moment_ratio",
    "pack",
    "pack_dense",
    "pull_back",
    "representation",
    "reshape_tensors",
    "reshape_weights",
    "rotate",
    "save_dense",
    "save_packed",
    "shape_from_ratio",
    "stored",
    "stored_dtype",
    "to_float32",
    "unpack",
]
