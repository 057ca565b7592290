"""Window rules against an independent implementation with Python integers."""

import hashlib
import heapq
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressed_lm.coding import compiler, dictionary, limbs, tables, windows


def slow_table(text: bytes, seed: int) -> list[int]:
    """Returns frequencies that depend on the text in an arbitrary fixed way; some very peaked, some uniform."""
    digest = hashlib.blake2b(text[-3:] + bytes([seed]), digest_size=64).digest()
    counts = [1 + (digest[s % 64] * (s * 7 + 3) % 251 if s % 5 else 0) for s in range(256)]
    counts[digest[0]] += 20000 * (digest[1] % 3)
    total = sum(counts)
    freqs = [1 + c * (65536 - 256) // total for c in counts]
    freqs[max(range(256), key=lambda s: (counts[s], -s))] += 65536 - sum(freqs)
    return freqs


WHITE = b" \t\n\r\v\f"


def slow_child(text: bytes, lo: int, size: int, byte: int, bits: int, align: str, seed: int):
    """Returns the child of the specification's rule, computed with unbounded integers."""
    freqs = slow_table(text, seed)
    if not text:
        below = sum(freqs[:byte])
        shared = 2**bits - 256
        start = byte + below * shared // 65536
        return start, byte + 1 + (below + freqs[byte]) * shared // 65536 - start
    if align == "word" and text[-1] not in WHITE:
        freqs = [0 if s in WHITE else f for s, f in enumerate(freqs)]
    below, total = sum(freqs[:byte]), sum(freqs)
    start = below * (size - 1) // total
    return lo + 1 + start, (below + freqs[byte]) * (size - 1) // total - start


def slow_encode(data: bytes, bits: int, align: str, seed: int) -> list[int]:
    codes, text, lo, size = [], b"", 0, 2**bits
    for byte in data:
        child = slow_child(text, lo, size, byte, bits, align, seed)
        if child[1] == 0:
            codes.append(lo)
            text, (lo, size) = b"", slow_child(b"", 0, 2**bits, byte, bits, align, seed)
        else:
            lo, size = child
        text += bytes([byte])
    return codes + [lo] if data else codes


TEXT = b"the cat  sat on the\n mat; \x00\xff\xfe and a a a a a a sat\tthere    again " * 3


def split(value: int, k: int):
    return tuple(np.array([value >> 16 * i & 0xFFFF], np.uint32) for i in reversed(range(k)))


def joined(parts) -> int:
    return int.from_bytes(b"".join(int(p[0]).to_bytes(2, "big") for p in parts), "big")


def fast_encode(data: bytes, bits: int, align: str, seed: int) -> list[int]:
    """Returns the window codes computed with the package's limbs."""
    rule = windows.NodeRule(bits)
    codes, text, lo, size = [], b"", None, None
    for byte in data:
        for attempt in (text, b""):
            freqs = np.array(slow_table(attempt, seed), np.uint32)
            if attempt and align == "word":
                freqs = np.where(windows.allowed_continuations(attempt[-1]), freqs, 0).astype(np.uint32)
            cdf = tables.cumulative(freqs)
            symbol, below, above = (np.array([x], np.uint32) for x in (byte, cdf[byte], cdf[byte + 1]))
            if attempt:
                new = rule.child(lo, size, below, above, cdf[-1:])
            else:
                new = rule.root(symbol, below, above, xp=np)
            if rule.exists(*new)[0]:
                break
            codes.append(joined(lo))
        text, (lo, size) = attempt + bytes([byte]), new
    return codes + [joined(lo)] if data else codes


@pytest.mark.parametrize("bits", [8, 12, 16, 24, 31, 32, 64, 128])
@pytest.mark.parametrize("align", ["none", "word"])
def test_windows_equal_unbounded_integers(bits, align):
    """Limb arithmetic gives the same codes as unbounded Python integers."""
    assert fast_encode(TEXT, bits, align, seed=1) == slow_encode(TEXT, bits, align, seed=1)


def digest(value) -> str:
    return hashlib.sha256(value if isinstance(value, bytes) else repr(value).encode()).hexdigest()[:12]


def test_golden_codes():
    """The codes of a fixed text and of the 256 single bytes never change, since old files must stay readable."""
    node = {b: digest(fast_encode(TEXT, b, "none", seed=1)) for b in (8, 12, 16, 24, 32, 64, 128)}
    assert list(node.values()) == [
        "0beab4428aad",
        "83c8b3649776",
        "e21a61b35c78",
        "870aa61e7683",
        "bfeb4ca788c4",
        "fd05bcfd77d0",
        "06e750966d91",
    ]
    word = {b: digest(fast_encode(TEXT, b, "word", seed=1)) for b in (12, 16, 24, 32, 64, 128)}
    assert list(word.values()) == [
        "3ffd8bcd5dbc",
        "c6f0d72b2841",
        "0d83c8eb94b1",
        "62dc35222cd3",
        "5479115c59f3",
        "364f7f527812",
    ]
    cdf, symbols = tables.cumulative(np.array(slow_table(b"", 1), np.uint32)), np.arange(256, dtype=np.uint32)
    cells = {}
    for bits in (12, 16, 24, 32, 64, 128):
        rule = windows.CellRule(bits)
        code = rule.code(*rule.root(symbols, cdf[:-1], cdf[1:], xp=np), xp=np)
        cells[bits] = digest(np.stack(code, -1).astype("<u4").tobytes())
    assert list(cells.values()) == [
        "642cc8afb81b",
        "bf26b8675088",
        "2a00c04647d5",
        "490ef8badaaa",
        "ea271c9181cc",
        "fba8774ddaa0",
    ]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from([10, 12, 16, 24, 32, 64, 128]), st.data())
