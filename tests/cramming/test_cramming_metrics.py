"""Definitions and units, on arrays small enough to check by hand."""

import math

import pytest

from compressed_lm.cramming import metrics


def test_the_longest_exact_prefix_ends_at_the_first_error():
    """Right tokens after an error do not count."""
    assert metrics.longest_exact_prefix([5, 6, 1, 8], [5, 6, 7, 8]) == 2
    assert metrics.longest_exact_prefix([5, 6], [5, 6]) == 2
    assert metrics.longest_exact_prefix([1, 6], [5, 6]) == 0


def test_gains_are_differences_in_tokens_and_bits():
    """Gains are in tokens, and nats are converted to bits: 1 nat is 1.4427 bits."""
    assert metrics.token_gain(7, 2) == 5
    assert metrics.information_gain_bits(10.0, 3.0) == pytest.approx(10.0989, abs=1e-4)
    # The paper's Pythia-160M: 396.4, called bits there, are nats; 572 bits (papers/001 section 6).
    assert metrics.information_gain_bits(396.4, 0.0) == pytest.approx(571.9, abs=0.1)


def test_capacity_is_the_largest_length_that_is_decoded():
    """The mean accuracy per length counts; a failing shorter length matters only with `unbroken`."""
    lengths = [8, 8, 16, 16, 32, 32, 64, 64]
    accuracies = [1.0, 1.0, 0.99, 0.97, 0.99, 0.99, 1.0, 0.5]
    assert metrics.decoding_capacity(lengths, accuracies) == 32
    assert metrics.decoding_capacity(lengths, accuracies, unbroken=True) == 8
    assert metrics.decoding_capacity(lengths, accuracies, threshold=0.75) == 64
    assert metrics.decoding_capacity([8, 16], [0.5, 0.9]) == 0


def test_the_interval_of_capacity_is_over_texts():
    """Equal texts have no interval; one of four texts that fails at 16 is in most resamples, but not in all."""
    assert metrics.capacity_interval([8, 16, 32], [[1, 1, 0]] * 4) == (16, 16)
    assert metrics.capacity_interval([8, 16], [[1, 1], [1, 1], [1, 1], [1, 0.5]]) == (8, 16)


def test_means_have_students_interval():
    """1, 2, 3, 4: mean 2.5, standard error 0.6455, t(3) = 3.1824."""
    found = metrics.mean([1, 2, 3, 4])
    assert (found.value, found.n) == (2.5, 4)
    assert (found.low, found.high) == pytest.approx((0.4457, 4.5543), abs=1e-4)
    assert metrics.mean([7.0]).value == 7 and math.isnan(metrics.mean([7.0]).low)
    assert math.isnan(metrics.mean([]).value) and metrics.mean([]).n == 0


def test_texts_above_capacity_are_those_not_decoded():
    """Only texts with an accuracy of at most 0.99 are above capacity."""
    assert metrics.above_capacity([1.0, 0.99, 0.995, 0.3]).tolist() == [False, True, False, True]


def test_theoretical_capacity_is_the_papers():
    """2,048 numbers of 16 bits: 1,931 tokens of 128,256; 768 numbers: 787 of 50,304 (papers/001 section 6)."""
    capacity = metrics.theoretical_capacity(2048, 16, 128_256)
    assert round(capacity) == 1931 and round(metrics.theoretical_capacity(768, 16, 50_304)) == 787
    assert metrics.utilisation(426.2, capacity) == pytest.approx(0.221, abs=5e-4)
    bits = metrics.information_gain_bits(2119.9, 0)
    assert metrics.bits_per_dimension(bits, 2048) == pytest.approx(1.49, abs=5e-3)
