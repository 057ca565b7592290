"""The host and the devices of JAX run M1 with the same bits: each decodes what the other has encoded."""

import os

import numpy as np
import pytest

from compressed_lm import codecs
from compressed_lm.codecs import m1 as m1_module
from compressed_lm.codecs.m1 import VARIABLE, runs_on_host
from compressed_lm.errors import CorruptStream, InputError

SPECS = [
    "ac(v=256)",
    "ac(v=65536)",
    "eiw(b=24,v=256)",
    "eiw(align=word,b=32,v=65536)",
    "eiw(b=64,m1_reset=2,v=256)",
    "eiw(b=24,m1_reset=never,v=256)",
    "eiw(b=128,fill=delay,v=256)",
    "eiw(align=word,b=24,fill=delay,v=256)",
]
TEXT = b"Bits do not depend on the machine; das ist gut so, 1,984 mal.\n\tAnd so on... " * 9
DOCUMENTS = [b"", b"x", TEXT, TEXT[3:66], TEXT[:64], bytes(range(256)), b"\xff" * 90, "Größe 日本".encode() * 7]


def with_engine(name, function, *arguments):
    os.environ[VARIABLE] = name
    try:
        return function(*arguments)
    finally:
        del os.environ[VARIABLE]


@pytest.mark.slow("compiles M1 with JAX")
@pytest.mark.parametrize("spec", SPECS)
def test_ids_are_the_same_and_decode_on_the_other(m1, spec):
    """Ids of hostile documents are the same, and both decode them; random ids decode alike or are refused by both."""
    codec = codecs.create(spec, m1=m1)
    ids = with_engine("host", codec.encode_batch, DOCUMENTS)
    assert [i.tolist() for i in ids] == [i.tolist() for i in with_engine("devices", codec.encode_batch, DOCUMENTS)]
    for engine in ("host", "devices"):
        assert with_engine(engine, codec.decode_batch, ids) == DOCUMENTS
    random = np.random.default_rng(0)
    strange = [random.integers(0, codec.vocab_size, n).astype(np.int32) for n in (1, 2, 3, 5, 8, 40) for _ in range(3)]
    outcomes = {engine: [with_engine(engine, outcome, codec, i) for i in strange] for engine in ("host", "devices")}
    assert outcomes["host"] == outcomes["devices"]


def outcome(codec, ids):
    try:
        return codec.decode(ids)
    except CorruptStream:
        return None


@pytest.mark.slow("compiles M1 with JAX")
def test_frequencies_are_the_same(m1):
    """The tables from which dictionaries are compiled are the same for texts of every length."""
    random = np.random.default_rng(1)
    for length in (0, 1, 2, 7, 31, 32, 33, 63):
        texts = random.integers(0, 256, (70, length)).astype(np.uint8)
        host, devices = (with_engine(name, m1.byte_frequencies, texts) for name in ("host", "devices"))
        assert host.dtype == devices.dtype and np.array_equal(host, devices)


def test_streams_and_batches_of_one_thread_or_several(m1, monkeypatch):
    """Ids do not depend on the number of threads or on how documents are grouped into tasks."""
    from compressed_lm.codecs import host_m1

    documents = [TEXT[i % 60 : i % 60 + 37 * i % 611] for i in range(40)] + [TEXT * 20]
    for spec in ("ac(v=256)", "eiw(b=32,v=256)", "eiw(b=24,fill=delay,v=256)"):
        codec = codecs.create(spec, m1=m1)
        wanted = [ids.tolist() for ids in codec.encode_batch(documents)]
        for threads, task_bytes, slot_bytes in ((1, 4096, 40_960), (3, 100, 50), (8, 1, 1)):
            monkeypatch.setattr(host_m1, "n_threads", lambda n=threads: n)
            monkeypatch.setattr(host_m1, "TASK_BYTES", task_bytes)
            monkeypatch.setattr(host_m1, "SLOT_BYTES", slot_bytes)
            monkeypatch.setattr(host_m1, "STREAMS", slot_bytes)
            monkeypatch.setattr(host_m1, "JOBS", 7)
            ids = list(codec.encode_stream(iter(documents)))
            assert [i.tolist() for i in ids] == wanted
            assert codec.decode_batch(ids) == documents
            assert codec.decode_known(ids, documents) == documents


def test_reading_ahead_is_bounded(m1, monkeypatch):
    """A stream of segments is read a bounded amount ahead of what is yielded."""
    from compressed_lm.codecs import host_m1

    monkeypatch.setattr(host_m1, "SLOT_BYTES", 500)
    slots = host_m1.n_threads() * 16
    for spec, most in (("ac(v=256)", 20 * host_m1.TASK_BYTES), ("eiw(b=32,v=256)", 20 * slots * 500)):
        taken = []
        stream = codecs.create(spec, m1=m1).encode_stream(taken.append(1) or TEXT for _ in range(10**9))
        next(stream)
        assert len(taken) * len(TEXT) < most
        stream.close()


def test_windows_that_decode_to_long_texts(m1, monkeypatch):
    """Codes whose texts exceed the space that is reserved first are decoded all the same."""
    from compressed_lm.codecs import host_m1

    monkeypatch.setattr(host_m1, "SPACE", 0)
    for spec in ("eiw(b=24,v=256)", "eiw(b=24,m1_reset=never,v=256)"):
        codec = codecs.create(spec, m1=m1)
        documents = [b"", TEXT, b"the " * 400]
        assert codec.decode_batch(codec.encode_batch(documents)) == documents


def test_the_engine_can_be_chosen(monkeypatch):
    """The variable chooses the program; without it CPUs get the host's; another value is refused."""
    for value, on_host in (("host", True), ("devices", False), ("auto", True)):
        monkeypatch.setenv(VARIABLE, value)
        assert runs_on_host() == on_host
    monkeypatch.setenv(VARIABLE, "gpu")
    with pytest.raises(InputError, match="COMPRESSED_LM_M1=gpu was given; expected host, devices or auto"):
        runs_on_host()


def test_jax_is_asked_if_it_has_a_plugin(monkeypatch):
    """With a plugin for other devices M1 runs where JAX says; with JAX_PLATFORMS=cpu nobody is asked."""
    monkeypatch.setattr(m1_module, "_has_plugin", lambda: True)
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    assert not m1_module._only_cpu.__wrapped__("") and m1_module._only_cpu.__wrapped__("cpu")
