"""Arithmetic on 16-bit limbs against Python integers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressed_lm.coding import limbs


def split(value: int, k: int):
    return tuple(np.array([value >> 16 * i & 0xFFFF], np.uint32) for i in reversed(range(k)))


def joined(parts) -> int:
    return int.from_bytes(b"".join(int(p[0]).to_bytes(2, "big") for p in parts), "big")


PAIRS = st.integers(1, 10).flatmap(
    lambda k: st.tuples(st.just(k), st.integers(0, 2 ** (16 * k) - 1), st.integers(0, 2 ** (16 * k) - 1))
)


@settings(max_examples=300, deadline=None)
@given(PAIRS)
def test_sums_and_comparisons(pair):
    """Sums and differences wrap at the width; comparisons and the top bit equal those of Python integers."""
    k, a, b = pair
    x, y, wrap = split(a, k), split(b, k), 2 ** (16 * k)
    assert joined(limbs.add(x, y)) == (a + b) % wrap
    assert joined(limbs.subtract(x, y)) == (a - b) % wrap
    assert (bool(limbs.less_equal(x, y)[0]), bool(limbs.equal(x, y)[0])) == (a <= b, a == b)
    assert bool(limbs.less_equal(x, x)[0]) and bool(limbs.equal(x, x)[0])
    top, below = limbs.below_top_bit(x)
    assert joined(top) == (1 << a.bit_length() - 1 if a else 0)
    assert joined(below) == max(joined(top) - 1, 0)


@settings(max_examples=300, deadline=None)
@given(PAIRS, st.integers(1, 2**16), st.integers(0, 2**16))
def test_scale_is_the_floor(pair, total, frequency):
    """Scaling gives floor(f * n / t) for numbers of any width, with and without the division."""
    k, n, _ = pair
    f = min(frequency, total)
    u = lambda value: np.array([value], np.uint32)  # noqa: E731
    assert joined(limbs.scale(u(f), u(total), split(n, k))) == f * n // total
    assert joined(limbs.scale(u(frequency), None, split(n, k))) == frequency * n // 65536


@pytest.mark.parametrize("k", [1, 2, 8])
def test_scale_at_the_corners(k):
    """The largest operands, for which a 33rd bit would be lost."""
    f, t = (a.reshape(-1) for a in np.meshgrid([0, 1, 255, 40000, 65535, 65536], [65536, 65535, 65534, 40001, 256]))
    f, t = f[f <= t].astype(np.uint32), t[f <= t].astype(np.uint32)
    for n in (0, 1, 2 ** (16 * k) - 1, 2 ** (16 * k) - 257, 2 ** (16 * k - 1)):
        got = limbs.scale(f, t, tuple(np.full(len(f), part[0]) for part in split(n, k)))
        values = [int("".join(f"{int(p[i]):04x}" for p in got), 16) for i in range(len(f))]
        assert values == [int(a) * n // int(b) for a, b in zip(f, t, strict=True)]
