"""Dictionary encoder against a plain Python longest match, and dictionary files against damage."""

import functools
import hashlib
import json
import lzma
import struct
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressed_lm.coding import dictionary as engine
from compressed_lm.coding import dictionary_file, greedy, longest_match
from compressed_lm.coding.batches import SCRATCH
from compressed_lm.coding.dictionary import Dictionary


def make_dictionary(seed: int, n_more: int, alphabet: bytes, *, shuffled: bool = True) -> Dictionary:
    """Returns all single bytes and up to `n_more` random entries over an alphabet, in any order."""
    rng = np.random.default_rng(seed)
    entries = {bytes([b]): None for b in range(256)}
    grown = [bytes([b]) for b in alphabet]
    for _ in range(n_more):
        # Half of the time the newest is lengthened, which makes some entries long.
        entry = grown[-1 if rng.random() < 0.5 else rng.integers(len(grown))] + bytes([rng.choice(list(alphabet))])
        if entry not in entries:
            entries[entry] = None
            grown.append(entry)
    return from_entries(rng.permutation(np.array(list(entries), object)) if shuffled else sorted(entries))


def from_entries(entries) -> Dictionary:
    number = {entry: i for i, entry in enumerate(entries)}
    return Dictionary([number.get(e[:-1], -1) for e in entries], [e[-1] for e in entries])


def run_dictionary(longest: int, byte: bytes = b"a") -> Dictionary:
    """Returns all single bytes, and runs of one of them."""
    others = [bytes([b]) for b in range(256) if bytes([b]) != byte]
    return from_entries(others + [byte * n for n in range(1, longest + 1)])


@functools.lru_cache(maxsize=2)
def slow_numbers(dictionary: Dictionary) -> dict[bytes, int]:
    """Returns the number of each entry, computed only from parents and last bytes."""
    numbers = {}
    for i in range(len(dictionary)):
        entry, node = b"", i
        while node >= 0:
            entry, node = bytes([dictionary.last[node]]) + entry, dictionary.parent[node]
        numbers[entry] = i
    return numbers


def slow_encode(dictionary: Dictionary, data: bytes) -> list[int]:
    """Returns the longest-match parse, computed byte by byte."""
    numbers = slow_numbers(dictionary)
    found, start = [], 0
    while start < len(data):
        end = start + 1
        while end < len(data) and data[start : end + 1] in numbers:
            end += 1
        found.append(numbers[data[start:end]])
        start = end
    return found


@st.composite
def dictionaries(draw) -> tuple[Dictionary, bytes]:
    alphabet = draw(st.sampled_from([b"a", b"ab", b"\x00\xff", b" eth", bytes(range(0, 256, 7)), bytes(range(256))]))
    n_more = draw(st.sampled_from([0, 1, 30, 600]))
    return make_dictionary(draw(st.integers(0, 2**32)), n_more, alphabet), alphabet


