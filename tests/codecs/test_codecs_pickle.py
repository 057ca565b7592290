"""Codecs pickle, so that other processes and engines can carry them; encoded streams equal batches."""

import concurrent.futures
import copy
import inspect
import io
import pickle
import subprocess
import sys

import numpy as np
import pytest
import sentencepiece

from compressed_lm import codecs
from compressed_lm.codecs import checked
from compressed_lm.codecs.bytes_codec import Bytes
from compressed_lm.errors import InputError

BUILT = [
    *("bytes", "sentencepiece(v=512)", "sentencepiece(model=bpe,v=512)", "bpe(v=512)", "pieces(v=512)"),
    *("gzip(v=256)", "lzma(v=256)", "static_ac(v=256)", "ac(v=256)", "eiw(b=12,v=4096)", "eiw(b=24,v=256)"),
]
SPECS = [
    spec if spec not in ("ac(v=256)", "eiw(b=24,v=256)") else pytest.param(spec, marks=pytest.mark.slow("compiles M1"))
    for spec in (*BUILT, "tokenizers", "sentencepiece of others")
]
DOCUMENTS = [
    b"",
    b"It was a dark and stormy night.",
    b"\xff\x00 <|endoftext|> Gr\xc3\xbc\xc3\x9fe, \xe2\x96\x81",
    b"a" * 70,
]


@pytest.fixture(scope="module")
def built(m1):
    """Returns a dictionary of codecs by spec, each of which has been used."""
    text = [paragraph.encode() for paragraph in inspect.getsource(inspect).split("\n\n")]
    made = {spec: codecs.create(spec, m1=m1, documents=lambda: text) for spec in BUILT}
    content = made["bpe(v=512)"].files()["tokenizer.json"]
    foreign = io.BytesIO()  # as of another program: it would put a space before every text
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(t.decode() for t in text),
        model_writer=foreign,
        vocab_size=512,
        byte_fallback=True,
        minloglevel=2,
    )
    made["sentencepiece of others"] = codecs.FAMILIES["sentencepiece"].of_model(foreign.getvalue())
    made["tokenizers"] = codecs.FAMILIES["tokenizers"](v=0, eod=511, tokenizer=content)
    return made


def lists(encoded):
    return [ids.tolist() for ids in encoded]


@pytest.mark.parametrize("spec", SPECS)
def test_copies_give_the_same_ids(built, spec):
    """A codec that was used, pickled and unpickled has the same fingerprint, attributes, ids and texts."""
    codec = built[spec]
    ids = codec.encode_batch(DOCUMENTS)
    for again in (
        pickle.loads(pickle.dumps(codec)),
        copy.deepcopy(codec),
        pickle.loads(pickle.dumps(codec, protocol=2)),
    ):
        assert type(again) is type(codec) and codecs.eod_id(again) == codecs.eod_id(codec)
        for name in ("spec", "fingerprint", "vocab_size", "flops_per_byte", "m1_hash", "window_bits", "restart_tokens"):
            assert getattr(again, name) == getattr(codec, name)
        assert lists(again.encode_batch(DOCUMENTS)) == lists(ids)
        assert again.decode_batch(ids) == DOCUMENTS
        assert {n: len(c) for n, c in again.files().items()} == {n: len(c) for n, c in codec.files().items()}


class Marked(Bytes):
    """A codec of a user, with state of its own."""

    def __init__(self, mark):
        self.mark = mark


def test_codecs_of_users_pickle():
    """The state of a subclass outside the package is kept, as for any class."""
    again = pickle.loads(pickle.dumps(Marked("own")))
    assert type(again) is Marked and again.mark == "own" and again.encode(b"a").tolist() == [97]


def test_a_codec_pickles_while_other_threads_use_it(built):
    """Threads that encode, and threads that pickle, do not disturb each other."""
    codec = built["pieces(v=512)"]
    wanted = lists(codec.encode_batch(DOCUMENTS))

    def work(i):
        own = pickle.loads(pickle.dumps(codec)) if i % 2 else codec
        return lists(own.encode_batch(DOCUMENTS)) == wanted

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(16)))


LOAD = """
import pickle, sys
codec, documents = pickle.loads(sys.stdin.buffer.read())
ids = codec.encode_batch(documents)
assert codec.decode_batch(ids) == documents
print([i.tolist() for i in ids], "jax" in sys.modules, codec.fingerprint)
"""


def in_another_process(codec):
    """Returns ids, whether JAX was imported, and the fingerprint, of a pickled codec in a new process."""
    run = subprocess.run(
        [sys.executable, "-c", LOAD], input=pickle.dumps((codec, DOCUMENTS)), capture_output=True, check=True
    )
    ids, jax, fingerprint = run.stdout.decode().rsplit(maxsplit=2)
    return ids, jax, fingerprint


@pytest.mark.parametrize("spec", ["pieces(v=512)", "eiw(b=12,v=4096)", "ac(v=256)", "eiw(b=24,v=256)"])
def test_new_processes_load_without_jax(built, spec):
    """A codec unpickles, encodes and decodes in a new process that never imports JAX, also one that runs M1 on CPU."""
    codec = built[spec]
    assert in_another_process(codec) == (str(lists(codec.encode_batch(DOCUMENTS))), "False", codec.fingerprint)


@pytest.mark.slow("compiles M1 in a new process")
@pytest.mark.parametrize("spec", ["ac(v=256)", "eiw(b=24,v=256)"])
def test_codecs_with_m1_load_in_new_processes(built, devices, spec):
    """A codec that has run M1 on devices pickles without what lies on them, and gives the same ids elsewhere."""
    codec = built[spec]
    assert in_another_process(codec) == (str(lists(codec.encode_batch(DOCUMENTS))), "True", codec.fingerprint)


def test_copies_of_m1_share_compiled_programs(built, devices):
    """Unpickling a codec compiles nothing again in the same process."""
    from compressed_lm.codecs import device_m1

    codec = built["ac(v=256)"]
    codec.encode(DOCUMENTS[1])
    before = device_m1._program.cache_info().misses
    pickle.loads(pickle.dumps(codec)).encode(DOCUMENTS[1])
    assert device_m1._program.cache_info().misses == before


@pytest.mark.parametrize("spec", SPECS)
def test_streams_equal_batches(built, spec):
    """`encode_stream` yields the ids of each document, in order, for any iterable of bytes-like objects."""
    codec = built[spec]
    wanted = lists(codec.encode_batch(DOCUMENTS * 2))
    assert lists(codec.encode_stream(memoryview(d) for d in DOCUMENTS * 2)) == wanted
    assert list(codec.encode_stream([])) == []


def test_streams_read_ahead_by_a_bounded_amount(monkeypatch):
    """The first ids come after the stated number of bytes was read; empty documents count as well."""
    monkeypatch.setattr(checked, "STREAM_BYTES", 1000)
    for document, most in ((b"x" * 300, 3), (b"", 16), (b"x" * 5000, 1)):
        taken = []
        stream = Bytes().encode_stream(taken.append(1) or document for _ in range(100))
        assert not taken
        assert next(stream).tolist() == list(document) and len(taken) == most
        assert len(list(stream)) == 99


def test_streams_refuse_what_is_no_stream_of_bytes():
    """One document raises an error at once; a text within the stream raises one with its number."""
    for one in (b"text", "text", np.zeros(3), None):
        with pytest.raises(InputError, match=r"a list of documents was expected\. .* call encode\(data\)"):
            Bytes().encode_stream(one)
    with pytest.raises(InputError, match="document 2, was given a str"):
        list(Bytes().encode_stream(iter([b"a", b"b", "c"])))
