"""Every codec is lossless for every byte string, alone, in a batch, saved and loaded."""

import inspect
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressed_lm import codecs
from compressed_lm.codecs.arithmetic import SEGMENT_BYTES
from compressed_lm.codecs.streaming import StreamDecoder
from compressed_lm.codecs.window_rules import WindowRules
from compressed_lm.coding.range_coder import CorruptStream, Decoder
from compressed_lm.coding.tables import END
from compressed_lm.errors import InputError

SPECS = [
    "bytes",
    "sentencepiece(v=512)",
    "sentencepiece(model=bpe,v=512)",
    "bpe(v=512)",
    "pieces(v=512)",
    "pieces(marks=within,v=768)",
    *(f"{family}(v={v})" for family in ("gzip", "lzma", "static_ac", "ac") for v in (256, 4096, 65536)),
    "eiw(b=12,v=4096)",
    "eiw(align=word,b=12,v=256)",
    "eiw(b=16,v=256)",
    "eiw(b=16,v=65536)",
    "eiw(b=24,v=4096)",
    "eiw(align=word,b=32,v=65536)",
    "eiw(align=word,b=12,fill=best,v=4096)",
    "eiw(b=64,v=4096)",
    "eiw(b=32,fill=delay,v=256)",
    "eiw(b=32,m1_reset=never,v=256)",
]
EIW_STREAMS = ["eiw(b=12,v=4096)", "eiw(align=word,b=12,v=256)", "eiw(b=16,v=256)"]
HOSTILE = [
    b"",
    *(bytes([b]) for b in range(256)),
    bytes(300),
    b"\xff" * 300,
    b" " * 500 + b"x" + b"\t\r\n" * 50,
    "Grüße, これはテキスト▁です\x00 \ufffd naïve".encode() * 5,
    "日本語".encode()[:-1] + b"\xed\xa0\x80\xc0\xaf",
    bytes(range(256)) * 2,
    np.random.default_rng(0).integers(0, 256, 1500).astype(np.uint8).tobytes(),
    np.random.default_rng(1).integers(0, 256, 5_000).astype(np.uint8).tobytes(),
]
SEVERAL_ROWS = ["ac(v=4096)", "eiw(b=24,v=4096)"]
"""Codecs that run M1 with several texts on each device; the others with one, as each number of rows is a program to
compile."""


@pytest.fixture(scope="session")
def built(m1):
    """Returns a dictionary of codecs by spec, each built at the first use."""
    text, compiled = [paragraph.encode() for paragraph in inspect.getsource(inspect).split("\n\n")], {}

    class Built(dict):
        def __missing__(self, spec):
            _, options = codecs.parse_spec(spec)
            key = tuple(options.get(name) for name in ("b", "align", "fill"))
            self[spec] = codecs.create(spec, m1=m1, documents=lambda: text, dictionary=compiled.get(key))
            compiled[key] = getattr(self[spec], "dictionary", None)
            return self[spec]

    return Built()


@pytest.mark.slow("codes texts with M1, token by token")
@pytest.mark.parametrize("spec", SPECS)
def test_batches_round_trip_through_a_saved_codec(built, spec, tmp_path):
    """Batches of hostile bytes of all lengths are decoded by the codec loaded from disk."""
    codec = built[spec]
    codecs.save(codec, tmp_path)
    loaded = codecs.load(tmp_path)
    assert (loaded.spec, loaded.fingerprint, loaded.vocab_size) == (codec.spec, codec.fingerprint, codec.vocab_size)
    documents = HOSTILE
    if spec.startswith(("ac", "eiw")):
        documents = [b"", *(HOSTILE[1:257:5] if spec in SEVERAL_ROWS else []), *HOSTILE[257:]]
    ids = codec.encode_batch(documents)
    assert all(i.dtype == np.int32 and (not i.size or 0 <= i.min() <= i.max() < codec.vocab_size) for i in ids)
    assert loaded.decode_batch(ids) == documents


@pytest.mark.slow("codes texts with M1, token by token")
@pytest.mark.parametrize("spec", ["ac(v=256)", "eiw(b=24,v=4096)"])
def test_documents_longer_than_a_segment_round_trip(built, spec):
    """Documents longer than a segment round-trip.

    Codecs that run M1 split them into segments that are encoded in parallel.
    """
    document = np.random.default_rng(1).integers(0, 256, SEGMENT_BYTES + 700).astype(np.uint8).tobytes()
    assert built[spec].decode(built[spec].encode(document)) == document


