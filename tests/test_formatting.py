"""Durations, numbers with a prefix, and quantities as text."""

import pytest

from compressed_lm import formatting


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "0.2 s"), (9.97, "10.0 s"), (41.2, "41 s"), (59.7, "1 min 0 s"), (524, "8 min 44 s"),
     (11_100, "3 h 5 min")],
)  # fmt: skip
def test_duration(seconds, text):
    """The unit of a duration follows its size; "60 s" does not occur."""
    assert formatting.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(880_950, "B", "881 kB"), (999_600, "", "1M"), (1e20, "", "1e+20"), (12.34, "", "12.3"), (2e12, "B", "2 TB")],
)
def test_si(value, unit, text):
    """Numbers have three digits and a decimal prefix."""
    assert formatting.si(value, unit=unit) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(1500, "steps", "1,500 steps"), (2.25, "steps", "2.2 steps"), (3, "", "3"), (0, "B", "0 B"), (999, "B", "999 B"),
     (999_999, "B", "1 MB"), (1_500_000, "B", "1.5 MB")],
)  # fmt: skip
def test_quantity(value, unit, text):
    """Bytes get a prefix; other units are counted."""
    assert formatting.quantity(value, unit) == text
