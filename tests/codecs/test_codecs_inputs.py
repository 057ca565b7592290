"""Inputs of codecs: bytes in any bytes-like object and ids in any array; other types raise an error."""

import array
import inspect
import mmap

import jax.numpy as jnp
import numpy as np
import pytest

from compressed_lm import codecs
from compressed_lm.codecs.streaming import StreamDecoder
from compressed_lm.errors import InputError

SPECS = [
    "bytes",
    "sentencepiece(v=512)",
    "bpe(v=512)",
    "pieces(v=512)",
    "gzip(v=256)",
    "lzma(v=256)",
    "static_ac(v=256)",
    "ac(v=256)",
    "eiw(b=12,v=4096)",
    "tokenizers",
]
TEXT = b"It was a dark and stormy night."


@pytest.fixture(scope="module")
def built(m1):
    """Returns a dictionary of codecs by spec; `tokenizers` has the vocabulary of `bpe`."""
    text = [paragraph.encode() for paragraph in inspect.getsource(inspect).split("\n\n")]
    made = {spec: codecs.create(spec, m1=m1, documents=lambda: text) for spec in SPECS[:-1]}
    bpe = made["bpe(v=512)"]
    return made | {"tokenizers": codecs.FAMILIES["tokenizers"](v=0, eod=511, tokenizer=bpe.files()["tokenizer.json"])}


def mapped(path):
    path.write_bytes(TEXT)
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


@pytest.mark.thinned(2, "builds every codec")
@pytest.mark.parametrize("spec", SPECS)
def test_bytes_in_any_holder_are_encoded(built, spec, tmp_path):
    """A bytearray, a memoryview, a mapped file and NumPy bytes give the ids of the same bytes.

    This holds alone and in a batch.
    """
    codec = built[spec]
    wanted = codec.encode(TEXT).tolist()
    holders = [bytearray(TEXT), memoryview(TEXT), memoryview(TEXT + TEXT)[: len(TEXT)], mapped(tmp_path / "text")]
    holders += [array.array("B", TEXT), np.bytes_(TEXT)]
    assert [ids.tolist() for ids in codec.encode_batch(iter(holders))] == [wanted] * len(holders)
    assert codec.encode(bytearray(TEXT)).tolist() == wanted


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(
    "data",
    ["text", None, [104, 105], 3, 2.5, True, np.frombuffer(TEXT, np.uint8), jnp.arange(3), array.array("i", [1]), {}],
    ids=lambda data: type(data).__name__,
)
def test_what_is_no_bytes_is_refused(built, spec, data):
    """Text, lists and arrays raise an error that names the type and asks for bytes, alone and in a batch."""
    with pytest.raises(InputError, match=r"was given .* to encode; bytes were expected\. Pass .*(encode|tobytes)\("):
        built[spec].encode(data)
    with pytest.raises(InputError, match=r"document 1, was given .* bytes were expected"):
        built[spec].encode_batch([TEXT, data])
    with pytest.raises(InputError, match=r"document 1, was given .* bytes were expected"):
        list(built[spec].encode_stream([TEXT, data]))


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("batch", [TEXT, "text", bytearray(TEXT), memoryview(TEXT), None, 3, {b"a": 1}, {b"a"}])
def test_one_document_is_no_batch(built, spec, batch):
    """A single document instead of a list raises an error; its bytes are not used as ids."""
    with pytest.raises(InputError, match=r"as a batch; a list of documents was expected\. .* call encode\(data\)"):
        built[spec].encode_batch(batch)
    with pytest.raises(InputError, match=r"as a batch; a list of documents was expected\. .* call encode\(data\)"):
        list(built[spec].encode_stream(batch))
    with pytest.raises(InputError, match=r"a list of sequences of ids was expected\. .* call decode\(ids\)"):
        built[spec].decode_batch(batch)


