"""The compiled rules of windows equal those of `coding.windows`, step by step."""

import numba
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from compressed_lm.coding import limbs, window_loops, windows


@numba.njit
def walk(node, cdfs, symbols, shared, n_code, intervals, codes, found, existing):
    """Extends a window by symbols; writes its interval, code and existence, and the symbol that its code leads to."""
    k = len(shared)
    lo, size, buffer = np.zeros(k, np.int64), np.zeros(k, np.int64), np.zeros(k, np.int64)
    new_lo, new_size = np.zeros(k, np.int64), np.zeros(k, np.int64)
    for i in range(len(symbols)):
        cdf, symbol = cdfs[i], symbols[i]
        if i:
            window_loops.extended(node, cdf[symbol], cdf[symbol + 1], cdf[256], lo, size, new_lo, new_size, buffer)
        else:
            window_loops.first(node, symbol, cdf[symbol], cdf[symbol + 1], shared, new_lo, new_size)
        existing[i] = window_loops.exists(node, new_lo, new_size)
        if not existing[i]:
            return i
        window_loops.code(node, new_lo, new_size, codes[i])
        found[i] = window_loops.find(node, cdf, cdf[256], i == 0, lo, size, codes[i], shared)
        lo[:], size[:] = new_lo, new_size
        intervals[i, 0], intervals[i, 1] = lo, size
    return len(symbols)


def integer(number) -> int:
    value = 0
    for limb in number:
        value = value << 16 | int(limb)
    return value


@settings(max_examples=200, deadline=None)
@given(st.integers(10, 128), st.booleans(), st.booleans(), st.integers(0, 2**32 - 1))
def test_steps_equal_the_rules(bits, node, aligned, seed):
    """Intervals, existence and codes are the same for any table, also sums below 2**16; each code leads to its byte."""
    random = np.random.default_rng(seed)
    rule = windows.NodeRule(bits) if node else windows.CellRule(bits)
    n = 40
    freqs = random.integers(1, 1 + 2 ** random.integers(1, 9, (n, 256)), (n, 256))
    freqs[:, 0] += 65536 - freqs.sum(1)
    if aligned:
        freqs[1:, windows.WHITE_SPACE] = 0
    cdfs = np.concatenate([np.zeros((n, 1), np.int64), np.cumsum(freqs, 1)], axis=1)
    symbols = np.array([random.choice(256, p=f / f.sum()) for f in freqs])
    shared, n_code = window_loops.shared_limbs(bits, node), limbs.n_limbs(bits)
    intervals, codes = np.zeros((n, 2, len(shared)), np.int64), np.zeros((n, n_code), np.int64)
    found, existing = np.zeros(n, np.int64), np.zeros(n, bool)
    steps = walk(node, cdfs, symbols, shared, n_code, intervals, codes, found, existing)
    lo = size = ()
    for i in range(min(steps + 1, n)):
        below, above, total = (np.uint32(cdfs[i, j]) for j in (symbols[i], symbols[i] + 1, 256))
        if i:
            lo, size = rule.child(lo, size, below, above, total if aligned else None)
        else:
            lo, size = rule.root(np.uint32(symbols[i]), below, above, xp=np)
        assert existing[i] == bool(rule.exists(lo, size))
        if not existing[i]:
            return
        assert [integer(x) for x in intervals[i]] == [integer(lo), integer(size)]
        assert integer(codes[i]) == integer(rule.code(lo, size, xp=np))
        assert found[i] == symbols[i]