@pytest.mark.thinned(2, "codes texts with M1, token by token")
@pytest.mark.parametrize("spec", SPECS)
def test_alone_is_as_in_a_batch(built, spec):
    """The ids of a document do not depend on the other documents of its batch."""
    codec = built[spec]
    documents = [HOSTILE[0], HOSTILE[-5], HOSTILE[65]]
    for document, ids in zip(documents, codec.encode_batch(documents), strict=True):
        assert codec.encode(document).tolist() == ids.tolist()
        assert codec.decode(ids) == document


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=3))
@pytest.mark.parametrize(
    "spec",
    [
        "sentencepiece(v=512)",
        "bpe(v=512)",
        "pieces(v=512)",
        "gzip(v=4096)",
        "static_ac(v=65536)",
        "eiw(b=12,v=4096)",
        "eiw(align=word,b=12,v=256)",
        "eiw(align=word,b=12,fill=best,v=4096)",
    ],
)
def test_arbitrary_bytes_round_trip(built, spec, documents):
    """Arbitrary byte strings (Hypothesis) round-trip, for codecs without a device loop."""
    assert built[spec].decode_batch(built[spec].encode_batch(documents)) == documents


@pytest.mark.thinned(1, "codes texts with M1, token by token")
@pytest.mark.parametrize(
    "spec", ["eiw(b=12,v=4096)", "eiw(b=16,v=256)", "eiw(b=24,v=4096)", "eiw(align=word,b=32,v=65536)"]
)
def test_any_window_codes_decode_and_come_back(built, spec):
    """Windows are a bijection: random ids decode, and each decoded window encodes to its ids."""
    codec = built[spec]
    per_window = codec.window_bits // (codec.vocab_size.bit_length() - 1)
    ids = np.random.default_rng(2).integers(0, codec.vocab_size, (64, per_window)).astype(np.int32)
    texts = codec.decode_batch(list(ids))
    assert all(texts) and len(set(texts)) == len({tuple(i) for i in ids.tolist()})
    assert [i.tolist() for i in codec.encode_batch(texts)] == ids.tolist()


@pytest.mark.slow("codes texts with M1, token by token")
def test_online_windows_equal_the_dictionary(m1, built):
    """Windows computed with M1 equal the entries of the compiled dictionary."""
    for align, spec in (("none", "eiw(b=16,v=65536)"), ("word", "eiw(align=word,b=12,v=256)")):
        compiled = built[spec]
        rules = WindowRules(compiled.window_bits, "node", align, 1, 64)
        codes = [compiled.dictionary.encode(document) for document in HOSTILE[-8:]]
        online = list(m1.engine.encode_windows(HOSTILE[-8:], rules))
        assert [c[:, 0].tolist() for c in online] == [c.tolist() for c in codes]
        assert m1.engine.decode_windows(online, rules) == HOSTILE[-8:]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2**31), min_size=2, max_size=6), st.sampled_from([256, 4096, 65536]), st.randoms())
def test_headers_of_long_documents_decode_before_any_segments(m1, lengths, v, random):
    """The header of a long document decodes correctly for any segments after it."""
    codec = codecs.create(f"ac(v={v})", m1=m1)
    lengths = [length % 40 for length in lengths]
    segments = [random.randrange(v) for _ in range(sum(lengths))]
    parts = codec._segments_of(np.concatenate([codec._header(lengths), np.array(segments, np.int32)]))
    assert [len(part) for part in parts] == lengths
    assert np.concatenate(parts).tolist() == segments


