"""Uniformity and unigram models of ids, for counts with answers computed by hand."""

import math

import numpy as np
import pytest

from compressed_lm import codecs
from compressed_lm.errors import InputError
from compressed_lm.token_analysis import uniformity, unigram


class Nibbles:
    """Four bits per token."""

    spec, vocab_size, window_bits = "nibbles", 16, None

    def encode_batch(self, documents):
        return [np.array([n for b in d for n in (b >> 4, b & 15)], np.int32) for d in documents]


def test_divergence_with_its_correction():
    """KL to uniform is n - H - (seen - 1) / (2 N ln 2): counts 2 1 1 0 have H = 1.5 bits, N = 4, three seen."""
    assert uniformity.entropy_bits(np.array([2, 1, 1, 0]), corrected=False) == pytest.approx(1.5)
    assert uniformity.kl_to_uniform(np.array([2, 1, 1, 0])) == pytest.approx(2 - 1.5 - 2 / (8 * math.log(2)))
    assert uniformity.kl_to_uniform(np.array([7, 0])) == 1.0
    assert uniformity.entropy_bits(np.zeros(4, int)) == 0


def test_ngrams_of_a_known_stream():
    """Overlapping n-grams start at every bit of the stream and aligned ones at every n-th, most significant first."""
    table = uniformity.ngram_uniformity(Nibbles(), [b"\x33" * 8], n_bits=(1, 2, 4), n_partitions=2)  # 0011 0011 ...
    rows = table.set_index(["kind", "n_bits"])
    assert rows.loc[("overlapping", 2), "n_ngrams"] == 31 and rows.loc[("aligned", 4), "n_ngrams"] == 8
    assert rows.loc[("aligned", 4), "p50"] == 4  # always 0011
    assert rows.loc[("aligned", 2), "p50"] == pytest.approx(2 - 1 - 1 / (32 * math.log(2)))  # 00 and 11
    four = uniformity.entropy_bits(np.array([8, 8, 8, 7]))  # 00 01 11 10, the last one once less
    assert rows.loc[("overlapping", 2), ["p5", "p95"]].tolist() == pytest.approx([2 - four] * 2)
    with pytest.raises(InputError, match="20 parts"):
        uniformity.ngram_uniformity(Nibbles(), [b"short"])


def test_random_ids_are_as_uniform_as_the_control():
    """A stream of random bits is within the control; text is not."""
    data = np.random.default_rng(1).integers(0, 256, 40_000, np.uint8).tobytes()
    table = uniformity.ngram_uniformity(codecs.Bytes(), [data], n_bits=(1, 4, 8), n_partitions=10)
    assert (table["p50"].abs() < 3 * table[["control_p5", "control_p95"]].abs().max(axis=1)).all()
    text = uniformity.ngram_uniformity(
        codecs.Bytes(), [b"a text of some letters " * 2000], n_bits=(8,), n_partitions=10
    )
    assert (text["p5"] > 1).all()


def test_unigram_gain_by_hand():
    """Three a's and a b: 8 bits per byte uniform; unigram with the Miller-Madow term, or add-one over 256 ids."""
    table = unigram.unigram_gain(codecs.Bytes(), [b"aab", b"a"], [b"ab"]).set_index("fit")
    entropy = 2 - 0.75 * math.log2(3) + 1 / (8 * math.log(2))
    assert table.loc[unigram.SAME, ["uniform", "unigram", "gain"]].tolist() == pytest.approx([8, entropy, 8 - entropy])
    assert table.loc[unigram.SEPARATE, "unigram"] == pytest.approx(math.log2(258 / 2))
    assert table["n_tokens"].tolist() == [4, 4]
    assert list(unigram.unigram_gain(codecs.Bytes(), [b"a"])["fit"]) == [unigram.SAME]
