"""Stability of ids and their texts, for codecs with answers computed by hand."""

import re

import numpy as np
import pandas as pd
import pytest

from compressed_lm import codecs
from compressed_lm.token_analysis import stability, token_text
from compressed_lm.token_analysis.windows import token_width, tokens_per_window


class Pairs:
    """Windows of 16 bits, two tokens each: "zz" is (7, 255), any other byte b is (b // 16, b % 16), "z" (7, 10)."""

    name, spec, vocab_size, window_bits = "pairs", "pairs", 256, 16

    def encode_batch(self, documents):
        windows = [[(7, 255) if w == b"zz" else divmod(w[0], 16) for w in re.findall(b"zz|.", d)] for d in documents]
        return [np.array(w, np.int32).reshape(-1) for w in windows]

    def decode_batch(self, ids):
        windows = [np.asarray(sequence).reshape(-1, 2).tolist() for sequence in ids]
        return [b"".join(b"zz" if w == [7, 255] else bytes([w[0] % 16 << 4 | w[1] & 15]) for w in d) for d in windows]

    def token_byte_lengths(self, ids):
        return None


class Nibbles:
    """Four bits per token, no windows and no lengths: a byte is known with its second token."""

    name, spec, vocab_size, window_bits = "nibbles", "nibbles", 16, None

    def encode_batch(self, documents):
        return [np.array([n for b in d for n in (b >> 4, b & 15)], np.int32) for d in documents]

    def decode_partial(self, ids):
        return bytes(int(a) << 4 | int(b) for a, b in zip(ids[::2], ids[1::2], strict=False))

    def token_byte_lengths(self, ids):
        return None


def array(*ids):
    return np.array(ids, np.int32)


def test_windows_and_tokens_meet():
    """Positions end at a common boundary of windows and tokens: 16/8 bits at 2, 24/16 at 3, no windows at 1."""
    codec = Pairs()
    assert tokens_per_window(codec) == 2
    codec.window_bits, codec.vocab_size = 24, 65536
    assert tokens_per_window(codec) == 3
    assert tokens_per_window(codecs.Bytes()) == 1
    assert [token_width(v) for v in (2, 256, 257, 32000)] == [1, 8, 9, 15]


def test_levenshtein_of_known_sequences():
    """Distances are edits over the longer length, for every pair in the order of triu_indices, empty ones included."""
    kitten, sitting = (np.frombuffer(w, np.uint8).astype(np.int32) for w in (b"kitten", b"sitting"))
    found = stability.normalised_levenshtein([kitten, sitting, array(), array()])
    assert found == pytest.approx([3 / 7, 1, 1, 1, 1, 0])
    assert stability.normalised_levenshtein([array(1, 2, 3, 4), array(2, 3, 4, 5)]) == pytest.approx([2 / 4])
    assert len(stability.normalised_levenshtein([])) == 0


def test_ids_of_a_sentence_are_cut_off_their_prefix():
    """Only ids with a byte of the sentence are compared: by length, or from the first window that it changes."""
    cut = stability.sentence_ids(codecs.Bytes(), b"abc", [b"x ", b"long "])
    assert [ids.tolist() for ids in cut] == [[97, 98, 99]] * 2
    pairs = stability.prefix_stability(codecs.Bytes(), b"abc", [b"x ", b"long ", b""])
    assert pairs["distance"].tolist() == [0, 0, 0]
    assert pairs[["first", "second"]].to_numpy().tolist() == [[0, 1], [0, 2], [1, 2]]
    # After "z" the first window is "zz". It begins as "z" alone, but all of it belongs to the sentence.
    cut = stability.sentence_ids(Pairs(), b"zab", [b"y", b"z"])
    assert [ids.tolist() for ids in cut] == [[7, 10, 6, 1, 6, 2], [7, 255, 6, 1, 6, 2]]


def test_histogram_shares_sum_to_one():
    """The histogram is per codec, with the exact mean and the distance 1 in the last bin."""
    pairs = pd.DataFrame({"codec": ["a", "a", "a", "a", "b"], "distance": [0, 0.1, 0.6, 1.0, 0.3]})
    histogram = stability.distance_histogram(pairs, n_bins=2)
    assert histogram["share"].tolist() == [0.5, 0.5, 1, 0]
    assert histogram["mean"].tolist() == pytest.approx([0.425, 0.425, 0.3, 0.3])


def test_texts_of_tokens_with_lengths():
    """An id with a decoded text always has this text; ids below min_count are left out."""
    texts = token_text.token_texts(codecs.Bytes(), [b"aab", b"\xffa\xff"], min_count=2)
    assert texts[["position", "id", "n", "n_texts", "share", "n_bytes", "text"]].to_numpy().tolist() == [
        [-1, 97, 3, 1, 1.0, 1.0, "a"],
        [-1, 255, 2, 1, 1.0, 1.0, "\\xff"],
    ]


def test_texts_of_window_tokens_are_what_they_determine():
    """The first token of a window gets the bytes shared by all windows that begin with it, the second the rest."""
    windows = np.array([[6, 1], [7, 255], [6, 2]])  # "a", "zz", "b"
    assert token_text._window_texts(Pairs(), windows).tolist() == [[b"", b"a"], [b"", b"zz"], [b"", b"b"]]

    class Ordered(Pairs):  # the first token is the first byte, the second adds "!" at most once
        def decode_batch(self, ids):
            return [b"".join(bytes([a]) + b"!" * min(b, 1) for a, b in s.reshape(-1, 2)) for s in map(np.asarray, ids)]

        def encode_batch(self, documents):
            return [array(97, 0, 97, 1, 98, 1, 97, 1)]

    texts = token_text.token_texts(Ordered(), [b"aa!b!a!"], min_count=1)
    first = texts[texts["position"] == 0].set_index("id")
    assert first["text"].to_dict() == {97: "a", 98: "b"} and first["share"].tolist() == [1, 1]
    second = texts[texts["position"] == 1].set_index("id")
    assert second["n"].to_dict() == {0: 1, 1: 3}
    assert second["share"].to_dict() == {0: 0.0, 1: 1.0}  # id 0 adds no byte: it has no usual text
    summary = token_text.text_stability(texts).set_index("position")
    assert summary.loc[1, ["n_ids", "stable_ids", "stable_tokens", "usual_tokens"]].tolist() == [2, 0.5, 0.75, 0.75]


def test_texts_of_codecs_without_spans_come_from_prefixes():
    """Without lengths or windows a token's text is what it adds to decode_partial, and max_ids bounds the documents."""
    texts = token_text.token_texts(Nibbles(), [b"aq", b"never read"], min_count=1, max_ids=4).set_index("id")
    assert texts["n"].to_dict() == {1: 2, 6: 1, 7: 1}  # a = 6 1, q = 7 1
    assert texts["share"].to_dict() == {1: 0.5, 6: 0.0, 7: 0.0}
    assert texts.loc[1, "n_texts"] == 2


def test_repeated_ids():
    """Attested and repeated shares count ids, over all positions and for each position of the window."""
    rows = token_text.attested_ids(Pairs(), [b"aba"])  # (6, 1) (6, 2) (6, 1)
    assert rows[["position", "n_tokens", "n_ids"]].to_numpy().tolist() == [[-1, 6, 3], [0, 3, 1], [1, 3, 2]]
    assert rows["attested"].tolist() == [3 / 256, 1 / 256, 2 / 256]
    assert rows["repeated"].tolist() == [2 / 3, 1, 1 / 2]
