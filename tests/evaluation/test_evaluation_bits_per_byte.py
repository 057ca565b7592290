"""Bits per byte and generation, for models with known answers."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compressed_lm import codecs
from compressed_lm.data.job import compress
from compressed_lm.data.sources import open_corpus
from compressed_lm.errors import InputError
from compressed_lm.evaluation import BitsPerByte, flops_per_byte, generate, predict_fn, sample_tokens
from compressed_lm.evaluation.bits_per_byte import batch_size_for, row_length
from compressed_lm.evaluation.generate import _advance_fn, _layers
from compressed_lm.models import Transformer, TransformerConfig, count_params, init_cache

CONFIG = TransformerConfig(vocab_size=264, d_model=16, n_layers=1, n_heads=1, d_head=8, d_ff=16)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    (folder / "a.txt").write_bytes(b"some text of 37 bytes, as it happens.")
    (folder / "b.txt").write_bytes(b"and more")
    return compress(open_corpus(f"text:{folder}/*.txt"), "train", codecs.Bytes(), folder / "store", n_shards=1)


def params_with(logits):
    """Returns parameters of a model with the same logits at every position."""
    params = Transformer(CONFIG).init(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))["params"]
    params = jax.tree.map(jnp.zeros_like, params)
    params["embed"]["embedding"] += 1.0
    params["final_norm"]["scale"] += 1.0
    params["unembed"]["kernel"] += jnp.asarray(logits) / CONFIG.d_model
    return params


@pytest.mark.slow("compiles and evaluates models")
def test_a_uniform_model_pays_log2_v_for_each_token(store):
    """All 37 + 8 bytes and both document ends are counted, padding is not, at any row length and batch size."""
    uniform = params_with(np.zeros(264))
    wanted = math.log2(264) * (45 + 2) / 45
    for seq_len, batch in ((8, 3), (16, 8), (47, 1), (64, 2)):
        evaluator = BitsPerByte(
            predict_fn(CONFIG, 256), store=store, seq_len=seq_len, batch_size=batch, mesh_shape=(1, 1, 1)
        )
        values = dict(evaluator.run(uniform))
        assert values["n_tokens"] == 47
        assert values["bits_per_byte"] == pytest.approx(wanted, rel=1e-6)
        assert values["loss_nats_per_token"] == pytest.approx(math.log(264), rel=1e-6)


def test_no_more_rows_and_no_longer_rows_than_the_text(store):
    """47 tokens take one row of 64 positions, not a batch of full rows; longer texts keep their rows and batches."""

    def shape(seq_len, batch_size, mesh=(1, 1, 1)):
        predict = predict_fn(CONFIG, 256)
        made = BitsPerByte(predict, store=store, seq_len=seq_len, batch_size=batch_size, mesh_shape=mesh)
        return made._batches.shape

    assert shape(2048, 32) == (1, 1, 64) and shape(16, 32) == (1, 3, 16) and shape(16, 2) == (2, 2, 16)
    assert shape(47, 32) == (1, 1, 47) and shape(8, 6) == (1, 6, 8)
    assert row_length(store, 2048) == 64 and row_length(store, 16) == 16


@pytest.mark.slow("compiles and evaluates models")
def test_an_evaluation_reports_its_rows(store):
    """Each batch reports the rows that have text, and the result is the same as without reports."""
    params, rows = params_with(np.zeros(264)), []
    made = BitsPerByte(predict_fn(CONFIG, 256), store=store, seq_len=8, batch_size=4, mesh_shape=(1, 1, 1))
    assert dict(made.run(params, advance=rows.append)) == dict(made.run(params))
    assert rows == [4, 2] and made.n_rows == 6


def test_batches_are_small_enough():
    """Rows at a time: 32 for small models, fewer if their scores or hidden layers would be large, at least 1."""
    assert batch_size_for(CONFIG, 128) == 32
    large = dataclasses.replace(CONFIG, n_heads=9, d_model=576, d_ff=1536, d_head=64)  # as SmolLM2-135M
    rows = batch_size_for(large, 2048)
    assert 1 < rows < 8 and batch_size_for(large, 1 << 16) == 1
    assert 4 * rows * 2048 * 9 * 256 <= 1 << 26


def test_flops_are_the_papers(store):
    """2 N / bytes per token, plus 2 V D with softmax, plus M1; a compiled codec costs nothing at run time."""
    codec = codecs.Bytes()
    codec.m1_flops_per_byte = 1000.0
    flops = flops_per_byte(CONFIG, codec, store)
    n = count_params(CONFIG).non_embedding
    assert flops.paper == pytest.approx(2 * n * 47 / 45 + 1000)
    assert flops.softmax == pytest.approx((2 * n + 2 * 264 * 16) * 47 / 45 + 1000)
    assert flops.runtime == pytest.approx(2 * n * 47 / 45)


@pytest.mark.slow("draws many samples")
def test_sampling_follows_the_model_and_stops():
    """Temperature 0 repeats the most likely byte; ids above end-of-document never occur; end-of-document stops."""
    logits = np.full(264, -50.0)
    logits[[65, 260]] = 5.0, 9.0
    tokens = np.concatenate(
        list(sample_tokens(params_with(logits), CONFIG, np.array([1, 2]), n_tokens=20, eod_id=256, temperature=0))
    )
    assert tokens.tolist() == [65] * 20
    logits[256] = 8.0
    assert not sum(
        map(len, sample_tokens(params_with(logits), CONFIG, np.zeros(0), n_tokens=20, eod_id=256, temperature=0))
    )
    with pytest.raises(InputError, match="temperature=-1"):
        next(sample_tokens(params_with(logits), CONFIG, np.zeros(0), n_tokens=1, eod_id=256, temperature=-1))


def test_generation_equals_teacher_forcing():
    """Greedy tokens of the cached loop are the most likely ones of the full model."""
    params = Transformer(CONFIG).init(jax.random.key(3), jnp.zeros((1, 4), jnp.int32))["params"]
    prompt = np.frombuffer(b"a prompt", np.uint8).astype(np.int32)
    new = np.concatenate(list(sample_tokens(params, CONFIG, prompt, n_tokens=30, eod_id=256, temperature=0)))
    inputs = np.concatenate([[256], prompt, new])[None]
    logits = np.asarray(Transformer(CONFIG).apply({"params": params}, inputs))[0, :, :257]
    assert logits[len(prompt) :].argmax(-1)[: len(new)].tolist() == new.tolist()


def test_sampling_compiles_once():
    """All calls of a sample run one program, also with parameters that were placed on a device, as of `load_run`."""
    config = dataclasses.replace(CONFIG, d_ff=24)
    params = Transformer(config).init(jax.random.key(3), jnp.zeros((1, 4), jnp.int32))["params"]
    params = jax.device_put(params, jax.devices()[0])
    prompt = np.zeros(20, np.int32)
    list(sample_tokens(params, config, prompt, n_tokens=40, eod_id=256, temperature=0.5, top_k=3))
    assert _advance_fn(config, 257, 0.5, 3)._cache_size() == 1


def test_sampling_reads_layers_where_they_are():
    """The layers given to the compiled loop are views of the stacked parameters, and a step with them is the same."""
    config = dataclasses.replace(CONFIG, n_layers=3, d_ff=64)
    params = jax.jit(Transformer(config).init)(jax.random.key(3), jnp.zeros((1, 4), jnp.int32))["params"]
    layers = _layers(params, config.n_layers)
    stack = params["layers"]["mlp"]["up"]["kernel"]
    for i, layer in enumerate(layers):
        view = layer["mlp"]["up"]["kernel"]
        assert view.unsafe_buffer_pointer() == stack.unsafe_buffer_pointer() + i * view.nbytes
    step = jax.jit(functools.partial(Transformer(config).apply, method="step"))
    inputs = jnp.array([65, 66]), jnp.array([0, 3]), init_cache(config, 2, 4)
    stacked, given = (step({"params": params}, *inputs, layers=layers) for layers in (None, layers))
    jax.tree.map(np.testing.assert_array_equal, given, stacked)


def test_a_sample_begins_and_stops_as_given():
    """Ids before the prompt replace end-of-document, further ids stop a sample, and something must come first."""
    params = Transformer(CONFIG).init(jax.random.key(3), jnp.zeros((1, 4), jnp.int32))["params"]
    prompt = np.frombuffer(b"a prompt", np.uint8).astype(np.int32)
    sample = lambda ids, **more: np.concatenate(  # noqa: E731
        list(sample_tokens(params, CONFIG, ids, n_tokens=20, eod_id=256, temperature=0, **more))
    )
    new = sample(prompt[1:], start=prompt[:1].tolist())
    logits = np.asarray(Transformer(CONFIG).apply({"params": params}, np.concatenate([prompt, new])[None]))[0, :, :257]
    assert logits[len(prompt) - 1 :].argmax(-1)[: len(new)].tolist() == new.tolist()
    stop = int(new[5])
    assert sample(prompt, start=(), stop=(stop,)).tolist() == new[: new.tolist().index(stop)].tolist()
    text = generate(params, CONFIG, codecs.Bytes(), prompt=prompt, echo=False, start=(), n_tokens=20, temperature=0)
    assert "".join(text) == codecs.Bytes().decode(new).decode(errors="replace")
    with pytest.raises(InputError, match="An empty prompt was given without an id to start with"):
        sample(prompt[:0], start=())


def test_text_is_streamed_whole():
    """Chunks join to the prompt and its continuation; bytes that are not UTF-8 become U+FFFD."""
    logits = np.full(264, -50.0)
    logits[0xE3] = 5.0
    text = "".join(
        generate(params_with(logits), CONFIG, codecs.Bytes(), prompt="Grüße".encode(), n_tokens=3, temperature=0)
    )
    assert text.startswith("Grüße") and set(text[5:]) == {"\ufffd"}
