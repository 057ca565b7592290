"""Offsets of tokens, in characters, and names of tokens."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressed_lm import codecs
from compressed_lm.errors import InputError
from compressed_lm.integrations.offsets import character_offsets, utf8
from compressed_lm.integrations.special_tokens import END
from compressed_lm.integrations.token_names import token_names


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("aé日👩\udcff\n"), max_size=12), st.data())
def test_offsets_cover_the_characters_of_a_tokens_bytes(text, data):
    """A token's offsets are the characters that its bytes belong to, for every division of a text into bytes."""
    owner = [place for place, character in enumerate(text) for _ in utf8(character, "test")]
    cuts = sorted(data.draw(st.sets(st.integers(0, len(owner)), max_size=6)) | {0, len(owner)})
    found = character_offsets(text, np.diff(cuts))
    assert found == [(owner[a], owner[b - 1] + 1) for a, b in zip(cuts, cuts[1:], strict=False)]


def test_tokens_of_another_text_are_refused():
    """Lengths that do not add up to the text raise an error."""
    with pytest.raises(InputError, match="Tokens of 5 bytes were given for a text of 4"):
        character_offsets("日a", np.array([3, 2]))


def test_tokens_without_text_have_empty_offsets():
    """A token of no bytes has an empty range where it is."""
    assert character_offsets("ab", np.array([0, 1, 0, 1, 0])) == [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2)]


@pytest.mark.parametrize("name", ["pieces16-en", "eiw16-en", "bytes", "gzip(v=256)"])
def test_names_are_different(name, built):
    """Every id has a name of its own, which no special token has."""
    names = token_names(built(name))
    assert len(set(names)) == len(names) == built(name).vocab_size and END not in names and all(names)


def test_names_that_would_clash_are_numbers():
    """If an id's bytes look like a special token, all ids are named by number."""

    class Clash(codecs.Bytes):
        vocab_size = 3

        def decode_batch(self, ids):
            return [b"a", END.encode(), b"b"]

    assert token_names(Clash()) == ["<|0|>", "<|1|>", "<|2|>"]
