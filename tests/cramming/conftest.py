"""Small frozen model with large random weights, which a vector can steer for a few tokens, and texts of its ids."""

import jax
import numpy as np
import pytest

from compressed_lm.cramming import FrozenModel
from compressed_lm.models import Transformer, TransformerConfig

CONFIG = TransformerConfig(
    vocab_size=16, d_model=32, n_layers=1, n_heads=2, d_head=8, d_ff=32, position="rotary", activation="silu"
)


@pytest.fixture(scope="session")
def model():
    shapes = jax.eval_shape(Transformer(CONFIG).init, jax.random.key(0), jax.ShapeDtypeStruct((1, 1), "int32"))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: jax.numpy.asarray(rng.normal(0, 0.4, s.shape), s.dtype), shapes["params"])
    return FrozenModel(params, CONFIG, eod_id=15)


@pytest.fixture(scope="session")
def texts():
    """Returns a function that draws a text int32[N] for each length N."""

    def draw(*lengths, seed=0):
        rng = np.random.default_rng(seed)
        return [rng.integers(0, 15, n).astype(np.int32) for n in lengths]

    return draw
