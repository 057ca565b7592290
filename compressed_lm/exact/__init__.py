"""Exact integer inference for M1: the coder's tables depend on the integer weights alone.

Float kernels are not reproducible: another batch size, compiler or device changes the logits, and one changed table
entry breaks a decoder (Lester et al. 2024, section 3.7). Therefore a trained `Transformer` is converted to integers:
int8 weights and activations with scales fixed by calibration, an int32 residual stream, and integer normalisation,
attention and softmax. The tables are the same for teacher forcing and cached steps, any batch size, on any number of
devices, and for both programs: `device` for GPU and TPU (JAX), `host` for CPU (Numba), which loads without JAX.

The cost in quality is measured: `compressed-lm demo` prints the bits per byte of the M1 that it trains, as a float
model and as an integer model. A codec is built from the integers alone, so `build-codec` cannot print both.
"""

from compressed_lm.exact.config import N_SYMBOLS, ExactConfig, ExactParams, check, check_exactable, fingerprint

__all__ = ["N_SYMBOLS", "ExactConfig", "ExactParams", "check", "check_exactable", "fingerprint"]
