"""Writes data/m1.npz, the small M1 of the tests.

Usage: python tests/codecs/make_m1.py

Its weights are random, since losslessness and exactness must not depend on training. They are stored, not computed in
the tests, since they come from floating-point numbers whose last bits depend on the processor.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from compressed_lm.codecs import M1
from compressed_lm.exact import calibration
from compressed_lm.models import Transformer, TransformerConfig, shift_right

FILE = pathlib.Path(__file__).with_name("data") / "m1.npz"
CONTEXT = 64
TEXT = b"The quick brown fox jumps over the lazy dog, and runs away from it.\n  It was a dark and stormy night; " * 8


def main() -> None:
    config = TransformerConfig(vocab_size=264, d_model=32, n_layers=2, n_heads=2, d_head=16, d_ff=64)
    params = Transformer(config).init(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))["params"]
    # Larger output weights make the tables peaked, as those of a trained model are.
    params["unembed"]["kernel"] = params["unembed"]["kernel"] * 4
    rows = np.frombuffer(TEXT, np.uint8)[: 8 * CONTEXT].reshape(8, CONTEXT).astype(np.int32)
    inputs = np.asarray(shift_right(rows, 256))
    FILE.write_bytes(M1(*calibration.quantise(params, config, inputs, context=CONTEXT)).to_bytes())


if __name__ == "__main__":
    main()
