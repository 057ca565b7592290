"""Rotary positions rotate the right numbers by the right angles."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from compressed_lm.errors import InputError
from compressed_lm.models import TransformerConfig
from compressed_lm.models.positions import rotary_frequencies, rotate


def config(**settings):
    return TransformerConfig(**(dict(vocab_size=8, d_head=8, position="rotary") | settings))


def test_a_pair_turns_like_a_complex_number():
    """Numbers i and i + R / 2 of the first R are multiplied by exp(i position frequency); the rest is unchanged."""
    x, positions = np.random.default_rng(0).normal(size=(2, 3, 4, 8)).astype(np.float32), np.array([0, 1, 70])
    for fraction, r in ((1.0, 8), (0.5, 4)):
        frequencies = rotary_frequencies(config(rotary_fraction=fraction))
        found = np.asarray(rotate(jnp.asarray(x), jnp.asarray(positions), frequencies))
        angles = positions[:, None, None] * 10_000.0 ** (-np.arange(r // 2) / (r // 2))
        turned = (x[..., : r // 2] + 1j * x[..., r // 2 : r]) * np.exp(1j * angles)
        np.testing.assert_allclose(found[..., :r], np.concatenate([turned.real, turned.imag], -1), atol=1e-5)
        np.testing.assert_array_equal(found[..., r:], x[..., r:])


def test_frequencies_are_powers_of_theta():
    """The default base is 10,000, to the bit."""
    expected = 10_000.0 ** (-jnp.arange(4) / 4)
    np.testing.assert_array_equal(rotary_frequencies(config()), expected)
    np.testing.assert_allclose(rotary_frequencies(config(rope_theta=16)), [1, 0.5, 0.25, 0.125], rtol=1e-6)


def test_llama3_stretches_long_wavelengths_only():
    """Wavelengths above length / low are multiplied by the factor, those below length / high are unchanged.

    Between them the frequency is interpolated linearly in length / wavelength.
    """
    plain = rotary_frequencies(config(d_head=32)).tolist()
    expected = []
    for frequency in plain:
        wavelength = 2 * math.pi / frequency
        part = (64 / wavelength - 1) / (4 - 1)
        mixture = (1 - part) * frequency / 8 + part * frequency
        expected.append(frequency if wavelength < 64 / 4 else frequency / 8 if wavelength > 64 / 1 else mixture)
    assert sum(old == new for old, new in zip(plain, expected, strict=True)) == 2
    assert sum(old / 8 == new for old, new in zip(plain, expected, strict=True)) == 11
    found = rotary_frequencies(config(d_head=32, rope_scaling="llama3(factor=8,low=1,high=4,length=64)"))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_one_scaling_has_one_spec():
    """Equal settings make equal configs: defaults are written out."""
    expected = "llama3(factor=32,high=4,length=8192,low=1)"
    assert config(rope_scaling="llama3(factor=32.0)").rope_scaling == expected
    assert config(rope_scaling=expected) == config(rope_scaling=" llama3( low=1, factor=32 ) ")


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(rope_scaling="lama3(factor=8)"), "no rope_scaling 'lama3'. Did you mean llama3"),
        (dict(rope_scaling="llama3(factor=0.5)"), "expected a factor of at least 1 and 0 < low < high"),
        (dict(rope_scaling="llama3(length=0)"), "expected a length of at least one token"),
        (dict(rotary_fraction=0.4), "rotary positions rotate 3 numbers; expected an even number"),
        (dict(rotary_fraction=1.5), "rotary_fraction=1.5 was given; expected a number above 0, at most 1"),
        (dict(rope_theta=1.0), "rope_theta=1.0 was given; expected a number above 1"),
        (dict(norm_eps=0.0), "norm_eps=0.0 was given; expected a number above 0"),
        (dict(norm="batch"), "norm='batch' was given; expected one of rms, layer"),
        (dict(bias="some"), "bias='some' was given; expected one of none, qkv, all"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    """The message says what was given and what was expected."""
    with pytest.raises(InputError, match=message):
        config(**settings)