def test_arrays_of_byte_strings_are_refused(built):
    """Arrays of NumPy byte strings are refused, since NumPy drops NUL bytes at their ends."""
    with pytest.raises(InputError, match="drops NUL bytes"):
        built["bytes"].encode_batch(np.array([b"a\0", b"bc"]))
    found = built["bytes"].encode_batch(np.array([b"a\0", b"bc"], object))
    assert [ids.tolist() for ids in found] == [[97, 0], [98, 99]]


@pytest.mark.thinned(3, "builds every codec")
@pytest.mark.parametrize("spec", SPECS)
def test_ids_of_any_array_are_decoded(built, spec):
    """Lists, tuples, ranges, JAX arrays, iterators and lists of NumPy numbers decode alike."""
    codec = built[spec]
    ids = codec.encode(TEXT)
    forms = [ids.tolist(), tuple(ids.tolist()), ids.astype(np.uint64), ids.astype(object), jnp.asarray(ids), list(ids)]
    forms += [np.repeat(ids, 2)[::2], ids.astype(">i4"), array.array("q", ids.tolist()), iter(ids.tolist())]
    assert codec.decode_batch(forms) == [TEXT] * len(forms)
    assert codec.decode(ids.astype(np.uint16)) == TEXT == codec.decode_batch(np.stack([ids, ids]))[1]
    for nothing in ([], np.array([]), ()):
        assert codec.decode_partial(nothing) == b""


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(
    "ids",
    [
        *([1.5], [1.0], np.array([1.0]), [1, 2.5], [float("nan")], [1j], [True, False], [1, True], np.array([True])),
        *([[1, 2]], [[]], np.zeros((0, 3), int), [[1], [2, 3]], 1, np.int32(1), None, {1}, {1: 2}, [None], object()),
        *("12", b"12", bytearray(b"12"), memoryview(b"12"), ["1"], [b"1"], np.array(["2020"], "M8[Y]")),
    ],
    ids=lambda ids: repr(ids).partition(" at 0x")[0],  # the same in all processes
)
def test_what_is_no_ids_is_refused(built, spec, ids):
    """Fractions, booleans, text, bytes, rows and single numbers raise an error with the expected type.

    This holds for every method that accepts ids; none is truncated to integers.
    """
    codec = built[spec]
    for take in (codec.decode, codec.decode_partial, codec.token_byte_lengths, StreamDecoder(codec).feed):
        with pytest.raises(
            InputError, match=r"was given .* as ids.*; a one-dimensional sequence of whole numbers, int\[T\], was"
        ):
            take(ids)
    with pytest.raises(InputError, match=r"sequence 1, was given .* a one-dimensional sequence of whole numbers"):
        codec.decode_batch([[], ids])
    with pytest.raises(InputError, match=r"sequence 1, was given .* a one-dimensional sequence of whole numbers"):
        codec.decode_known([[], ids], [b"", b""])


@pytest.mark.parametrize("spec", SPECS)
def test_numbers_out_of_range_are_refused(built, spec):
    """Ids outside the vocabulary, or beyond 32 or 64 bits, raise an error with the valid range.

    None wraps around.
    """
    codec = built[spec]
    top = codec.vocab_size
    for ids in ([top], [-1], [0, 2**31], [2**32], [2**63], [2**63, -1], [2**70], [-(2**70)], [2**64 + 1]):
        for given in (ids, np.array(ids, object)):
            with pytest.raises(InputError, match=f"whose ids are 0 to {top - 1}. Remove end-of-document"):
                codec.decode(given)
    with pytest.raises(InputError, match="whose ids are 0 to"):
        codec.token_byte_lengths([-1])


def test_tensors_of_pytorch_are_ids(built):
    """An integer tensor decodes; a float tensor, or one with a gradient, raises an error."""
    torch = pytest.importorskip("torch")
    codec = built["bytes"]
    assert codec.decode(torch.tensor([104, 105])) == b"hi"
    for ids in (torch.tensor([1.0]), torch.ones(2, requires_grad=True), torch.ones(2, dtype=torch.bfloat16)):
        with pytest.raises(InputError, match="a one-dimensional sequence of whole numbers"):
            codec.decode(ids)
