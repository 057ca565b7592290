"""tokenizer.json of dictionaries and of bytes."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressed_lm import codecs, integrations
from compressed_lm.coding.dictionary import Dictionary
from compressed_lm.integrations import longest_match_json

tokenizers = pytest.importorskip("tokenizers")

EXACT = ["eiw16-word-en", "eiw16-en", "bytes"]


@pytest.fixture(scope="module")
def fast(built):
    """Returns the tokenizers of the package `tokenizers` by name, with special tokens as text."""

    def load(name):
        content = integrations.export_tokenizer(built(name))["tokenizer.json"]
        tokenizer = tokenizers.Tokenizer.from_str(content.decode())
        tokenizer.encode_special_tokens = True
        return tokenizer

    return {name: load(name) for name in EXACT}


@pytest.mark.parametrize("name", EXACT)
def test_ids_of_edge_cases_are_the_codecs(name, fast, built, edges, code):
    """Texts of white space, NUL, long words, special-token-like and random characters have the codec's ids."""
    texts = edges + code
    found = fast[name].encode_batch(texts)
    expected = built(name).encode_batch([text.encode() for text in texts])
    assert [f.ids for f in found] == [e.tolist() for e in expected]
    assert fast[name].decode_batch([f.ids for f in found]) == texts


@pytest.mark.parametrize("name", EXACT)
def test_every_entry_is_one_token(name, fast, built):
    """The text of each entry that is UTF-8 is encoded as that entry, and every id has a token of the same bytes."""
    texts = built(name).decode_batch(list(np.arange(built(name).vocab_size)[:, None]))
    assert [fast[name].id_to_token(i) for i in range(len(texts))] == [*map(longest_match_json.symbols, texts)]
    whole = [(i, t.decode()) for i, t in enumerate(texts) if t.decode("utf-8", "ignore").encode() == t]
    assert len(whole) > 100
    assert [f.ids for f in fast[name].encode_batch([t for _, t in whole])] == [[i] for i, _ in whole]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.sampled_from("ab.^[]\\-*é "), min_size=1, max_size=5), max_size=30), st.data())
def test_the_pattern_matches_the_longest_entry(words, data):
    """The pattern of any dictionary, in Python's regular expressions too, splits text as the dictionary does."""
    entries = {w.encode()[:n] for w in words for n in range(1, len(w.encode()) + 1)} | {bytes([b]) for b in range(256)}
    ordered = sorted(entries, key=lambda e: (len(e), e))
    place = {entry: i for i, entry in enumerate(ordered)}
    dictionary = Dictionary([place.get(e[:-1], -1) for e in ordered], [e[-1] for e in ordered])
    text = data.draw(st.text(st.sampled_from("ab.^[]\\-*é "), max_size=40)).encode()
    found = re.findall(longest_match_json.trie_pattern(dictionary), longest_match_json.symbols(text))
    assert found == [longest_match_json.symbols(ordered[i]) for i in dictionary.encode(text)]


def test_symbols_are_those_of_byte_level_vocabularies():
    """The characters of bytes are those of GPT-2, as the package tokenizers uses them."""
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for text in ("".join(map(chr, range(0x250))), "日本 👩"):
        assert byte_level.pre_tokenize_str(text)[0][0] == longest_match_json.symbols(text.encode())
    assert len(set(longest_match_json.SYMBOLS)) == 256


def test_windows_of_several_tokens_have_no_tokenizer_json(built):
    """A codec whose tokens are parts of windows gets the Python class, not a file that is nearly right."""
    eiw = built("eiw16-en")
    options = codecs.FAMILIES["eiw"].from_files(
        {"dictionary.clmd": eiw.files()["dictionary.clmd"]}, b=16, v=256, fill="best"
    )
    assert longest_match_json.dictionary_of(options) is None
    assert "codec/codec.json" in integrations.export_tokenizer(options)