def test_cell_codes_are_the_shortest_bit_strings(bits, data):
    """A text exists if a cell lies in its interval; its code is the shortest bit string all of whose cells do."""
    rule, cell = windows.CellRule(bits), 2**32
    size = data.draw(st.integers(1, 2 ** data.draw(st.integers(20, bits + 31))))
    lo = data.draw(st.integers(0, (2**bits - 1) * cell - size)) if size < (2**bits - 1) * cell else 0
    k = limbs.n_limbs(bits) + 2
    first, end = -(-lo // cell), (lo + size) // cell
    assert bool(rule.exists(split(lo, k), split(size, k))[0]) == (first < end)
    if first < end:
        zeros = next(z for z in range(bits, -1, -1) if -(-first // 2**z) * 2**z + 2**z <= end)
        code = rule.code(split(lo, k), split(size, k), xp=np)
        assert joined(code) == -(-first // 2**zeros) * 2**zeros


@pytest.mark.parametrize("rule", [windows.NodeRule, windows.CellRule])
@pytest.mark.parametrize("bits", [12, 16, 24, 32, 64, 128])
def test_every_byte_can_start_a_window(rule, bits):
    """At the root all 256 bytes exist with consecutive intervals and distinct codes, for any table."""
    freqs = np.ones(256, np.uint32)
    freqs[97] += 65536 - 256
    cdf, symbols, rule = tables.cumulative(freqs), np.arange(256, dtype=np.uint32), rule(bits)
    lo, size = rule.root(symbols, cdf[:-1], cdf[1:], xp=np)
    assert rule.exists(lo, size).all()
    ends = limbs.add(lo, size)
    assert all((a[1:] == b[:-1]).all() for a, b in zip(lo, ends, strict=True))
    assert len(set(zip(*(limb.tolist() for limb in rule.code(lo, size, xp=np)), strict=True))) == 256


@pytest.mark.parametrize("align", ["none", "word"])
def test_dictionary_is_the_windows(align):
    """Compiled at b=12, the codes are 4,096 distinct texts, and longest match equals the step-by-step rule."""
    compiled = compiler.compile_windows(
        lambda texts: np.array([slow_table(t.tobytes(), 2) for t in texts], np.uint32),
        bits=12,
        align=align,
        max_bytes=64,
    )
    entries = {compiled.entry(i) for i in range(len(compiled))}
    assert len(compiled) == len(entries) == 4096
    assert all(e[:-1] in entries for e in entries if len(e) > 1) and {bytes([b]) for b in range(256)} <= entries
    data = TEXT + bytes(range(256))
    assert compiled.encode(data).tolist() == slow_encode(data, 12, align, seed=2)
    assert compiled.decode(compiled.encode(data)) == data
    numbers = np.random.default_rng(0).integers(0, 4096, 1000)
    assert compiled.decode(numbers) == b"".join(compiled.entry(i) for i in numbers)


@pytest.mark.parametrize("align", ["none", "word"])
def test_best_first_takes_the_likeliest_strings(align):
    """The entries are the 256 bytes and the most likely strings, found here by full enumeration."""
    found = compiler.compile_best_first(
        lambda texts: np.array([slow_table(t.tobytes(), 4) for t in texts], np.uint32),
        n_entries=1500,
        align=align,
        max_bytes=4,
    )
    heap, chosen = [(0.0, b"")], []
    while len(chosen) < 1500 - 256:
        cost, text = heapq.heappop(heap)
        if len(text) > 1:
            chosen.append(text)
        if len(text) < 4:
            freqs = slow_table(text, 4)
            banned = WHITE if text and align == "word" and text[-1] not in WHITE else b""
            for byte in set(range(256)) - set(banned):
                heapq.heappush(heap, (cost + 16 - math.log2(freqs[byte]), text + bytes([byte])))
    entries = [found.entry(i) for i in range(len(found))]
    assert entries == sorted(entries)  # depth-first order
    assert {e for e in entries if len(e) > 1} == set(chosen)
    assert {e for e in entries if len(e) == 1} == {bytes([b]) for b in range(256)}


def test_word_windows_never_hold_a_word_start():
    """No aligned window has white space after a byte that is not white space."""
    compiled = compiler.compile_windows(
        lambda texts: np.array([slow_table(t.tobytes(), 3) for t in texts], np.uint32),
        bits=12,
        align="word",
        max_bytes=64,
    )
    for i in range(len(compiled)):
        entry = compiled.entry(i)
        assert not any(a not in WHITE and b in WHITE for a, b in zip(entry, entry[1:], strict=False))


def test_flat_table_past_the_cap_keeps_the_bijection():
    """After max_bytes the table is uniform, every code has exactly one text, and windows stay short."""
    peaked = np.ones(256, np.uint32)
    peaked[ord("=")] = 65536 - 255
    compiled = compiler.compile_windows(
        lambda texts: np.tile(peaked, (len(texts), 1)), bits=12, align="none", max_bytes=16
    )
    assert len({compiled.entry(i) for i in range(4096)}) == 4096
    assert 16 <= compiled.depth.max() <= 16 + 3


def test_broken_dictionaries_are_refused():
    """A missing single byte, a cycle and a number outside the dictionary each raise an error with the reason."""
    with pytest.raises(ValueError, match="single bytes are missing"):
        dictionary.Dictionary(np.full(255, -1), np.arange(255))
    with pytest.raises(ValueError, match="cycle"):
        dictionary.Dictionary(np.r_[np.full(256, -1), 257, 256], np.r_[np.arange(256), 1, 2])
    good = dictionary.Dictionary(np.full(256, -1), np.arange(256))
    with pytest.raises(ValueError, match="0 to 255"):
        good.decode([256])
