"""Arithmetic coding with a model's probabilities takes the bits of its loss, and is lossless."""

import numpy as np
import pytest

from compressed_lm.cramming import CramConfig, cram, metrics, probabilities, read, read_alone
from compressed_lm.cramming.code_length import coded_bits, coded_bits_alone, decode, encode


def softmax(logits):
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


@pytest.mark.parametrize("vocabulary", [2, 16, 264, 128_256])
def test_streams_decode_and_take_the_entropy(vocabulary):
    """For any vocabulary the stream is lossless, and its length is that of the probabilities."""
    rng = np.random.default_rng(0)
    n = 40 if vocabulary > 1000 else 400
    distributions = softmax(rng.normal(0, 3, (n, vocabulary)))
    ids = np.array([rng.choice(vocabulary, p=p) for p in distributions])
    stream = encode(distributions, ids)
    assert decode(stream, distributions).tolist() == ids.tolist()
    bits = -np.log2(distributions[np.arange(n), ids]).sum()
    assert abs(8 * len(stream) - bits) < 0.01 * bits + 9


def test_unlikely_tokens_take_what_they_should():
    """Tokens with probabilities down to 2**-60, far below 16-bit tables, take their bits to 0.1 %."""
    p = 2.0 ** -np.arange(1, 61)
    distributions = np.tile(np.append(p, p[-1]), (61, 1))
    bits = 8 * len(encode(distributions, np.arange(61)))
    assert bits == pytest.approx(-np.log2(distributions[0]).sum(), abs=8 + 2)


def test_a_sure_token_costs_little_and_an_impossible_one_can_be_coded():
    """1000 tokens of probability 1 take few bytes; a token of probability 0 can be encoded."""
    sure = np.zeros((1000, 264))
    sure[:, 65] = 1
    assert len(encode(sure, np.full(1000, 65))) < 160
    ids = np.array([65, 200, 65])
    assert decode(encode(sure[:3], ids), sure[:3]).tolist() == ids.tolist()


@pytest.mark.slow("trains vectors")
def test_information_gain_is_the_same_by_loss_and_by_code_length(model, texts):
    """For texts above capacity, the saved bits are within 1 % of the difference of losses.

    All texts are in one stream, since a stream is whole bytes.
    """
    given = texts(*[8] * 120, seed=5)
    found = cram(model, given, CramConfig(n_vectors=2, steps=40, learning_rate=0.05), slots=120)
    vectors = [f.vectors for f in found]
    nats = [sum(r.nats.sum() for r in readings) for readings in (read_alone(model, given), read(model, vectors, given))]
    by_loss = metrics.information_gain_bits(*nats)
    by_code = coded_bits_alone(model, given) - coded_bits(model, vectors, given)
    assert by_loss > 1000 and by_code == pytest.approx(by_loss, rel=0.01)
    finer = coded_bits_alone(model, given, times=16) - coded_bits(model, vectors, given, times=16)
    assert finer == pytest.approx(by_loss, rel=0.001)
    distributions = probabilities(model, vectors[0], given[0])
    assert decode(encode(distributions, given[0]), distributions).tolist() == given[0].tolist()