@pytest.mark.slow("codes texts with M1, token by token")
def test_partial_decoding_is_a_prefix(built):
    """The text of an unfinished sequence never changes later."""
    text = (
        b"It is a truth universally acknowledged, that a man in possession of a fortune must be in want of a wife. " * 3
    )
    for spec in SPECS:
        codec = built[spec]
        ids = codec.encode(text)
        shown = [codec.decode_partial(ids[:n]) for n in (0, 1, len(ids) // 2, len(ids))]
        assert all(text.startswith(s) for s in shown), spec
        assert len(shown[2]) > 20 and len(shown[3]) > len(text) - 8, spec


@pytest.mark.parametrize(
    "spec", ["bytes", "sentencepiece(v=512)", "pieces(v=512)", "gzip(v=4096)", "ac(v=256)", *EIW_STREAMS]
)
def test_streams_give_the_text_piece_by_piece(built, spec):
    """A stream decoder returns the document's bytes and text in order, for parts of any size."""
    text = "“It is a truth universally acknowledged”, naïve 日本 said, that a man must be in want of a wife.".encode()
    ids, sizes = built[spec].encode(text), [1, 0, 3, 2, 7] * 20
    decoder, printer = StreamDecoder(built[spec]), StreamDecoder(built[spec])
    bounds = np.cumsum(sizes) if built[spec].restart_tokens else np.array([1, 20, 21])  # decoded from the start
    pieces = np.split(ids, np.minimum(bounds, len(ids)))
    shown = b"".join(decoder.feed_bytes(piece) for piece in pieces)
    assert text.startswith(shown) and len(shown) > len(text) - 8
    assert text.decode().startswith("".join(printer.feed(piece) for piece in pieces))


def test_token_byte_lengths_add_up(built):
    """Token lengths sum to the document's length."""
    text = HOSTILE[-4] + b"some words here"
    for spec in ("bytes", "sentencepiece(v=512)", "eiw(b=12,v=4096)", "eiw(b=16,v=65536)"):
        ids = built[spec].encode(text)
        assert built[spec].token_byte_lengths(ids).sum() == len(text)
    assert built["eiw(b=16,v=256)"].token_byte_lengths([1]) is None


def refused_or_encoded(codec, sequences) -> int:
    """Returns the number of refused sequences; decoded ones must be those that `encode` gives for their text."""
    refused = 0
    for ids in sequences:
        try:
            text = codec.decode(ids)
        except CorruptStream as error:
            assert re.search("truncated|changed", str(error))
            refused += 1
        else:
            assert codec.encode(text).tolist() == np.asarray(ids).tolist()
    return refused


@pytest.mark.thinned(4, "codes texts with M1, token by token")
@pytest.mark.parametrize("spec", [s for s in SPECS if s.startswith(("gzip", "lzma", "static", "ac"))])
def test_ids_of_streams_are_refused_or_what_encode_gives(built, spec):
    """Changed streams are refused, or their text encodes to exactly these ids.

    Streams are truncated, changed, extended, all zeros or all largest ids. No id is ignored.
    """
    codec = built[spec]
    ids, largest = codec.encode(b"It was a dark and stormy night."), codec.vocab_size - 1
    cuts = [ids[:n] for n in range(len(ids))]
    longer = [np.append(ids, tail) for tail in ([0], [0, 0, 0], [largest], [largest] * 3, [1, 2, 3, 4])]
    constant = [np.full(n, value) for value in (0, largest) for n in (1, 2, 7)]
    flips = [np.where(np.arange(len(ids)) == n, ids ^ 1, ids) for n in range(0, len(ids), 5)]
    sequences = cuts + longer + constant + ([] if spec.startswith(("gzip", "lzma")) else flips)
    assert refused_or_encoded(codec, sequences) > 0.5 * len(sequences)
    assert refused_or_encoded(codec, longer[:2]) == 2  # zeros, as a stream reads beyond its end


@pytest.mark.parametrize("spec", ["static_ac(v=256)", "static_ac(v=4096)", "ac(v=256)"])
def test_texts_with_the_roundest_streams_come_back(built, spec):
    """A text in the middle of the number line has a stream of one byte and decodes.

    The decoder reads only a few zeros after its end.
    """
    codec = built[spec]
    streams = [bytes([first]) for first in range(1, 256, 8)]
    if spec.startswith("ac"):
        decoded = codec.m1.engine.decode(streams, overrun=600, limit=5000)
        texts = [found.symbols.tobytes() for found in decoded if found.state is not None]
    else:
        texts = [read_on(stream, codec._cdf) for stream in streams]
    long = [text for text in texts if len(text) > 60][:6]
    assert len(long) > 2 and codec.decode_batch(codec.encode_batch(long)) == long


def read_on(stream: bytes, cdf) -> bytes:
    """Returns the decoded text of a stream that is followed by infinitely many zeros."""
    decoder, symbols = Decoder(stream), []
    while len(symbols) < 5000 and (symbol := decoder.symbol(cdf)) != END:
        symbols.append(symbol)
    return bytes(symbols)


@pytest.mark.thinned(3, "codes texts with M1, token by token")
@pytest.mark.parametrize("spec", [s for s in SPECS if s.startswith("eiw")])
def test_ids_that_are_no_whole_windows_are_refused(built, spec):
    """`decode` refuses a partial window and extra bits; `decode_partial` returns the windows before them."""
    codec = built[spec]
    ids, token_bits = codec.encode(HOSTILE[-1][:200]), codec.vocab_size.bit_length() - 1
    fill = len(ids) * token_bits % codec.window_bits
    if fill:
        with pytest.raises(CorruptStream, match="more bits, which no document ends with"):
            codec.decode(np.append(ids[:-1], ids[-1] | 1))
    if token_bits < codec.window_bits:
        whole = math.lcm(token_bits, codec.window_bits) // token_bits
        broken = np.append(ids[: len(ids) // whole * whole], 1)
        with pytest.raises(CorruptStream, match="truncated or changed"):
            codec.decode(broken)
        assert codec.decode_partial(broken) == codec.decode_partial(broken[:-1]) == codec.decode(broken[:-1])


@pytest.mark.parametrize("spec", SPECS)
def test_foreign_ids_are_refused(built, spec):
    """End-of-document and negative ids raise an error with the valid range."""
    for bad in (built[spec].vocab_size, -1):
        with pytest.raises(InputError, match="whose ids are 0 to"):
            built[spec].decode(np.array([0, bad]))


def test_bad_spellings_say_what_would_be_right(m1):
    """Unknown names, options and values, and missing resources, raise an error with the valid ones."""
    for spec, message in (
        ("eiv(b=16)", "Did you mean eiw"),
        ("eiw(bits=16)", "Its options: b=16, v=65536, align=none"),
        ("eiw(b=x)", "whole number"),
        ("eiw(b=16", "cannot be read"),
        ("gzip(v=5000)", "v=5000 was given to the codec gzip; expected one of 2, 4, .* 65536"),
        ("gzip(v=0)", "v=0 was given to the codec gzip; expected one of 2, 4, .* 65536"),
        ("ac(v=300)", "v=300 was given to the codec ac; expected one of 2, 4, .* 65536"),
        ("eiw(b=16,v=100000)", "v=100000 was given to the codec eiw; expected one of 2, 4, .* 65536"),
        ("eiw(b=12,v=65536)", "at least log2"),
        ("eiw(b=16,align=words)", "expected one of none, word"),
        ("eiw(b=16,m1_reset=2,fill=delay)", "only fill=node can keep M1's context"),
        ("eiw(b=24,fill=best)", "possible up to b=16"),
        ("eiw(b=256)", "without windows, the codec is ac"),
    ):
        with pytest.raises(InputError, match=message.replace("(", r"\(").replace(")", r"\)")):
            codecs.create(spec, m1=m1)
    for v in (-5, 0, 256, 1 << 40):
        with pytest.raises(InputError, match=rf"v={v} was given to the codec bpe; expected a whole number from 258"):
            codecs.create(f"bpe(v={v})", documents=lambda: [b"text"])
    with pytest.raises(InputError, match="no document was given"):
        codecs.create("static_ac", documents=lambda: [])
    with pytest.raises(InputError, match="train-m1"):
        codecs.create("ac")
    with pytest.raises(InputError, match="--corpus"):
        codecs.create("static_ac")
    assert codecs.canonical_spec("eiw(v=4096,b=12,align=none)") == "eiw(b=12,v=4096)"
    assert codecs.canonical_spec("eiw(b=inf,v=256)") == "ac(v=256)"


def test_damaged_codec_directories_are_refused(built, tmp_path):
    """Another version, a changed file and a missing file raise an error with the file and what to do."""
    codecs.save(built["eiw(b=12,v=4096)"], tmp_path)
    header = (tmp_path / "codec.json").read_text()
    weights = (tmp_path / "dictionary.clmd").read_bytes()
    (tmp_path / "dictionary.clmd").write_bytes(weights[:-1])
    with pytest.raises(InputError, match="dictionary.clmd was changed or truncated"):
        codecs.load(tmp_path)
    (tmp_path / "dictionary.clmd").unlink()
    with pytest.raises(InputError, match="dictionary.clmd is missing"):
        codecs.load(tmp_path)
    (tmp_path / "codec.json").write_text(header.replace('"format_version": 1', '"format_version": 9'))
    with pytest.raises(InputError, match="version 9; this package reads version 1"):
        codecs.load(tmp_path)
    with pytest.raises(InputError, match="not a codec directory"):
        codecs.load(tmp_path / "nowhere")
