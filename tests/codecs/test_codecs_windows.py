"""Windows of every fill, size and reset against a second implementation with Python integers."""

import functools

import numpy as np
import pytest

from compressed_lm.codecs.window_rules import WindowRules

WHITE = b" \t\n\r\v\f"
CONTEXT = 64
TEXT = b"the cat  sat on the\n mat; \x00\xff\xfe and a a a a a a sat\tthere    again " * 3 + bytes(40)


class SlowWindows:
    """Encoder and decoder by window and byte, with unbounded integers and one table of M1 per call."""

    def __init__(self, m1, rules: WindowRules):
        self.rules, self.limit = rules, rules.context
        self.table = functools.lru_cache(None)(
            lambda text: [int(f) for f in m1.byte_frequencies(np.frombuffer(text, np.uint8)[None])[0]]
        )

    def freqs(self, seen: bytes, window: bytes) -> list[int]:
        if self.rules.m1_reset == 0:
            seen = seen[len(seen) // self.limit * self.limit :]
        freqs = self.table(seen) if len(seen) < self.limit else [256] * 256
        if self.rules.align == "word" and window and window[-1] not in WHITE:
            freqs = [0 if s in WHITE else f for s, f in enumerate(freqs)]
        return freqs

    def extend(self, interval, seen: bytes, window: bytes, byte: int):
        """Returns the interval of window + byte; None if it is not a window."""
        freqs, b = self.freqs(seen, window), self.rules.bits
        below, total = sum(freqs[:byte]), sum(freqs)
        above = below + freqs[byte]
        if self.rules.fill == "node":
            if not window:
                shared = 2**b - 256
                start, end = byte + below * shared // total, byte + 1 + above * shared // total
            else:
                lo, n = interval
                start, end = lo + 1 + below * (n - 1) // total, lo + 1 + above * (n - 1) // total
            return (start, end - start) if end > start else None
        cell = 2**32
        if not window:
            shared = (2**b - 513) * cell
            start, end = 2 * byte * cell + below * shared // total, 2 * (byte + 1) * cell + above * shared // total
        else:
            lo, n = interval
            start, end = lo + below * n // total, lo + above * n // total
        fits = -(-start // cell) < end // cell
        return (start, end - start) if fits or not window else None

    def code(self, interval) -> int:
        lo, n = interval
        if self.rules.fill == "node":
            return lo
        first, end = -(-lo // 2**32), (lo + n) // 2**32
        for zeros in range(self.rules.bits, -1, -1):  # the shortest bit string whose cells lie inside
            code = -(-first // 2**zeros) * 2**zeros
            if code + 2**zeros <= end:
                return code
        raise AssertionError

    def encode(self, data: bytes) -> list[int]:
        codes, place, seen, closed = [], 0, b"", 0
        while place < len(data):
            window, interval, trail = b"", None, []
            while place + len(window) < len(data):
                byte = data[place + len(window)]
                grown = self.extend(interval, seen + window, window, byte)
                if grown is None:
                    break
                interval, window = grown, window + bytes([byte])
                trail.append(self.code(interval))
            if self.rules.fill == "delay":
                window = window[: trail.index(trail[-1]) + 1]
            codes.append(trail[-1])
            place, closed, seen = place + len(window), closed + 1, seen + window
            if closed == self.rules.m1_reset:
                seen, closed = b"", 0
        return codes

    def decode(self, codes: list[int]) -> bytes:
        out, seen, closed = b"", b"", 0
        for code in codes:
            window, interval, match = b"", None, None
            while True:
                target = code if self.rules.fill == "node" else code * 2**32
                grown = None
                for byte in range(256):
                    grown = self.extend(interval, seen + window, window, byte)
                    if grown and grown[0] <= target < grown[0] + grown[1]:
                        break
                    grown = None
                if grown is None:
                    break
                interval, window = grown, window + bytes([byte])
                if self.code(interval) == code:
                    match = len(window)
                    if self.rules.fill != "paper":
                        break
            window = window[:match]
            out, closed, seen = out + window, closed + 1, seen + window
            if closed == self.rules.m1_reset:
                seen, closed = b"", 0
        return out


def integers(codes: np.ndarray) -> list[int]:
    return [int.from_bytes(row.astype(">u2").tobytes(), "big") for row in codes]


# Each size, fill, alignment and reset: every case compiles an encoder and a decoder.
CASES = [(12, "node", "word", 1), (24, "node", "none", 2), (64, "node", "none", 0), (128, "node", "word", 1)]
CASES += [(16, "delay", "none", 1), (32, "delay", "word", 1), (64, "paper", "none", 1)]


@pytest.mark.slow("codes windows of every size with M1")
@pytest.mark.parametrize(("bits", "fill", "align", "reset"), CASES)
def test_codes_are_those_of_unbounded_integers(m1, engine, bits, fill, align, reset):
    """Encoding and decoding in batch slots equal the Python integers, window by window."""
    rules = WindowRules(bits, fill, align, reset, CONTEXT)
    slow = SlowWindows(m1, rules)
    texts = [TEXT, b"", b"x", TEXT[50:90]]
    got = list(m1.engine.encode_windows(texts, rules))
    assert [integers(codes) for codes in got] == [slow.encode(text) for text in texts]
    decoded = m1.engine.decode_windows(got, rules)
    assert decoded[1:] == [slow.decode(integers(codes)) for codes in got[1:]]
    if fill != "paper":
        assert decoded == texts
