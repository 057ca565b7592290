"""Dictionary on the device against the dictionary on the host."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressed_lm.codecs import device_dictionary
from compressed_lm.coding.dictionary import Dictionary


def make_dictionary(seed: int, n_more: int, alphabet: bytes) -> Dictionary:
    """Returns all single bytes and up to `n_more` random entries over an alphabet, in any order; some are long."""
    rng = np.random.default_rng(seed)
    entries = {bytes([b]): None for b in range(256)}
    grown = [bytes([b]) for b in alphabet]
    for _ in range(n_more):
        entry = grown[-1 if rng.random() < 0.5 else rng.integers(len(grown))] + bytes([rng.choice(list(alphabet))])
        if entry not in entries:
            entries[entry] = None
            grown.append(entry)
    shuffled = rng.permutation(np.array(list(entries), object))
    number = {entry: i for i, entry in enumerate(shuffled)}
    return Dictionary([number.get(e[:-1], -1) for e in shuffled], [e[-1] for e in shuffled])


DICTIONARIES = [
    make_dictionary(0, 0, b"a"),
    make_dictionary(1, 700, b"\x00\xff"),
    make_dictionary(2, 700, b" eth"),
    make_dictionary(3, 700, bytes(range(256))),
]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(device_dictionary, "CHUNK", 64)  # so that short documents take several


def assert_same(dictionary: Dictionary, documents: list[bytes]) -> None:
    ids = device_dictionary.encode(dictionary, documents)
    expected = dictionary.encode_batch(documents)
    assert [i.tolist() for i in ids] == [i.tolist() for i in expected]
    assert all(i.dtype == np.int32 for i in ids)
    assert all(np.array_equal(i, dictionary.encode(d)) for i, d in zip(ids, documents, strict=True))
    assert device_dictionary.decode(dictionary, ids) == documents


@pytest.mark.slow("compiles a program for each length")
@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(DICTIONARIES),
    st.lists(
        st.binary(max_size=200) | st.text("\0\xff eth", max_size=300).map(lambda s: s.encode("latin-1")), max_size=8
    ),
)
def test_device_equals_host(dictionary, documents):
    """Ids of the device, of a batch on the host and of single documents are equal, and the device decodes them."""
    assert_same(dictionary, documents)


@pytest.mark.thinned(1, "compiles a program for each length")
@pytest.mark.parametrize("dictionary", DICTIONARIES)
def test_many_documents_of_different_length(dictionary):
    """More documents than batch slots, from empty to many chunks long, each get their own ids."""
    rng = np.random.default_rng(0)
    documents = [rng.choice(list(b" eth\0\xff"), n).astype(np.uint8).tobytes() for n in rng.integers(0, 300, 90)]
    assert_same(dictionary, [b"", *documents, b"e" * 1000, b""])


@pytest.mark.thinned(2, "compiles a program for each length")
@pytest.mark.parametrize("longest", [16, 17, 48, 63, 64, 65, 500])
def test_entries_longer_than_a_chunk(longest):
    """Entries longer than a copy or a chunk are parsed and written across chunks."""
    parent = np.r_[np.full(256, -1), ord("a"), np.arange(256, 254 + longest)]
    dictionary = Dictionary(parent, np.r_[np.arange(256), np.full(longest - 1, ord("a"))])
    assert_same(dictionary, [b"a" * n for n in (longest, 3 * longest + 5, longest - 1)] + [b"xa" * 40])


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(DICTIONARIES), st.lists(st.integers(0, 200), max_size=6), st.integers(0, 2**32))
def test_any_numbers_decode(dictionary, counts, seed):
    """Any sequence of numbers decodes to the same text on the device and on the host."""
    rng = np.random.default_rng(seed)
    sequences = [rng.integers(0, len(dictionary), n) for n in counts]
    assert device_dictionary.decode(dictionary, sequences) == dictionary.decode_batch(sequences)


@pytest.mark.parametrize("bad", [-1, 256, 2**31, 2**32])
def test_numbers_outside_are_refused(bad):
    """A number outside the dictionary is refused on the host; the device would clip it silently."""
    with pytest.raises(ValueError, match="0 to 255"):
        device_dictionary.decode(DICTIONARIES[0], [[1], [2, bad]])
    with pytest.raises(ValueError, match="0 to 255"):
        device_dictionary.decode(DICTIONARIES[0], [np.array([300], np.int32)])
