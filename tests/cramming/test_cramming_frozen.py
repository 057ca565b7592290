"""Teacher-forced losses and greedy generation of a frozen model after vectors."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from compressed_lm.cramming import CramConfig, FrozenModel, cram, probabilities, read, read_alone, write
from compressed_lm.cramming.frozen import padded_length
from compressed_lm.errors import InputError
from compressed_lm.models import Transformer, TransformerConfig


def logits_of(model, vectors, ids, length=8):
    """Returns float64[N, V], the logits of each token after the vectors, by the model without a prefix.

    The vectors are added to its embedding table, and their ids precede those of the text.
    """
    n, (embedding, kernel) = len(vectors), (model.params[k] for k in ("embed", "unembed"))
    table = np.concatenate([embedding["embedding"], vectors])
    params = model.params | {"embed": {"embedding": jax.numpy.asarray(table)}}
    params |= {"unembed": {"kernel": jax.numpy.pad(kernel["kernel"], ((0, 0), (0, n)))}}
    row = np.zeros(n + length, int)
    row[:n], row[n : n + len(ids)] = np.arange(n) + 16, ids
    logits = plain(dataclasses.replace(model.config, vocab_size=len(table)), params, row[None])
    return np.asarray(logits, np.float64)[0, n - 1 : n - 1 + len(ids), :16]


@functools.partial(jax.jit, static_argnums=0)
def plain(config, params, row):
    return Transformer(config).apply({"params": params}, row)


def test_reading_is_that_of_the_model_with_the_vectors_as_tokens(model, texts):
    """Losses, right tokens and distributions equal those of the plain model.

    Texts have different lengths, and the first token is predicted from the last vector.
    """
    rng = np.random.default_rng(3)
    given, vectors = texts(1, 5, 8), [rng.normal(0, 0.4, (2, 32)).astype(np.float32) for _ in range(3)]
    for ids, v, reading in zip(given, vectors, read(model, vectors, given, slots=2), strict=True):
        logits = logits_of(model, v, ids)
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        assert reading.nats.shape == reading.right.shape == ids.shape
        np.testing.assert_allclose(reading.nats, -log_p[np.arange(len(ids)), ids], rtol=1e-4, atol=1e-4)
        assert reading.right.tolist() == (logits.argmax(-1) == ids).tolist()
        np.testing.assert_allclose(probabilities(model, v, ids), np.exp(log_p), atol=1e-5)


def test_a_text_alone_comes_after_end_of_document(model, texts):
    """Without vectors the loss is that of the text after the id of end-of-document."""
    (ids,) = texts(6)
    logits = np.asarray(plain(model.config, model.params, np.append(15, ids)[None, :-1])[0])
    wanted = np.log(np.exp(logits).sum(-1)) - logits[np.arange(6), ids]
    np.testing.assert_allclose(read_alone(model, [ids])[0].nats, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.slow("trains vectors")
def test_writing_is_greedy(model):
    """Each generated token is the most likely one after the vectors and the tokens before it."""
    rng = np.random.default_rng(4)
    vectors = [rng.normal(0, 0.4, (3, 32)).astype(np.float32) for _ in range(3)]
    written = write(model, vectors, [4, 8, 7], slots=2)
    assert [len(row) for row in written] == [4, 8, 7]
    for row, reading in zip(written, read(model, vectors, written), strict=True):
        assert reading.right.all(), row
    assert written[0].tolist() != written[1][:4].tolist()  # the vectors matter


def test_the_fingerprint_tells_models_apart(model):
    """Another weight, setting or codec changes the fingerprint; settings of the computation and copies do not."""
    copy = dataclasses.replace(model, params=jax.tree.map(np.copy, model.params))
    scanned = dataclasses.replace(model, config=dataclasses.replace(model.config, scan_layers=False, remat="full"))
    assert model.fingerprint == copy.fingerprint == scanned.fingerprint
    changed = jax.tree.map(np.copy, model.params)
    changed["final_norm"]["scale"][3] += 1e-3
    others = [
        dataclasses.replace(model, params=changed),
        dataclasses.replace(model, codec_fingerprint="another"),
        dataclasses.replace(model, config=dataclasses.replace(model.config, rope_theta=500.0)),
    ]
    assert len({model.fingerprint, *(m.fingerprint for m in others)}) == 4


def test_lengths_of_padding():
    """Padded lengths grow in two steps per factor of two; from 8 on, padding is at most half of the length."""
    bucket = functools.partial(padded_length, TransformerConfig(vocab_size=16), n_vectors=3)
    assert [bucket(n) for n in (1, 8, 9, 12, 13, 17, 25, 33, 49, 97)] == [4, 8, 12, 12, 16, 24, 32, 48, 64, 128]
    assert sorted({bucket(n) for n in range(1, 200)}) == [4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256]


def test_ids_that_the_model_does_not_know_are_refused(model):
    """The message contains the given and the expected ids."""
    with pytest.raises(InputError, match=r"ids from 3 to 16 was given; expected .* from 0 to 15"):
        read_alone(model, [np.array([3, 16])])
    with pytest.raises(
        InputError, match=r"shape \(0,\) was given; expected a one-dimensional sequence of at least one id"
    ):
        read_alone(FrozenModel(model.params, model.config, 15), [np.zeros(0, int)])


def test_texts_use_all_learned_positions(model):
    """Padding does not exceed learned positions: a text that needs the last one is read, written and crammed alike."""
    config = dataclasses.replace(model.config, position="learned", max_length=11)
    params = Transformer(config).init(jax.random.key(0), np.zeros((1, 1), "int32"))["params"]
    small, longer = (
        FrozenModel(
            params | {"positions": {"embedding": table}}, dataclasses.replace(config, max_length=len(table)), 15
        )
        for table in (params["positions"]["embedding"], np.zeros((40, 32), np.float32))
    )
    longer.params["positions"]["embedding"][:11] = params["positions"]["embedding"]
    vectors, ids, results = [np.ones((2, 32), np.float32)], np.arange(10), []
    for model in (small, longer):
        (reading,), (written,) = read(model, vectors, [ids]), write(model, vectors, [10])
        assert len(reading.nats) == len(written) == len(probabilities(model, vectors[0], ids)) == 10
        (crammed,) = cram(model, [ids], CramConfig(n_vectors=2, steps=2))
        results.append([*reading.nats, *written, crammed.lowest_nats])
    np.testing.assert_allclose(*results, rtol=1e-4)
    for call in (lambda: read(small, vectors, [np.arange(11)]), lambda: write(small, vectors, [11])):
        with pytest.raises(InputError, match="12 tokens .* 11 learned positions"):
            call()
