"""Bits of each document, for models with known answers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compressed_lm import codecs
from compressed_lm.data.job import compress
from compressed_lm.data.sources import open_corpus
from compressed_lm.evaluation import BitsPerByte, document_bits, predict_fn
from compressed_lm.models import Transformer, TransformerConfig

CONFIG = TransformerConfig(vocab_size=264, d_model=16, n_layers=1, n_heads=1, d_head=8, d_ff=16)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for name, text in (("a", b"some text of 37 bytes, as it happens."), ("b", b""), ("c", b"and more")):
        (folder / f"{name}.txt").write_bytes(text)
    return compress(open_corpus(f"text:{folder}/*.txt"), "train", codecs.Bytes(), folder / "store", n_shards=1)


@pytest.mark.slow("compiles and evaluates models")
def test_a_document_pays_for_its_tokens_and_its_end(store):
    """A uniform model costs log2(264) bits per byte, and once more for each document."""
    params = Transformer(CONFIG).init(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))["params"]
    bits, n_bytes = document_bits(jax.tree.map(jnp.zeros_like, params), CONFIG, store, seq_len=16, batch_size=2)
    assert n_bytes.tolist() == [37, 0, 8]
    np.testing.assert_allclose(bits, np.array([38, 1, 9]) * math.log2(264), rtol=1e-6)


@pytest.mark.slow("compiles and evaluates models")
@pytest.mark.parametrize("seq_len", [5, 16, 64])
def test_documents_add_up_to_bits_per_byte(store, seq_len):
    """With rows of equal length, the sum over documents equals the evaluator's result for the store."""
    params = Transformer(CONFIG).init(jax.random.key(1), jnp.zeros((1, 4), jnp.int32))["params"]
    evaluator = BitsPerByte(predict_fn(CONFIG, 256), store=store, seq_len=seq_len, mesh_shape=(1, 1, 1))
    bits, n_bytes = document_bits(params, CONFIG, store, seq_len=seq_len)
    assert bits.sum() / n_bytes.sum() == pytest.approx(dict(evaluator.run(params))["bits_per_byte"], rel=1e-6)