def random_text(seed: int, length: int, alphabet: bytes) -> bytes:
    """Returns text mostly from the alphabet, with runs of one byte and some other bytes."""
    rng = np.random.default_rng(seed)
    text = np.frombuffer(alphabet, np.uint8)[rng.integers(0, len(alphabet), length)]
    text = np.where(rng.random(length) < 0.03, rng.integers(0, 256, length), text).astype(np.uint8)
    if length > 20:
        text[length // 3 : length // 2] = alphabet[0]
    return text.tobytes()


@settings(max_examples=100, deadline=None)
@given(dictionaries(), st.lists(st.integers(0, 700), max_size=12), st.integers(0, 2**32))
def test_batch_is_the_longest_match(made, lengths, seed):
    """Batches of any documents, including empty ones, equal a slow longest match and round-trip."""
    dictionary, alphabet = made
    documents = [random_text(seed + i, n, alphabet) for i, n in enumerate(lengths)]
    got = dictionary.encode_batch(documents)
    assert all(ids.dtype == np.int32 for ids in got)
    assert [ids.tolist() for ids in got] == [slow_encode(dictionary, d) for d in documents]
    assert dictionary.decode_batch(got) == documents


@settings(max_examples=100, deadline=None)
@given(dictionaries(), st.binary(max_size=300))
def test_single_is_the_longest_match(made, data):
    """One document of arbitrary bytes, as bytes or bytearray, equals a slow longest match."""
    dictionary, _ = made
    expected = slow_encode(dictionary, data)
    for given_as in (data, bytearray(data), memoryview(data)):
        assert dictionary.encode(given_as).tolist() == expected
    assert dictionary.decode(expected) == data


@settings(max_examples=40, deadline=None)
@given(dictionaries(), st.integers(0, 20000), st.sampled_from([1, 7, 300, 1 << 19]), st.integers(0, 2**32))
def test_cuts_do_not_show(made, length, block, seed):
    """Documents that are split into pieces and blocks have the ids of the sequential parse.

    This includes long documents among short ones.
    """
    dictionary, alphabet = made
    document = random_text(seed, length if block > 7 else length // 10, alphabet)
    expected = slow_encode(dictionary, document)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "BLOCK", block)
        assert dictionary.encode(document).tolist() == expected
        batch = dictionary.encode_batch([b"", document, document[:5], document])
        assert [len(ids) for ids in batch[::2]] == [0, len(dictionary.encode(document[:5]))]
        assert batch[1].tolist() == batch[3].tolist() == expected
        assert dictionary.decode(expected) == document
        assert dictionary.decode_batch(batch) == [b"", document, document[:5], document]


@pytest.mark.parametrize("distance", [greedy.NEAR, greedy.FAR])
@pytest.mark.parametrize("more", [-1, 0, 1, 700])
def test_texts_of_all_places(distance, more):
    """Texts around the length that is parsed from ten places at once, whole and as short documents, with old states."""
    rng = np.random.default_rng(distance + more)
    for alphabet in (b" eth", b"ab", bytes(range(256))):
        dictionary = make_dictionary(int(rng.integers(2**32)), 600, alphabet)
        text = random_text(1, greedy.STREAMS * distance + more, alphabet)
        cuts = np.unique(rng.integers(0, len(text), 40))
        documents = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        SCRATCH.array("states", greedy.STATES, np.uint32)[:] = rng.integers(0, 1 << 32, greedy.STATES)
        assert dictionary.encode(text).tolist() == slow_encode(dictionary, text)
        SCRATCH.array("states", greedy.STATES, np.uint32)[:] = 0xFFFFFFFF
        assert [i.tolist() for i in dictionary.encode_batch(documents)] == [
            slow_encode(dictionary, d) for d in documents
        ]


@pytest.mark.parametrize("longest", [2, 15, 16, 17, 32, 33, 64, 65, 300, 5000])
def test_parses_that_never_meet(longest):
    """On one long run, independent parses never meet, and the ids are still those of the sequential parse.

    Entries of all lengths around the 16 bytes of a copy are written completely.
    """
    dictionary = run_dictionary(longest)
    n = 40 * longest + longest // 3 + 7
    text = b"x" + b"a" * n + b"y"
    number = {dictionary.entry(i): i for i in range(len(dictionary))}
    rest = [number[b"a" * (n % longest)]] if n % longest else []
    expected = [number[b"x"], *[number[b"a" * longest]] * (n // longest), *rest, number[b"y"]]
    ids = dictionary.encode(text)
    assert ids.tolist() == expected
    assert dictionary.decode(ids) == text
    assert dictionary.decode(ids[::-1]) == text[::-1]


def test_all_pairs():
    """65,536 entries, all pairs of bytes except 256, round-trip: the tables hold the densest trie."""
    singles = [bytes([b]) for b in range(256)]
    pairs = [bytes([a, b]) for a in range(255) for b in range(256)]
    dictionary = from_entries(singles + pairs)
    assert len(dictionary) == 65536
    text = random_text(5, 3001, bytes(range(256)))
    assert dictionary.encode(text).tolist() == slow_encode(dictionary, text)
    assert dictionary.decode(dictionary.encode(text)) == text


def test_wide_sparse_nodes():
    """Nodes with many children that fit in no gaps, so that the tables grow, parse correctly."""
    rng = np.random.default_rng(0)
    singles = [bytes([b]) for b in range(256)]
    dictionary = from_entries(
        singles + [bytes([a, b]) for a in range(0, 256, 4) for b in rng.choice(256, 48, replace=False)]
    )
    assert len(dictionary.cells) > 2 * len(dictionary) + 1024
    text = random_text(6, 3001, bytes(range(0, 256, 4)))
    assert dictionary.encode(text).tolist() == slow_encode(dictionary, text)


def test_memory_does_not_grow_with_entry_length():
    """A chain of 30,000 entries with 450 MB of text takes a few dozen bytes of memory per entry."""
    dictionary = run_dictionary(30000)
    arrays = [a for a in vars(dictionary).values() if isinstance(a, np.ndarray)]
    assert sum(a.nbytes for a in arrays) < 60 * len(dictionary)
    assert dictionary.entry(len(dictionary) - 1) == b"a" * 30000


@settings(max_examples=50, deadline=None)
@given(dictionaries(), st.integers(0, 500), st.integers(0, 2**32))
def test_any_numbers_decode(made, count, seed):
    """Any sequence of numbers, of any integer type, decodes to the concatenation of the entries."""
    dictionary, _ = made
    numbers = np.random.default_rng(seed).integers(0, len(dictionary), count)
    entries = {i: entry for entry, i in slow_numbers(dictionary).items()}
    expected = b"".join(entries[i] for i in numbers.tolist())
    assert dictionary.entry(len(dictionary) - 1) == entries[len(dictionary) - 1]
    for given_as in (numbers, numbers.tolist(), numbers.astype(np.int32), numbers.astype(np.uint16)):
        assert dictionary.decode(given_as) == expected


@pytest.mark.parametrize("bad", [-1, 300, 2**31 - 1, -(2**31), 2**31, 2**32, 2**40, -(2**40)])
def test_numbers_outside_are_refused(bad):
    """A number outside the dictionary, even by 2**32, raises an error with its value."""
    dictionary = run_dictionary(45)
    types = [np.int64] + [np.int32] * (-(2**31) <= bad < 2**31)
    for dtype in types:
        numbers = np.array([5, bad, 7], dtype)
        with pytest.raises(ValueError, match=f"{bad} .*dictionary of 300 entries.*0 to 299"):
            dictionary.decode(numbers)
        with pytest.raises(ValueError, match="0 to 299"):
            dictionary.decode_batch([np.zeros(3, np.int32), numbers], threads=2)


def test_threads():
    """Two and three threads, and threads of the caller, give the same result as one thread."""
    dictionary = make_dictionary(3, 3000, b" etaoin")
    documents = [random_text(i, 900 * (i % 7), b" etaoin") for i in range(60)]
    expected = [ids.tolist() for ids in dictionary.encode_batch(documents)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "BLOCK", 4000)
        for n in (2, 3):
            got = dictionary.encode_batch(documents, threads=n)
            assert [ids.tolist() for ids in got] == expected
            assert dictionary.decode_batch(got, threads=n) == documents
        results = [None] * 4

        def work(i):
            results[i] = [ids.tolist() for _ in range(5) for ids in dictionary.encode_batch(documents)]

        callers = [threading.Thread(target=work, args=[i]) for i in range(4)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    assert results == [expected * 5] * 4


def test_results_are_the_callers_own():
    """Returned ids do not change when the buffers are reused."""
    dictionary = make_dictionary(4, 500, b"abc")
    documents = [random_text(i, 400, b"abc") for i in range(8)]
    first = dictionary.encode_batch(documents[:4])
    before = [ids.copy() for ids in first]
    dictionary.encode_batch(documents[4:])
    assert all(np.array_equal(a, b) for a, b in zip(first, before, strict=True))


def test_doubled_entries_are_refused():
    """A list with duplicate entries raises an error with their number."""
    with pytest.raises(ValueError, match="2 of 260 entries are duplicates"):
        Dictionary(np.r_[np.full(256, -1), 97, 97, 97, 98], np.r_[np.arange(256), 1, 1, 1, 1])
    with pytest.raises(ValueError, match="1 of 257 entries are duplicates"):
        Dictionary(np.full(257, -1), np.arange(257) % 256)


def test_too_many_entries_are_refused():
    """Too many entries raise an error before any table is made."""
    n = longest_match.MAX_ENTRIES + 1
    with pytest.raises(ValueError, match=f"{n} entries were given; at most"):
        Dictionary(np.full(n, -1), np.zeros(n))


def test_imports_no_jax():
    """The encoder and its files load without JAX, as data workers need."""
    code = (
        "import sys, compressed_lm.coding.dictionary_file; assert not {'jax', 'flax', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@settings(max_examples=40, deadline=None)
@given(dictionaries(), st.booleans())
def test_file_round_trip(made, alphabetical):
    """A file keeps all numbers and the header, for any numbering; equal input gives equal bytes."""
    dictionary, _ = made
    if alphabetical:
        dictionary = from_entries(sorted(dictionary.entry(i) for i in range(len(dictionary))))
    header = {"spec": "eiw(b=16,v=65536)", "nested": {"ä": [1, None, 2.5]}}
    data = dictionary_file.to_bytes(dictionary, header)
    assert data == dictionary_file.to_bytes(dictionary, header)
    restored, read = dictionary_file.from_bytes(data)
    assert read == header
    assert np.array_equal(restored.parent, dictionary.parent) and np.array_equal(restored.last, dictionary.last)


def test_file_is_compact():
    """65,536 random entries in alphabetical order take less than two bytes each; in random order less than four."""
    ordered = make_dictionary(1, 65536, bytes(range(256)), shuffled=False)
    shuffled = make_dictionary(1, 65536, bytes(range(256)))
    assert len(dictionary_file.to_bytes(ordered, {})) < 2 * len(ordered)
    assert len(dictionary_file.to_bytes(shuffled, {})) < 4 * len(shuffled)


@pytest.fixture(scope="module")
def small_file() -> bytes:
    return dictionary_file.to_bytes(make_dictionary(2, 60, b"abc"), {"spec": "small"})


def test_every_truncation_is_refused(small_file):
    """A truncated or extended file raises an error with its name."""
    for end in range(len(small_file)):
        with pytest.raises(ValueError, match="notes.dict"):
            dictionary_file.from_bytes(small_file[:end], "notes.dict")
    with pytest.raises(ValueError, match="truncated or changed"):
        dictionary_file.from_bytes(small_file + b"\0")


def test_every_flipped_bit_is_refused(small_file):
    """A file with one or several changed bits raises an error."""
    rng = np.random.default_rng(0)
    single = [[bit] for bit in range(8 * len(small_file))]
    several = [rng.choice(8 * len(small_file), rng.integers(2, 9), replace=False) for _ in range(2000)]
    for bits in single + several:
        changed = bytearray(small_file)
        for bit in bits:
            changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match="the file"):
            dictionary_file.from_bytes(bytes(changed))


def sealed(*, version=1, n_entries=256, header=b"{}", header_length=None, stream=b"") -> bytes:
    """Returns a file of any content with a correct checksum."""
    length = len(header) if header_length is None else header_length
    body = dictionary_file.MAGIC + struct.pack("<III", version, n_entries, length) + header + stream
    return body + hashlib.sha256(body).digest()


def test_sealed_file_is_the_format():
    """The file made by `sealed` can be read, so the refusals below have no other cause."""
    shape = np.concatenate([[0], np.ones(255, np.uint8)]).astype(np.uint8).tobytes()
    stream = lzma.compress(shape + bytes(768) + bytes(range(256)) + bytes(1024))
    dictionary, header = dictionary_file.from_bytes(sealed(stream=stream, header=json.dumps({"a": 1}).encode()))
    assert len(dictionary) == 256 and header == {"a": 1}


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "does not begin with"),
        (b"PK\x03\x04" + bytes(100), "does not begin with"),
        (dictionary_file.MAGIC, "truncated or changed"),
        (sealed(version=2), "format version 2; this package reads version 1"),
        (sealed(n_entries=2**32 - 1), "claims 4294967295 entries"),
        (sealed(header_length=2**32 - 1), "with 4294967295 bytes of header"),
        (sealed(header_length=3), "with 3 bytes of header"),
        (sealed(header=b"\xff\xfe"), "not a JSON object"),
        (sealed(header=b"[1]"), "not a JSON object"),
        (sealed(), "do not unpack to the 2304"),
        (sealed(stream=b"no stream"), "do not unpack to the 2304"),
        (sealed(stream=lzma.compress(bytes(10))), "do not unpack to the 2304"),
        (sealed(stream=lzma.compress(bytes(1 << 26))), "do not unpack to the 2304"),
        (sealed(stream=lzma.compress(bytes(2304)) + b"more"), "do not unpack to the 2304"),
        (sealed(stream=lzma.compress(b"\xff" * 2304)), "do not form a dictionary"),
        (sealed(n_entries=0, stream=lzma.compress(b"")), "256 single bytes are missing"),
        (sealed(stream=lzma.compress(bytes(2304))), "single bytes are missing"),
    ],
)
def test_absurd_files_are_refused(content, message):
    """Invalid files with a correct checksum raise an error with the reason.

    This includes streams that would unpack to far more than the expected size.
    """
    with pytest.raises(ValueError, match=message):
        dictionary_file.from_bytes(content)
