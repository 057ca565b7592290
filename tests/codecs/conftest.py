"""A small M1 with random weights: losslessness and exactness must not depend on training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compressed_lm.codecs import M1
from compressed_lm.models import Transformer, TransformerConfig, exact, shift_right

TEXT = b"The quick brown fox jumps over the lazy dog, and runs away from it.\n  It was a dark and stormy night; " * 8


def make_m1(seed: int = 0, context: int = 64) -> M1:
    config = TransformerConfig(vocab_size=264, d_model=32, n_layers=2, n_heads=2, d_head=16, d_ff=64)
    params = Transformer(config).init(jax.random.key(seed), jnp.zeros((1, 4), jnp.int32))["params"]
    # Larger output weights make the tables peaked, as those of a trained model are.
    params["unembed"]["kernel"] = params["unembed"]["kernel"] * 4
    rows = np.frombuffer(TEXT, np.uint8)[: 8 * context].reshape(8, context).astype(np.int32)
    return M1(*exact.quantise(params, config, np.asarray(shift_right(rows, 256)), context=context))


@pytest.fixture(scope="session")
def m1() -> M1:
    return make_m1()
